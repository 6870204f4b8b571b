"""Signals on their way to the job: what a process sends us is passed on, once."""

import fcntl
import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, is_alive, pending, state

_USUAL = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"]
_OTHERS = ["ALRM", "VTALRM", "PROF", "IO", "PWR", "XCPU", "RTMIN", "RTMAX"]


@behaviour(
    "a signal sent by a process: SIGTERM, SIGHUP, SIGUSR1, SIGALRM, SIGWINCH, SIGPWR, SIGRTMIN, …",
    bare="reaches it",
    ours="reaches it, once; what it means is the job's to say. All but SIGSTOP, SIGTTIN and SIGTTOU, which stop us"
    " alone, SIGKILL and SIGCHLD",
)
@pytest.mark.parametrize("name", [*_USUAL, *_OTHERS, "WINCH", "URG"])
def test_a_signal_sent_to_us_reaches_the_job_once(host: Host, name: str) -> None:
    """The job decides what it means, as if it had been sent to it."""
    # A byte in the pipe for each signal, written at once: a handler in Python would wait for the next bytecode.
    program = (
        "import os,select,signal\n"
        "told, tell = os.pipe()\n"
        "os.set_blocking(tell, False)\n"
        "signal.set_wakeup_fd(tell)\n"
        f"signal.signal(signal.SIG{name}, lambda *_: None)\n"
        "print('ready', flush=True)\n"
        "count = 0\n"
        "while told in select.select([0, told], [], [])[0]:\n"
        "    count += len(os.read(told, 100))\n"
        "    os.write(1, b'got\\n')\n"
        "print(count, flush=True)\n"
    )
    job = host.start(*QUEUE, "--", sys.executable, "-c", program, stdin=subprocess.PIPE, start_new_session=True)
    assert job.stdout is not None
    assert job.stdout.readline() == b"ready\n"

    job.send_signal(getattr(signal, f"SIG{name}"))
    assert job.stdout.readline() == b"got\n"
    wait_until(lambda: pending(job.pid) == 0)
    output, _ = job.communicate()

    assert output == b"1\n"
    assert job.returncode == 0


@behaviour("a signal that the job doesn't handle", bare="ends it, by that signal", ours="the same: we die of it too")
@pytest.mark.parametrize("name", [*_USUAL, *_OTHERS, "PIPE", "XFSZ", "STKFLT", "ABRT", "SEGV"])
def test_a_signal_sent_to_us_ends_an_ordinary_job(host: Host, name: str) -> None:
    """No orphan is left, and the caller sees the death that it ordered."""
    signum = getattr(signal, f"SIG{name}")
    job = host.start(*QUEUE, "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert job.stdout is not None
    child = int(job.stdout.readline())

    job.send_signal(signum)
    job.communicate(timeout=30)

    assert (job.returncode, state(child)) == (-signum, "")
    assert host.report()["outcome"] == "killed"


@behaviour("an alarm that its caller has set (`perl -e 'alarm 60; exec @ARGV' …`)", bare="ends it")
@pytest.mark.parametrize("command", [[], [AURA_RUN, *QUEUE, "--retries", "9", "--"]], ids=["bare", "aura-run"])
def test_an_alarm_around_us_ends_the_job(host: Host, command: list[str]) -> None:
    """It outlives exec, and no process sends its signal: it is meant for the job all the same, and ends the retries."""
    alarm = "import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, 0.5); os.execv(sys.argv[1], sys.argv[1:])"
    job = [*command, "/bin/sh", "-c", "echo $$; exec sleep 1000"]

    done = subprocess.run(
        [sys.executable, "-c", alarm, *job], env=host.environment, stdout=subprocess.PIPE, timeout=60, check=False
    )

    (pid,) = done.stdout.split()
    assert (done.returncode, state(int(pid))) == (-signal.SIGALRM, "")


@behaviour("SIGTSTP and SIGCONT sent by a process", bare="it stops, and goes on", ours="job and aura-run do")
def test_a_stop_sent_to_us_stops_job_and_wrapper(host: Host) -> None:
    """Whoever waits for us sees the stop; SIGCONT lets both go on."""
    # A group of its own in our session: in an orphaned one the kernel discards SIGTSTP (setpgid(2), signal(7)).
    job = host.start(*(*QUEUE, "--", "sh", "-c", "echo $$; read x; exit 5"), stdin=subprocess.PIPE, process_group=0)
    assert job.stdout is not None
    child = int(job.stdout.readline())

    job.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert (state(job.pid), state(child)) == ("T", "T")
    job.send_signal(signal.SIGCONT)
    wait_until(lambda: (state(job.pid), state(child)) == ("S", "S"))
    job.communicate(b"\n")

    assert job.returncode == 5


@behaviour(
    "one signal by a process to the whole process group",
    bare="once",
    ours="up to twice: directly and through us, who can't tell that the job has it; so too by a unit's `KillMode=control-group`",
)
def test_a_signal_to_the_whole_group_is_not_lost(host: Host) -> None:
    """The job hears it; the second may merge with the first while that is pending (signal(7))."""
    job = host.start(
        *(*QUEUE, "--", "bash", "-c", "trap 'echo got' USR1; echo ready; read x; echo end"),
        stdin=subprocess.PIPE,
        process_group=0,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == b"ready\n"
    os.killpg(job.pid, signal.SIGUSR1)
    assert job.stdout.readline() == b"got\n"
    wait_until(lambda: pending(job.pid) == 0)
    output, _ = job.communicate(b"\n")

    assert job.returncode == 0
    assert output in (b"end\n", b"got\nend\n")


@behaviour(
    "SIGTERM by a process to the whole process group, with `--timeout`",
    bare="ends it and its children",
    ours="the same: passed on to the group that the job has of its own",
)
@pytest.mark.parametrize(
    "command", [[], [AURA_RUN, *QUEUE, "--timeout", "1000s", "--"]], ids=["bare", "aura-run --timeout"]
)
def test_a_signal_to_our_group_reaches_the_group_of_a_job_with_a_timeout(host: Host, command: list[str]) -> None:
    """Nobody of the job is left behind, be it `timeout` around us or `kill -- -PGID`."""
    job = subprocess.Popen(
        [*command, "sh", "-c", "sleep 1000 & echo $!; wait"],
        env=host.environment,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert job.stdout is not None
    child = int(job.stdout.readline())

    os.killpg(job.pid, signal.SIGTERM)
    job.communicate(timeout=30)

    assert job.returncode == -signal.SIGTERM
    wait_until(lambda: not is_alive(child))


@behaviour(
    "`kill PID`, with `--timeout`",
    bare="reaches it, not its children",
    ours="what ends, stops or continues a job reaches its children too, as with `timeout D`; all else it alone",
)
def test_a_signal_that_only_tells_something_is_for_the_job_alone(host: Host) -> None:
    """Its children may know nothing of SIGUSR1, and would die of it; but they stop and end together."""
    script = "sleep 1000 & echo $!; trap 'echo told' USR1; while wait; test $? -gt 128; do :; done"
    job = host.start(*QUEUE, "--timeout", "1000s", "--", "bash", "-c", script, process_group=0)
    assert job.stdout is not None
    child = int(job.stdout.readline())

    job.send_signal(signal.SIGUSR1)
    assert job.stdout.readline() == b"told\n"
    assert is_alive(child)
    job.send_signal(signal.SIGTSTP)
    os.waitpid(job.pid, os.WUNTRACED)
    wait_until(lambda: state(child) == "T")
    job.send_signal(signal.SIGCONT)
    wait_until(lambda: state(child) == "S")
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)

    assert job.returncode == -signal.SIGTERM
    wait_until(lambda: not is_alive(child))


_SLOW_DISK = """
import fcntl, os
def take_your_time(_):
    open("syncing", "w").close()
    with open("disk") as disk:
        fcntl.flock(disk, fcntl.LOCK_SH)
os.fdatasync = take_your_time
from aura_agent.wrapper.main import main
main()
"""


def test_a_slow_disk_holds_up_no_signal(host: Host) -> None:
    """The start of a run that takes a while is synced beside it: whoever stops the job meanwhile isn't kept waiting."""
    with (host.home / "disk").open("w") as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        job = subprocess.Popen(
            [sys.executable, "-c", _SLOW_DISK, *QUEUE, "--", "sh", "-c", "echo $$; exec sleep 1000"],
            env=host.environment,
            cwd=host.home,
            stdout=subprocess.PIPE,
        )
        assert job.stdout is not None
        child = int(job.stdout.readline())
        wait_until((host.home / "syncing").exists)

        job.terminate()
        wait_until(lambda: not is_alive(child))
    job.communicate(timeout=30)

    assert job.returncode == -signal.SIGTERM
    assert host.report()["outcome"] == "killed"


@behaviour("a signal while it starts", bare="ends it", ours="the same: no job, or one that has got it, and no orphan")
def test_a_signal_while_we_start_leaves_no_orphan(host: Host) -> None:
    """At any moment from our own exec to well after the job's."""
    duration = f"1000.{os.getpid()}"
    for delay_ms in range(30):
        job = host.start(*QUEUE, "--", "sleep", duration)
        select.select([], [], [], delay_ms / 1000)  # no wait for anything: the moments are what is tried
        job.terminate()
        job.communicate()
        assert job.returncode == -signal.SIGTERM

    assert not [pid for pid in psutil.pids() if duration in _arguments(pid)]


def _arguments(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []

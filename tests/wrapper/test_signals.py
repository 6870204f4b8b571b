"""Signals on their way to the job: what a process sends us is passed on, once."""

import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import QUEUE, Host, pending, state


@behaviour(
    "SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH sent by a process",
    bare="reaches it",
    ours="reaches it, once; what it means is the job's to say",
)
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
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
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_a_signal_sent_to_us_ends_an_ordinary_job(host: Host, name: str) -> None:
    """No orphan is left, and the caller sees the death that it ordered."""
    signum = getattr(signal, f"SIG{name}")
    job = host.start(*QUEUE, "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert job.stdout is not None
    child = int(job.stdout.readline())

    job.send_signal(signum)
    job.communicate()

    assert (job.returncode, state(child)) == (-signum, "")
    assert host.report()["outcome"] == "killed"


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

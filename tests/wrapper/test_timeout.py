"""--timeout, --retries, --success-codes: what aura-run does only if it is told to."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.sites import Site
from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, children, is_alive, state

_TIMEOUT = (*QUEUE, "--timeout", "2s", "--kill-after", "300ms")  # time enough for a busy machine to start the job


@behaviour(
    "`--timeout D`, and D has passed",
    bare="`timeout D`: SIGTERM to it and its group, 124",
    ours="SIGTERM, then SIGKILL to the whole tree, with whoever left its group or session; 124",
)
def test_the_timeout_ends_the_whole_tree(host: Host) -> None:
    """Children that left the group and the session too; 124, and the reason is told."""
    script = "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait"

    ended = host.run(*QUEUE, "--timeout", "500ms", "--kill-after", "300ms", "--", "sh", "-c", script)

    assert ended.returncode == 124
    assert b"timed out after 0.5s" in ended.stderr
    for pid in ended.stdout.split():
        wait_until(lambda pid=pid: not is_alive(int(pid)))  # type: ignore[misc]
    assert host.report()["outcome"] == "timed_out"


def test_a_signal_cuts_short_the_wait_for_what_a_timed_out_job_has_left(host: Host) -> None:
    """The job has ended as it was asked to, its child doesn't hear: told to stop, we don't wait for that."""
    script = "trap '' TERM; sleep 1000 & echo $!; trap - TERM; wait"
    job = host.start(*QUEUE, "--timeout", "500ms", "--kill-after", "1000s", "--", "sh", "-c", script)
    assert job.stdout is not None
    left = int(job.stdout.readline())
    wait_until(lambda: children(job.pid) == [left])

    job.terminate()
    _, errors = job.communicate(timeout=30)

    assert (job.returncode, is_alive(left)) == (124, False)
    assert b"SIGKILL at a signal to us" in errors
    assert host.report()["outcome"] == "timed_out"


@behaviour("`--retries N`, and it fails", bare="-", ours="is run again; the last attempt is the outcome")
def test_retries_are_one_outcome(host: Host) -> None:
    """The deciding attempt is the last; a failed one that is retried withdraws nothing."""
    script = "echo x >>tries; test $(wc -l <tries) = 3"

    ended = host.run(*QUEUE, "--retries", "5", "--retry-delay", "0s", "--", "sh", "-c", script)

    assert ended.returncode == 0
    report = host.report()
    assert (report["outcome"], report["attempts"]) == ("succeeded", "3")


def test_a_terminating_signal_ends_the_retries(host: Host) -> None:
    """Told to stop, we don't start the job again."""
    job = host.start(*QUEUE, "--retries", "5", "--retry-delay", "100s", "--", "sh", "-c", "echo x >>tries; exit 7")
    wait_until((host.home / "tries").exists)
    wait_until(lambda: not Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text())
    job.terminate()
    _, errors = job.communicate(timeout=30)

    assert (job.returncode, errors) == (7, b"")
    assert (host.home / "tries").read_text() == "x\n"


@behaviour("Ctrl-Z, or SIGTSTP by a process, in the pause before a retry", bare="-", ours="stops the pause")
def test_the_pause_before_a_retry_can_be_stopped(host: Host) -> None:
    """As anything else in the foreground; and it goes on, and ends, as it is told."""
    job = host.start(*QUEUE, "--retries", "5", "--retry-delay", "100s", "--", "sh", "-c", "exit 7", process_group=0)
    wait_until((host.state / "runs").exists)
    wait_until(lambda: not children(job.pid) and state(job.pid) == "S")

    job.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    assert (os.WIFSTOPPED(status), state(job.pid)) == (True, "T")
    job.send_signal(signal.SIGCONT)
    wait_until(lambda: state(job.pid) == "S")
    job.terminate()
    job.communicate(timeout=30)

    assert job.returncode == 7


@behaviour("`--success-codes 0,3`, and it exits with 3", bare="3", ours="3, and a ping")
def test_success_codes_count_as_success(host: Host) -> None:
    """The status stays the job's own; the ping is earned."""
    assert host.run(*QUEUE, "--success-codes", "0,3", "--", "sh", "-c", "exit 3").returncode == 3
    assert host.report()["outcome"] == "succeeded"


def test_the_timeout_ends_a_daemon_that_the_job_became(host: Host) -> None:
    """Re-parented, in a session of its own, without any descriptor of ours: still the job's."""
    program = (
        "import os,time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    nothing = os.open('/dev/null', os.O_RDWR)\n"
        "    for fd in range(3): os.dup2(nothing, fd)\n"
        "    open('pid', 'w').write(f'{os.getpid()}')\n"
        "    os.execvp('sleep', ['sleep', '1000'])\n"
        "time.sleep(1000)\n"
    )

    ended = host.run(*_TIMEOUT, "--", sys.executable, "-c", program)

    assert ended.returncode == 124
    pid = int((host.home / "pid").read_text())
    wait_until(lambda: not is_alive(pid))  # what got SIGKILL has yet to be scheduled where the machine is busy


@behaviour(
    "`--timeout` in a pipeline, in a shell", bare="-", ours="neither the pipeline nor cron's shell gets a signal"
)
def test_the_timeout_leaves_our_surroundings_alone(host: Host) -> None:
    """The shell around us goes on, so does its own background process, and the pipeline's reader sees our end."""
    script = (
        'sleep 1000 & "$@" sh -c "echo started; exec sleep 1000" | cat; echo ${PIPESTATUS[@]}; kill -0 $! && kill $!'
    )
    command = [AURA_RUN, *_TIMEOUT, "--"]

    done = subprocess.run(
        ["bash", "-c", script, "bash", *command], env=host.environment, capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (0, b"started\n124 0\n")


@behaviour("`--timeout` of a job that Ctrl-Z or a debugger has stopped", bare="-", ours="is woken up to end")
def test_the_timeout_ends_a_stopped_job(host: Host) -> None:
    """A stopped process would hear of SIGTERM only when somebody lets it go on."""
    ended = host.run(*QUEUE, "--timeout", "1s", "--", "sh", "-c", "trap 'echo asked; exit 1' TERM; kill -STOP $$")

    assert (ended.returncode, ended.stdout) == (124, b"asked\n")


def test_the_reason_of_a_timeout_is_on_stderr_and_in_the_history(site: Site) -> None:
    """Whoever asks at 3 a.m. why there was no ping."""
    site.server.create_heartbeat("beat")
    site.start()
    ended = site.run("-H", "beat", "--timeout", "200ms", "--", "sleep", "1000")

    (run,) = json.loads(site.agent("history", "sleep", "--json").stdout)
    assert (ended.returncode, run["outcome"]) == (124, "timed_out")
    assert ended.stderr.decode() == f"aura-run: {run['reason']}\n"
    assert "timed out after 0.2s" in run["reason"]
    assert site.server.pings("beat") == []


@pytest.mark.parametrize("options", [["--attach", "output"], ["--quiet"]])
def test_a_reader_that_does_not_read_outlives_no_timeout(host: Host, options: list[str]) -> None:
    """As the bare job under timeout(1): it is over, though nobody took what it had to say."""
    job = host.start(*QUEUE, *options, "--timeout", "500ms", "--", "yes")

    assert job.wait(timeout=30) == 124
    assert host.report()["outcome"] == "timed_out"
    job.communicate()


def test_a_full_stderr_that_nobody_reads_keeps_no_timeout_from_its_end(host: Host) -> None:
    """The reason of the end finds no room there: the status and the report matter more."""
    job = host.start(*QUEUE, "--timeout", "500ms", "--", "sh", "-c", "exec yes >&2")

    assert job.wait(timeout=30) == 124
    assert host.report()["outcome"] == "timed_out"
    job.communicate()


@pytest.mark.parametrize("before_s", ["0.01", "0.02", "0.03"])
def test_a_wrapper_that_is_stopped_for_a_while_goes_on_as_if_nothing_had_been(host: Host, before_s: str) -> None:
    """As a debugger or a freezer does it, here in the first moments, when aura-run waits with a deadline."""
    script = f"sleep {before_s}; kill -STOP $PPID; sleep .1; kill -CONT $PPID; sleep .1; exit 3"

    ended = host.run(*QUEUE, "--", "sh", "-c", script)

    assert (ended.returncode, ended.stderr) == (3, b"")
    assert host.report()["code"] == "3"


def test_a_signal_to_us_reaches_a_job_with_a_timeout(host: Host) -> None:
    """It has a group of its own then, so that nobody else can tell it."""
    job = host.start(*QUEUE, "--timeout", "1000s", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert job.stdout is not None
    child = int(job.stdout.readline())
    job.terminate()
    job.communicate()

    assert (job.returncode, state(child)) == (-signal.SIGTERM, "")

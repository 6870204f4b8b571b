"""aura-run's own lines where stderr doesn't take them: the job, its status and its signals are not affected."""

import fcntl
import os
import pty
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.waiting import wait_until
from tests.wrapper.runs import QUEUE, Host

F_SETPIPE_SZ = 1031


def _full_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    size = fcntl.fcntl(write, F_SETPIPE_SZ, 1)
    os.write(write, b"\n" * size)
    return read, write


def _non_blocking_pipe() -> tuple[int, int]:
    read, write = _full_pipe()
    os.set_blocking(write, False)
    return read, write


def _dead_reader() -> tuple[int, int]:
    read, write = os.pipe()
    os.close(read)
    return os.open(os.devnull, os.O_RDONLY), write


def _full_disk() -> tuple[int, int]:
    return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


def _dead_terminal() -> tuple[int, int]:
    controller, terminal = pty.openpty()
    os.close(controller)
    return os.open(os.devnull, os.O_RDONLY), terminal


@pytest.mark.parametrize(
    "opening",
    [_full_pipe, _non_blocking_pipe, _dead_reader, _full_disk, _dead_terminal],
    ids=lambda opening: opening.__name__[1:],
)
def test_stderr_that_takes_no_line_changes_nothing(host: Host, opening: Callable[[], tuple[int, int]]) -> None:
    """Lines before, beside and after the job (a broken config, attempts that can't start, no heartbeat)."""
    (host.home / "broken.toml").write_text("[jobs\n")
    other, stderr = opening()
    host.extra["AURA_CONFIG"] = str(host.home / "broken.toml")
    options = {"capture_output": False, "stderr": stderr}

    succeeded = host.run(*QUEUE, "--", "true", **options)
    not_started = host.run(*QUEUE, "--retries", "3", "--retry-delay", "0s", "--", "/nonexistent", **options)
    unnamed = host.run("--no-wait", "--", "sh", "-c", "exit 3", **options)
    os.close(stderr)
    os.close(other)

    assert (succeeded.returncode, not_started.returncode, unnamed.returncode) == (0, 127, 3)
    assert [report["outcome"] for report in host.reports()] == ["succeeded", "not_started"]


def test_signals_reach_the_job_while_a_line_waits_for_its_reader(host: Host) -> None:
    """The line comes when the reader does, though the job still runs."""
    (host.home / "broken.toml").write_text("[jobs\n")
    host.extra["AURA_CONFIG"] = str(host.home / "broken.toml")
    read, write = _full_pipe()
    script = 'trap "touch heard; exit 4" USR1; touch up; while :; do sleep 0.02; done'
    ours = host.start(*QUEUE, "--", "sh", "-c", script, stderr=write, stdout=subprocess.DEVNULL)
    os.close(write)
    wait_until(lambda: list(host.state.glob("warned/*")) and (host.home / "up").exists())  # it is about to print

    with os.fdopen(read, "rb") as pipe:
        lines = iter(pipe)
        said = next(line for line in lines if line.strip())
        assert ours.poll() is None
        ours.send_signal(signal.SIGUSR1)
        assert ours.wait(timeout=60) == 4

    assert said.startswith(b"aura-run: ")
    assert b"broken.toml" in said
    assert (host.home / "heard").exists()


def test_held_output_of_a_failed_job_waits_for_no_reader_after_a_signal(host: Host) -> None:
    """--quiet prints what it held back; SIGTERM ends that, as it would have ended the job that writes."""
    read, write = _full_pipe()
    ours = host.start(
        *QUEUE,
        "--quiet",
        "--",
        "sh",
        "-c",
        "seq 100000 >&2; touch done; exit 3",
        stderr=write,
        stdout=subprocess.DEVNULL,
    )
    wait_until((host.home / "done").exists)
    ours.terminate()

    ours.wait(timeout=60)
    os.close(read)
    os.close(write)
    assert host.report()["outcome"] != "succeeded"


def test_control_characters_of_a_name_reach_no_terminal_or_log(host: Host) -> None:
    """A line stays one line, whatever the heartbeat is called."""
    run = host.run("-H", "a\nb\x1b[2J\xe4", "--", "true")

    (line,) = run.stderr.splitlines()
    assert line.startswith("aura-run: ping for a?b?[2J\xe4 waits: ".encode())

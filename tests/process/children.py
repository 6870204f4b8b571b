"""Starting real processes in tests, and making sure that none is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.waiting import wait_until

SLEEP = "import signal, sys, time; print('ready', flush=True); signal.pause()"


def python(
    code: str, *arguments: str, session: bool = True, text_env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start Python on *code*, with a pipe for its stdout."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=session,
        env=text_env,
    )


def read_numbers(process: subprocess.Popen[str], count: int) -> list[int]:
    """Read *count* lines, each a pid."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def ended_afterwards(process: subprocess.Popen[str], pids: list[int] | None = None) -> Iterator[None]:
    """Kill *process* and the *pids* (of processes that this test started) when the block ends."""
    known = pids if pids is not None else []
    try:
        yield
    finally:
        for pid in known:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        wait_until(lambda: not any(is_alive(pid) for pid in known), what="the test's processes are gone")

"""Processes of a chaos run: how they are started, killed and stopped, and how the load's are kept from running."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.e2e.sites import Site

Process = subprocess.Popen[bytes]


def start(site: Site, *argv: str, environment: Mapping[str, str] | None = None) -> Process:
    """Start one of the site's programs; its messages go into the site's log."""
    with site.log.open("ab") as log:
        return subprocess.Popen(
            argv,
            env=site.environment if environment is None else environment,
            cwd=site.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def kill_after(process: Process, seconds: float) -> bool:
    """Kill -9 in so long, unless it ends before that by itself; return whether it was killed."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def stop_for(process: Process, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after *seconds*, unless the process ends before that by a kill."""
    process.send_signal(signal.SIGSTOP)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGCONT)


class Gate:
    """Lets the load's jobs run, or none of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._is_shut = False

    @contextmanager
    def job(self) -> Iterator[None]:
        """Wait until jobs may run; one does while in the context."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Wait until no job runs; none begins while in the context."""
        with self._changed:
            self._is_shut = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._is_shut = False
                self._changed.notify_all()

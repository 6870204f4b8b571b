"""Ends the process when an orderly stop does not come to its end: a hung disk may hold up any part of it.

A thread of its own does so, since the event loop may wait for what hangs, and so does the interpreter at its exit.
"""

import os
import select
import threading
from typing import NoReturn

_STDERR = 2
_PATIENCE_MS = 1000  # for a reader of stderr that may hang, too


class LastResort:
    """Ends the process with status 1 and a line on stderr, unless it has ended before."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def end_within(self, limit_s: float) -> None:
        """Allow *limit_s* from now on; an earlier limit does not count any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(limit_s, _end, (limit_s,))
        self._timer.daemon = True
        self._timer.start()


def leave(text: str) -> NoReturn:
    """End the process at once with status 1 and *text* on stderr; what hangs in the disk is left to the kernel."""
    try:
        _write_line(f"aura-agent: {text}")
    finally:
        os._exit(1)


def _end(limit_s: float) -> None:
    what = "a part of it hangs, check the state directory's disk"
    leave(f"not stopped within {limit_s:.0f} s: {what}; ended all the same")


def _write_line(line: str) -> None:
    room = select.poll()
    room.register(_STDERR, select.POLLOUT)
    if room.poll(_PATIENCE_MS):
        os.write(_STDERR, line.encode() + b"\n")

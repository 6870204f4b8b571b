"""How much memory the processes of jobs hold together, looked at now and then while they run.

The kernel keeps a peak for each process only (getrusage(2)); the sum over a job's processes has to be seen.
"""

import asyncio
import os
from collections.abc import Container

_FIRST_LOOK_S = 1.0
_LOOK_EVERY_S = 5.0


class MemoryPeaks:
    """Looks at all watched sessions at once, first after a second: short runs cost nothing. No look if none runs."""

    def __init__(self) -> None:
        self._peaks: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, session: int) -> None:
        """Begin with *session*, a job's: the pid of its first process."""
        self._peaks[session] = 0
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FIRST_LOOK_S, self._look)

    def take(self, session: int) -> int:
        """Stop watching; return the most that was seen, in bytes, 0 if nobody looked while it ran."""
        peak = self._peaks.pop(session)
        if not self._peaks and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return peak

    def _look(self) -> None:
        for session, resident_bytes in resident(self._peaks).items():
            self._peaks[session] = max(self._peaks[session], resident_bytes)
        self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)


def resident(sessions: Container[int]) -> dict[int, int]:
    """Return how many bytes the processes of each session have in RAM; what they share counts for each of them."""
    import psutil  # not before it is needed: 10 ms of the daemon's start

    found: dict[int, int] = {}
    try:
        pids = psutil.pids()
    except (OSError, IndexError):  # no /proc
        return {}
    for pid in pids:
        try:
            session = os.getsid(pid)
            if session in sessions:
                found[session] = found.get(session, 0) + psutil.Process(pid).memory_info().rss
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile
    return found

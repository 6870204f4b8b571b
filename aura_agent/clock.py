"""The two clocks that the agent reads, and how they are told to tests.

Wall time says when something happened for people; it may be wrong and may jump. CLOCK_BOOTTIME says how much time
has passed within one boot, suspend included (clock_gettime(2)). Which boot it was is counted by the state directory.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from aura_agent.boot_time import namespace_offset_ns


class Reading(NamedTuple):
    """Both clocks, read together: nanoseconds since this boot, nanoseconds since the Unix epoch."""

    boot_ns: int
    wall_ns: int

    @property
    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.wall_ns / 1e9, UTC)


class Clock(Protocol):
    """Where the time comes from: the system, or a test."""

    def read(self) -> Reading: ...


def until_beat_s(now_s: float, period_s: float) -> float:
    """Return how long to sleep until a multiple of *period_s* by the clock that shows *now_s*.

    A beat that is nearer than a twentieth of the period is left out: a timer may have been early. Parts of an idle
    process that look up now and then do so together.
    """
    return period_s - (now_s + period_s / 20) % period_s + period_s / 20


class SystemClock:
    """The kernel's clocks; CLOCK_BOOTTIME is the host's, whatever time namespace we are in."""

    def __init__(self) -> None:
        self._offset_ns = namespace_offset_ns()

    def read(self) -> Reading:
        return Reading(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._offset_ns, time.time_ns())

"""The two clocks that the agent reads, and how they are told to tests.

Wall time says when something happened for people; it may be wrong and may jump. CLOCK_BOOTTIME says how much time
has passed within one boot, suspend included (clock_gettime(2)). Which boot it was is counted by the state directory.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


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


class SystemClock:
    """The kernel's clocks."""

    def read(self) -> Reading:
        return Reading(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())

"""An oracle that knows nothing of our code: cronie's main loop, minute by minute, on a table of wall times.

It follows the published behaviour of cronie's src/cron.c (main, find_jobs) and src/entry.c (the star flags): what
matches when the clocks are moved, and which of the two kinds of jobs each case runs.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  wall times have no zone


@dataclass(frozen=True)
class Job:
    """An expression as sets: what the generator meant, not what a parser understood. Weekdays: Sunday is 0."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]  # 0 stands for the last one
    months: frozenset[int]
    weekdays: frozenset[int]
    seconds: frozenset[int] | None = None

    @property
    def columns(self) -> list[str]:
        return self.text.split()[-5:]

    @property
    def wildcard(self) -> bool:
        return self.columns[0].startswith("*") or self.columns[1].startswith("*")

    def matches(self, wall_minutes: int) -> bool:
        hours, minute = divmod(wall_minutes, 60)
        if minute not in self.minutes or hours % 24 not in self.hours:
            return False
        wall = EPOCH + wall_minutes * MINUTE
        last = wall.day == monthrange(wall.year, wall.month)[1]
        day = wall.day in self.days or (last and 0 in self.days)
        weekday = (wall.weekday() + 1) % 7 in self.weekdays
        if wall.month not in self.months:
            return False
        if self.columns[2].startswith("*") or self.columns[4].startswith("*"):
            return day and weekday
        return day or weekday


def minutes_from(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, int]]:
    """Return each UTC minute of [start, end) with its wall time in minutes."""
    table = []
    at = start.replace(second=0, microsecond=0)
    while at < end:
        wall = at.astimezone(zone).replace(tzinfo=None)
        table.append((at, (wall - EPOCH) // MINUTE))
        at += MINUTE
    return table


def fires(job: Job, table: list[tuple[datetime, int]]) -> Iterator[datetime]:
    """Yield when crond would start *job*, in UTC; with seconds, each second of a minute that fires for itself.

    A minute that is only made up for counts once, at the first second of the minute after the jump.
    """
    virtual, wildcard = table[0][1], job.wildcard
    for at, running in table[1:]:
        own = made_up = False
        difference = running - virtual
        if difference == 1 or abs(difference) > 180:  # the usual case; a clock that jumped
            virtual = running
            own = job.matches(running)
        elif difference > 0:  # daylight saving begins
            own = wildcard and job.matches(running)
            while virtual < running:
                virtual += 1
                if not wildcard and job.matches(virtual):
                    own, made_up = own or virtual == running, made_up or virtual < running
        else:  # daylight saving ends
            own = wildcard and job.matches(running)
        if job.seconds is None:
            if own or made_up:
                yield at
        else:
            seconds = (job.seconds if own else frozenset()) | (frozenset({0}) if made_up else frozenset())
            yield from (at + timedelta(seconds=second) for second in sorted(seconds))

"""When a time zone's clocks change, in integer seconds since the Unix epoch.

zoneinfo tells an offset for an instant, and no more. The search for fire times needs the changes themselves:
between two of them wall time is UTC plus a constant, which makes gaps and repeats plain comparisons.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY_S = 86_400
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_LAST_YEAR = 9998  # datetime ends with 9999, and local time may be ahead of UTC
_STRIDE_S = 4 * DAY_S  # no zone of the database has changed twice within six days since 1970


class Change(NamedTuple):
    """At this instant the zone's clocks go from one UTC offset to another, both in seconds."""

    at_s: int
    before_s: int
    after_s: int


def offset_of(at: datetime) -> int:
    """Return the UTC offset of an aware datetime in seconds."""
    offset = at.utcoffset()
    return 0 if offset is None else offset.days * DAY_S + offset.seconds


def offset_s(zone: ZoneInfo, at_s: int) -> int:
    """Return the UTC offset of *zone* in seconds at the instant *at_s*."""
    return offset_of(datetime.fromtimestamp(at_s, zone))


def changes_after(zone: ZoneInfo, start_s: int) -> tuple[int, Iterator[Change]]:
    """Return the UTC offset at *start_s* and the changes after it, oldest first, up to the end of the calendar.

    Each UTC year ends with a change from one offset to the same one, so that a search needs to look no further than
    the year of what it has found.
    """
    year = date.fromordinal(start_s // DAY_S + EPOCH_ORDINAL).year
    offset, changes = _year(zone, year)
    passed = 0
    for change in changes:
        if change.at_s > start_s:
            break
        offset = change.after_s
        passed += 1
    return offset, _walk(zone, year, passed)


def change_at(zone: ZoneInfo, at_s: int) -> Change | None:
    """Return the change of *zone*'s clocks at exactly *at_s*, or None if they just go on."""
    before_s, after_s = offset_s(zone, at_s - 1), offset_s(zone, at_s)
    return None if before_s == after_s else Change(at_s, before_s, after_s)


def _walk(zone: ZoneInfo, year: int, passed: int) -> Iterator[Change]:
    while year <= _LAST_YEAR:
        yield from _year(zone, year)[1][passed:]
        passed = 0
        year += 1


@lru_cache(maxsize=8192)  # thousands of jobs share a few zones and years
def _year(zone: ZoneInfo, year: int) -> tuple[int, tuple[Change, ...]]:
    """Return the offset at the start of a UTC year, and the changes in it, its end included."""
    first_s = (date(year, 1, 1).toordinal() - EPOCH_ORDINAL) * DAY_S
    end_s = (date(year + 1, 1, 1).toordinal() - EPOCH_ORDINAL) * DAY_S
    initial = before = offset_s(zone, first_s)
    changes = []
    for stride_s in range(first_s, end_s, _STRIDE_S):
        low_s, high_s = stride_s, min(stride_s + _STRIDE_S, end_s)
        after = offset_s(zone, high_s)
        if after != before:
            while high_s - low_s > 1:
                middle_s = (low_s + high_s) // 2
                if offset_s(zone, middle_s) == before:
                    low_s = middle_s
                else:
                    high_s = middle_s
            changes.append(Change(high_s, before, after))
            before = after
    return initial, (*changes, Change(end_s, before, before))


def instant(at_s: int) -> datetime:
    """Return seconds since the epoch as an aware UTC datetime."""
    return datetime.fromtimestamp(at_s, UTC)


def clock(wall_s: int) -> str:
    """Return the time of day of a wall time (seconds since 1970 in no zone), with seconds if it has any."""
    minutes, second = divmod(wall_s % DAY_S, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


def wall_date(wall_s: int) -> date:
    """Return the day of a wall time."""
    return date.fromordinal(wall_s // DAY_S + EPOCH_ORDINAL)

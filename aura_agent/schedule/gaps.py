"""How far a schedule's fire times lie apart: by the calendar, and in real time where the clocks are changed.

Pure, and bounded however often a schedule fires: days are walked, times of day are masks, and of the coming year only
the gaps around the changes of the clocks are looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise, takewhile

from aura_agent.schedule.days import DayRule, lowest
from aura_agent.schedule.expression import Expression
from aura_agent.schedule.offsets import DAY_S, changes_after, instant, offset_of
from aura_agent.schedule.plan import Schedule

COMING_FIRES = 50
# Longer than a year, so that each yearly change of the clocks is among those that come, whatever the day.
_CHANGES_AHEAD_S = 400 * DAY_S
_COMING = timedelta(days=12 * 366)  # more than two of any day but a 29 February on a certain weekday
# From 1901 to 2099 the calendar repeats after this, weekdays included.
_CYCLE_DAYS = 28 * 365 + 7
_FIRST_YEAR = 2000
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """Two fire times in a row, in UTC."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


def nominal_interval_s(schedule: Schedule) -> float | None:
    """Return the longest time between two fire times as clocks on the wall show it; None for a bare @reboot.

    It follows from the schedule alone: ``0 3 * * *`` is a day in every season. Months and leap years count in full,
    but for 2100, which has no 29 February.
    """
    if schedule.period_us is not None:
        return schedule.period_us / 1e6
    if not schedule.expressions:
        return None
    apart = _days_apart(tuple((expression.days, expression.months) for expression in schedule.expressions))
    times = {which: _times_of_day(schedule.expressions, which) for pair in apart for which in pair}
    longest_s = max(
        days * DAY_S - times[earlier].last_s + times[later].first_s for (earlier, later), days in apart.items()
    )
    return float(max(longest_s, *(day.longest_s for day in times.values())))


def coming_gaps(schedule: Schedule, now: datetime) -> list[Gap]:
    """Return the gaps between the next 50 fire times after *now*, fewer if these lie more than twelve years ahead;
    empty for a bare @reboot.
    """
    fires = schedule.fires_between(now, now + _COMING, COMING_FIRES)
    while len(fires) < 2 and (following := schedule.next_after(fires[-1] if fires else now)) is not None:
        fires.append(following)
    return [Gap(*pair) for pair in pairwise(fires)]


def changed_gaps(schedule: Schedule, now: datetime) -> list[Gap]:
    """Return the gaps that hold, begin or end with a change of the clocks within 400 days after *now*."""
    nominal_s = nominal_interval_s(schedule)
    if schedule.period_us is not None or nominal_s is None:
        return []
    start_s = int(now.timestamp())
    _, changes = changes_after(schedule.expressions[0].zone, start_s)
    found = []
    # A change may skip fire times, so the one before it may be further away than usual.
    reach = timedelta(seconds=2 * nominal_s + 3 * DAY_S)
    for change in takewhile(lambda change: change.at_s < start_s + _CHANGES_AHEAD_S, changes):
        if change.before_s == change.after_s:
            continue
        changed_at = instant(change.at_s)
        fire = schedule.last_between(changed_at - reach, changed_at - _TICK)
        while fire is not None and fire <= changed_at:
            following = schedule.next_after(fire)
            assert following is not None
            found.append(Gap(fire, following))
            fire = following
    return found


def clock_changes_s(schedule: Schedule, now: datetime) -> float:
    """Return by how much changes of the clocks may lengthen the nominal interval, in seconds; never below zero.

    An hour that comes twice counts in full wherever it lies between two fire times, also if that gap isn't the
    longest one this year: so the answer is the same in each season, and with few schedules another one in another year.
    """
    nominal_s = nominal_interval_s(schedule)
    if nominal_s is None:
        return 0.0
    longest_s = 0.0
    for gap in changed_gaps(schedule, now):
        zone = schedule.expressions[0].zone
        turned_back_s = offset_of(gap.start.astimezone(zone)) - offset_of(gap.end.astimezone(zone))
        longest_s = max(longest_s, gap.seconds - nominal_s)
        if gap.seconds > turned_back_s:  # else: it fires in both passes
            longest_s = max(longest_s, turned_back_s)
    return longest_s


@dataclass(frozen=True, slots=True)
class _Times:
    """The fire times of a day, in seconds since its midnight: first, last, and the longest time between two."""

    first_s: int
    last_s: int
    longest_s: int


def _times_of_day(expressions: tuple[Expression, ...], which: int) -> _Times:
    """Return the times of a day on which the expressions of the mask *which* fire."""
    columns = [
        (expression.seconds, expression.minutes, expression.hours)
        for index, expression in enumerate(expressions)
        if which >> index & 1
    ]
    return _times(tuple(columns))


@lru_cache(maxsize=1024)
def _times(columns: tuple[tuple[int, int, int], ...]) -> _Times:
    day = 0
    for seconds, minutes, hours in columns:
        hour = sum(seconds << 60 * minute for minute in _bits(minutes))
        day |= sum(hour << 3600 * number for number in _bits(hours))
    between = f"{day:b}".rstrip("0").split("1")[1:-1]
    return _Times(lowest(day), day.bit_length() - 1, max((len(zeros) + 1 for zeros in between), default=0))


@lru_cache(maxsize=1024)  # most jobs share a few patterns of days
def _days_apart(rules: tuple[tuple[DayRule, int], ...]) -> dict[tuple[int, int], int]:
    """Return how many days lie at the most between a day and the next one that satisfies a rule.

    *rules* are day rules with masks of months. A day is told by the mask of the rules that it satisfies; the keys are
    such masks, of the earlier and the later day.
    """
    apart: dict[tuple[int, int], int] = {}
    days = _matching_days(rules)
    first, which = next(days)
    before = first
    for day, later in days:
        apart[which, later] = max(apart.get((which, later), 0), day - before)
        before, which = day, later
        if day - first >= _CYCLE_DAYS:
            break
    return apart


def _matching_days(rules: tuple[tuple[DayRule, int], ...]) -> Iterator[tuple[int, int]]:
    """Yield the days (proleptic ordinals) that satisfy a rule, each with the mask of the rules that it satisfies."""
    year, month = _FIRST_YEAR, 1
    while True:
        before_first = date(year, month, 1).toordinal() - 1
        masks = [rule.of(year, month) if months >> month & 1 else 0 for rule, months in rules]
        matching = 0
        for mask in masks:
            matching |= mask
        for day in _bits(matching):
            yield before_first + day, sum((mask >> day & 1) << index for index, mask in enumerate(masks))
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _bits(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set in *mask*, lowest first."""
    while mask:
        yield lowest(mask)
        mask &= mask - 1

"""A cron expression: when it fires next, and why then.

The wall-clock rules are those of cronie and of Debian's cron (cron(8); cronie, src/cron.c, the main loop and
find_jobs; src/entry.c), see docs/scheduling.md. A *fixed* expression is one whose minute and hour fields both begin
without ``*``; any other is a *wildcard*. Seconds decide nothing here, so that a leading ``0`` changes no schedule.

Fire times are found by walking the stretches of time in which the zone's offset is constant; all arithmetic is in
integer seconds. How the text is read is the matter of ``columns``.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from aura_agent.errors import ScheduleError
from aura_agent.schedule.columns import (
    AT_REBOOT,
    FIELDS,
    MONTH,
    begins_with_star,
    day_rule,
    mask,
    resolve_hashes,
    written_columns,
)
from aura_agent.schedule.days import DayRule, first_day, lowest
from aura_agent.schedule.offsets import (
    DAY_S,
    EPOCH_ORDINAL,
    Change,
    change_at,
    changes_after,
    clock,
    instant,
    offset_of,
)

REBOOT = AT_REBOOT  # the one schedule that is no expression
# cron(8): a clock change of less than three hours is daylight saving; a larger one is a correction, and the new time
# counts at once.
CORRECTION_S = 3 * 3600

_NEVER = -(1 << 62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_SECOND = timedelta(seconds=1)
_BLANKS = re.compile(r"[ \t\n]+")


@dataclass(frozen=True, slots=True)
class Expression:
    """One cron expression in one zone; ``text`` is what was written, ``fields`` the six columns it stands for."""

    text: str
    fields: tuple[str, ...]
    zone: ZoneInfo
    fixed: bool
    seconds: int
    minutes: int
    hours: int
    months: int
    days: DayRule
    first_of_day_s: int

    def next_after(self, after: datetime) -> datetime:
        """Return the first fire time strictly later than *after* (aware), in UTC.

        A fixed time that the clocks skip comes right after the jump; one that comes twice counts at the first pass.
        Raises ValueError for a naive *after*, ScheduleError when the calendar ends.
        """
        if after.tzinfo is None:
            raise ValueError("the start of a search needs a time zone")
        return instant(self._first_from((after - _EPOCH) // _ONE_SECOND + 1))

    def fires_at(self, at: datetime) -> bool:
        """Whether *at* (aware) is one of the fire times."""
        return self.next_after(at - _ONE_SECOND) == at

    def explain(self, fire: datetime) -> str:
        """Return in words why *fire*, one of the fire times, is one."""
        at_s = (fire - _EPOCH) // _ONE_SECOND
        change = change_at(self.zone, at_s)
        if change is not None and (skipped := self._skipped_by(change)):
            jump = f"clocks go from {clock(at_s + change.before_s)} to {clock(at_s + change.after_s)}"
            made_up = f"right after the jump, because {skipped} that day ({jump})"
            wall = at_s + change.after_s
            return f"{self._matches()}; also {made_up}" if self.match_from(wall) == wall else made_up
        local = fire.astimezone(self.zone)
        repeat_s = offset_of(local.replace(fold=0)) - offset_of(local.replace(fold=1))
        if repeat_s > 0:
            which = "second" if local.fold else "first"
            passes = f"{which} of two passes of {clock(at_s + offset_of(local))} (clocks go back)"
            once = self.fixed and repeat_s < CORRECTION_S
            return f"{passes}: {'a fixed time runs once' if once else 'both count'}"
        return self._matches()

    def _matches(self) -> str:
        if self.text.startswith("@"):
            return self.text
        written = " ".join(self.fields[6 - len(self.text.split()) :])
        return f'matches "{self.text}"' + ("" if written == self.text else f' ("{written}" for this job)')

    def _first_from(self, earliest_s: int) -> int:
        """Return the first fire time at or after *earliest_s*."""
        # A day earlier, to know what a repeat shortly before the start has already shown.
        begin_s = earliest_s - DAY_S
        offset, changes = changes_after(self.zone, begin_s)
        shown_until = searched_from = found = _NEVER
        for change in changes:
            if change.at_s > earliest_s:
                wall = max(begin_s, earliest_s) + offset
                if self.fixed and wall < shown_until:
                    wall = shown_until
                if not searched_from <= wall <= found:  # else: nothing lies between the two
                    searched_from, found = wall, self.match_from(wall)
                if found < change.at_s + offset:
                    return found - offset
            begin_s, offset = change.at_s, change.after_s
            if self.fixed and begin_s >= earliest_s and self.skips(change):
                return begin_s
            correction = change.before_s - change.after_s >= CORRECTION_S
            shown_until = _NEVER if correction else max(shown_until, begin_s + change.before_s)
        raise ScheduleError(f'schedule "{self.text}" has no fire time before the calendar ends')

    def skips(self, change: Change) -> bool:
        """Whether a matching wall time is skipped by *change*, a daylight saving one."""
        if not 0 < change.after_s - change.before_s < CORRECTION_S:
            return False
        return self.match_from(change.at_s + change.before_s) < change.at_s + change.after_s

    def _skipped_by(self, change: Change) -> str:
        """Return which matching wall times *change* skips and this expression makes up for, or nothing."""
        if not self.fixed or not self.skips(change):
            return ""
        end = change.at_s + change.after_s
        first = self.match_from(change.at_s + change.before_s)
        second = self.match_from(first + 1)
        if second >= end:
            return f"{clock(first)} doesn't exist"
        others = "others" if self.match_from(second + 1) < end else clock(second)
        return f"{clock(first)} and {others} don't exist"

    def match_from(self, wall_s: int) -> int:
        """Return the first matching wall time at or after *wall_s*, both as seconds since 1970 in no zone."""
        day, second = divmod(wall_s, DAY_S)
        matching = first_day(self.days, self.months, day + EPOCH_ORDINAL)
        if matching == day + EPOCH_ORDINAL:
            of_day = self._time_from(second)
            if of_day >= 0:
                return day * DAY_S + of_day
            matching = first_day(self.days, self.months, matching + 1)
        if matching is None:
            raise ScheduleError(f'schedule "{self.text}" has no fire time before the calendar ends')
        return (matching - EPOCH_ORDINAL) * DAY_S + self.first_of_day_s

    def _time_from(self, second: int) -> int:
        """Return the first matching second of a day at or after *second*, or -1."""
        hour, rest = divmod(second, 3600)
        minute, second = divmod(rest, 60)
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1:
                later = self.seconds >> second
                if later:
                    return hour * 3600 + minute * 60 + second + lowest(later)
            later = self.minutes >> (minute + 1)
            if later:
                return hour * 3600 + (minute + 1 + lowest(later)) * 60 + lowest(self.seconds)
        later = self.hours >> (hour + 1)
        if later:
            return (hour + 1 + lowest(later)) * 3600 + lowest(self.minutes) * 60 + lowest(self.seconds)
        return -1


def parse(expression: str, *, job: str, zone: ZoneInfo) -> Expression:
    """Read *expression*: five fields, six with seconds first, or one of ``@hourly`` … ``@yearly``.

    *job* seeds ``H``. Raises ScheduleError, naming field and text: it can't be read, or no day satisfies it.
    ``@reboot`` is none of these (it has no wall time); see ``aura_agent.schedule.plan``.
    """
    text = " ".join(_BLANKS.split(expression.strip(" \t\n")))
    try:
        written = written_columns(text)
        columns = [resolve_hashes(*column, job) for column in zip(written, FIELDS, strict=True)]
        seconds, minutes, hours = (mask(columns[index], FIELDS[index]) for index in range(3))
        months = mask(columns[4], MONTH)
        both = begins_with_star(written[3]) or begins_with_star(written[5])
        days = day_rule(columns[3], columns[5], both)
    except ScheduleError as exc:
        raise ScheduleError(f'schedule "{text}": {exc}') from exc.__cause__
    if first_day(days, months, EPOCH_ORDINAL) is None:
        both_fields = " and ".join(
            f'{field.name} "{column}"' for field, column in zip(FIELDS[3:], columns[3:], strict=True) if column != "*"
        )
        raise ScheduleError(f'schedule "{text}" never fires: no day has {both_fields}; correct one of them')
    return Expression(
        text=text,
        fields=tuple(columns),
        zone=zone,
        fixed=not (begins_with_star(written[1]) or begins_with_star(written[2])),
        seconds=seconds,
        minutes=minutes,
        hours=hours,
        months=months,
        days=days,
        first_of_day_s=lowest(hours) * 3600 + lowest(minutes) * 60 + lowest(seconds),
    )

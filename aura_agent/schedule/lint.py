"""Schedules that are valid and yet may not do what was meant, told as text for ``aura-agent check``."""

import re
from datetime import datetime
from itertools import takewhile

from aura_agent.schedule.columns import (
    DAY,
    FIELDS,
    HOUR,
    MINUTE,
    MONTH,
    MONTH_NAMES,
    SECOND,
    WEEKDAY,
    Field,
    begins_with_star,
    written_columns,
)
from aura_agent.schedule.days import ALL_WEEKDAYS, lowest
from aura_agent.schedule.expression import CORRECTION_S, Expression
from aura_agent.schedule.offsets import DAY_S, Change, changes_after, clock, wall_date
from aura_agent.schedule.plan import Schedule

_NEXT = {SECOND: "minute", MINUTE: "hour", HOUR: "day", DAY: "month", MONTH: "year", WEEKDAY: "week"}
_YEAR_S = 366 * DAY_S
_ALL_HOURS = (1 << 24) - 1
_FIRST_28_DAYS = (1 << 29) - 2
_YEARS_AHEAD = 11  # in so many years each month but February begins with each weekday
_STEP = re.compile(r"(?P<start>\*|[Hh]|\d+)/(?P<step>\d+)", re.ASCII)


def lint(schedule: Schedule, *, now: datetime) -> list[str]:
    """Return warnings, one line each: what daylight saving does to the schedule in the year after *now*, months
    without a fire time, steps that don't divide their field, fields that combine in a surprising way.
    """
    warnings = []
    for expression in schedule.expressions:
        found = [*_fields(expression), *_months(expression, now.year), *_clock_changes(expression, now)]
        warnings += [f'schedule "{expression.text}": {warning}' for warning in found]
    return warnings


def _fields(expression: Expression) -> list[str]:
    columns = written_columns(expression.text)
    found = []
    for column, field in zip(columns, FIELDS, strict=True):
        for term in column.split(","):
            step = _STEP.fullmatch(term)
            if step is not None:
                found += _step(step["start"], int(step["step"]), field)
    second, minute, hour, day, _, weekday = columns
    if second == "*" and minute != "*":
        found.append('every second of the minute, since the first of six fields is seconds; write "0" or leave it out')
    if minute == "*" and expression.hours != _ALL_HOURS:
        found.append(f'every minute of the hour; for once an hour write a minute, as in "0 {hour} …"')
    if day != "*" and weekday != "*":
        if begins_with_star(day) or begins_with_star(weekday):
            found.append(
                f'a day must match both {DAY.name} "{day}" and {WEEKDAY.name} "{weekday}",'
                " since one of them begins with *"
            )
        else:
            found.append(
                f'runs on {DAY.name} "{day}" and also on every {WEEKDAY.name} "{weekday}": cron joins the two with "or"'
            )
    return found


def _step(start: str, step: int, field: Field) -> list[str]:
    low, high = field.low, 6 if field is WEEKDAY else field.high
    span = high - low + 1
    if start.isdigit():
        return [f'{field.name} "{start}/{step}": cron knows no step without a range; write "{start}-{high}/{step}"']
    if step >= span:
        return [f'{field.name} "{start}/{step}": the step is as long as the field ({low}-{high}), so this is one value']
    if step > 1 and (field is DAY or span % step):
        return [f'{field.name} "{start}/{step}": uneven, the step begins anew with each {_NEXT[field]}']
    return []


def _months(expression: Expression, year: int) -> list[str]:
    """Return a warning that tells which of the month field's months have no fire time in some years."""
    days = expression.days
    if days.days & _FIRST_28_DAYS and (days.weekdays == ALL_WEEKDAYS or not days.both):
        return []
    empty = 0
    months = expression.months
    while months:
        month = lowest(months)
        months &= months - 1
        if any(days.of(year + ahead, month) == 0 for ahead in range(_YEARS_AHEAD)):
            empty |= 1 << month
    if not empty:
        return []
    names = ", ".join(MONTH_NAMES[month - 1] for month in range(1, 13) if empty >> month & 1)
    last = " (L is the last day of each month)" if days.days and lowest(days.days) > 28 else ""
    return [f"not every year has such a day in {names}{last}"]


def _clock_changes(expression: Expression, now: datetime) -> list[str]:
    """Return what the next gap and the next repeat of the year do, if they touch the schedule."""
    if not expression.fixed and expression.hours == _ALL_HOURS:
        return []  # goes on in real time: nothing is lost, nothing doubled
    start_s = int(now.timestamp())
    found: dict[bool, str] = {}
    for change in takewhile(lambda change: change.at_s < start_s + _YEAR_S, changes_after(expression.zone, start_s)[1]):
        forward = change.after_s > change.before_s
        if change.after_s != change.before_s and forward not in found:
            warning = _gap(expression, change) if forward else _repeat(expression, change)
            if warning:
                found[forward] = warning
    return list(found.values())


def _gap(expression: Expression, change: Change) -> str:
    first = expression.match_from(change.at_s + change.before_s)
    if first >= change.at_s + change.after_s:
        return ""
    text = f"{clock(first)} doesn't exist on {wall_date(first)} in {expression.zone.key}"
    if expression.fixed and change.after_s - change.before_s < CORRECTION_S:
        return f"{text}: runs at {clock(change.at_s + change.after_s)} instead"
    return f"{text}: doesn't run then"


def _repeat(expression: Expression, change: Change) -> str:
    first = expression.match_from(change.at_s + change.after_s)
    if first >= change.at_s + change.before_s:
        return ""
    once = expression.fixed and change.before_s - change.after_s < CORRECTION_S
    passes = "runs at the first one" if once else "runs at both"
    return f"{clock(first)} comes twice on {wall_date(first)} in {expression.zone.key}: {passes}"

"""What systemd says of time, in words of cron and in seconds: calendar events and time spans, systemd.time(7). Pure."""

import re
from collections.abc import Sequence

from aura_agent.errors import ScheduleError
from aura_agent.schedule.columns import WEEKDAY_NAMES
from aura_agent.schedule.expression import Expression, parse
from aura_agent.schedule.gaps import nominal_interval_s
from aura_agent.schedule.plan import Schedule
from aura_agent.schedule.zones import zone

_SHORTHANDS = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
}
_SECONDS = {
    **dict.fromkeys(("us", "usec", "µs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
    **dict.fromkeys(("M", "month", "months"), 30.44 * 86_400.0),
    **dict.fromkeys(("y", "year", "years"), 365.25 * 86_400.0),
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")
_EVENT = re.compile(
    r"(?:(?P<days>[A-Za-z][A-Za-z,. -]*?)(?:\s+|$))?(?:(?:(?P<year>[^\s:-]+)-)?(?P<month>[^\s:-]+)-(?P<day>[^\s:-]+))?"
    r"\s*(?P<time>[^\s:]+:[^\s:]+(?::[^\s:]+)?)?(?:\s*(?P<zone>[A-Za-z][\w/+-]*))?"
)
_TERM = re.compile(r"(\*|\d+)(?:\.\.(\d+))?(?:/(\d+))?")
_HIGHEST = {"second": 59, "minute": 59, "hour": 23, "day": 31, "month": 12}


def calendar_interval_s(events: Sequence[str]) -> float:
    """Return the longest time between two elapses of any of the calendar events, as clocks on the wall show it.

    Events in one zone are one union. Those of several zones can't be laid on top of each other all year round: the zone
    whose union elapses most often counts, since the others only add elapses.

    Raises ScheduleError: one can't be read, or has no counterpart among cron's schedules.
    """
    zones: dict[str | None, list[Expression]] = {}
    for event in events:
        expression, name = as_cron(event)
        zones.setdefault(name, []).append(parse(expression, job="", zone=zone(name or "UTC")))
    return min(nominal_interval_s(Schedule(expressions=tuple(union))) or 0.0 for union in zones.values())


def as_cron(event: str) -> tuple[str, str | None]:
    """Return the six fields of a cron expression that elapses as *event* does, and the zone that it names, if any.

    Raises ScheduleError.
    """
    text = event.strip()
    head, _, rest = text.partition(" ")
    text = f"{_SHORTHANDS[head.lower()]} {rest}".strip() if head.lower() in _SHORTHANDS else text
    found = _EVENT.fullmatch(text)
    if found is None or not text:
        raise ScheduleError(f'"{event}" is no calendar event that can be told here')
    if found["year"] not in (None, "*"):
        raise ScheduleError(f'"{event}" names years, which cron has no field for')
    hour, minute, second = [*(found["time"] or "00:00:00").split(":"), "00"][:3]
    day = _field(found["day"] or "*", "day", event)
    weekday = _weekdays(found["days"], event)
    if day != "*" and weekday != "*":
        raise ScheduleError(f'"{event}" wants day and weekday at once; cron would take either')
    fields = [
        *(_field(second, "second", event), _field(minute, "minute", event), _field(hour, "hour", event)),
        *(day, _field(found["month"] or "*", "month", event), weekday),
    ]
    return " ".join(fields), found["zone"]


def span_s(text: str) -> float:
    """Return the seconds of a time span such as ``1h 30min`` or ``90``. Raises ScheduleError."""
    parts, at = 0.0, 0
    while (found := _SPAN.match(text.strip(), at)) is not None and found[2] in _SECONDS:
        parts += float(found[1]) * _SECONDS[found[2]]
        at = found.end()
    if not at or at < len(text.strip()):
        raise ScheduleError(f'"{text}" is no time span that can be told here')
    return parts


def _field(written: str, name: str, event: str) -> str:
    """Return one part of a date or time as cron writes it."""
    terms = []
    for term in written.split(","):
        found = _TERM.fullmatch(term)
        if found is None:
            raise ScheduleError(f'"{event}": "{term}" has no counterpart in cron')
        low, high, step = found.groups()
        span = low if high is None else f"{low}-{high}"
        if step is not None and high is None and low != "*":
            span = f"{low}-{_HIGHEST[name]}"
        terms.append(span if step is None else f"{span}/{step}")
    return ",".join(terms)


def _weekdays(written: str | None, event: str) -> str:
    if written is None:
        return "*"
    terms = []
    for term in re.sub(r"\s", "", written).strip(",").lower().split(","):
        ends = [end[:3] for end in re.split(r"\.\.|-", term)]
        if len(ends) > 2 or any(end not in WEEKDAY_NAMES for end in ends):
            raise ScheduleError(f'"{event}": "{term}" is no weekday')
        terms.append("-".join(ends))
    return ",".join(terms)

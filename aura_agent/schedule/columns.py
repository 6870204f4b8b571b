"""The columns of a cron expression: text to bit masks.

croniter reads the plain terms and does nothing else; only this module knows of it. What it would read against cron's
sense never reaches it: equal and backward ranges, steps without a range, ``?``, ``H``, ``L`` and ``W``, a seconds
field at the end, a field of years. Nothing here knows of times or zones.
"""

import re
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from croniter import CroniterError, croniter

from aura_agent.errors import ScheduleError
from aura_agent.schedule.days import DayRule, lowest

AT_REBOOT = "@reboot"
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Field(NamedTuple):
    """One column: its name in messages, its bounds, where croniter has it, the span of a bare ``H``."""

    name: str
    low: int
    high: int
    column: int
    hash_high: int


SECOND = Field("second", 0, 59, 0, 59)  # croniter's minutes have the same bounds
MINUTE = Field("minute", 0, 59, 0, 59)
HOUR = Field("hour", 0, 23, 1, 23)
DAY = Field("day-of-month", 1, 31, 2, 28)  # H ends with the 28th, so that it comes in each month
MONTH = Field("month", 1, 12, 3, 12)
WEEKDAY = Field("day-of-week", 0, 7, 4, 6)
FIELDS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)

_PLAIN = re.compile(
    r"(?:\*|(?P<low>\d{1,4}|[a-z]{3})(?:-(?P<high>\d{1,4}|[a-z]{3}))?)(?:/(?P<step>\d{1,4}))?", re.ASCII
)
_HASHED = re.compile(r"h(?:\((?P<low>\d{1,4})-(?P<high>\d{1,4})\))?(?:/(?P<step>\d{1,4}))?", re.ASCII)
_BEFORE_LAST = re.compile(r"l(?:-(\d{1,2}))?", re.ASCII)
_NEAREST = re.compile(r"(\d{1,2})w", re.ASCII)
_NTH = re.compile(r"([0-7]|[a-z]{3})#([1-5])", re.ASCII)
_LAST_WEEKDAY = re.compile(r"([0-7]|[a-z]{3})l", re.ASCII)


def begins_with_star(column: str) -> bool:
    """Whether cron takes *column* for a wildcard; ``H/n`` is ``*/n`` from another start, and counts as one too."""
    return column.startswith(("*", "h/", "H/"))


def written_columns(text: str) -> list[str]:
    """Return the six columns of *text*, seconds first."""
    if text.startswith("@"):
        macro = text.lower()
        if macro == AT_REBOOT:
            raise ScheduleError("@reboot has no fire time; it stands as a schedule of its own")
        if macro not in MACROS:
            if macro.startswith("@every"):
                raise ScheduleError('not a schedule here; write every = "15m" in the job instead')
            near = get_close_matches(macro, [*MACROS, AT_REBOOT], 1, 0.0)[0]
            raise ScheduleError(f'unknown name; did you mean "{near}"?')
        text = MACROS[macro]
    columns = text.split(" ") if text else []
    if len(columns) == 5:
        return ["0", *columns]
    if len(columns) != 6:
        hint = " (there is no field for years)" if len(columns) == 7 else ""
        raise ScheduleError(
            f"{len(columns)} fields; write five (minute hour day-of-month month day-of-week), or six with seconds"
            f" first{hint}"
        )
    return columns


def resolve_hashes(column: str, field: Field, job: str) -> str:
    """Return *column* with each ``H`` replaced by what it stands for in *job*: a number, or a range with a step."""
    if "h" not in column and "H" not in column:
        return column
    return ",".join(_resolve_hash(term, field, job) for term in column.split(","))


def _resolve_hash(term: str, field: Field, job: str) -> str:
    found = _HASHED.fullmatch(term.lower())
    if found is None:
        return term  # a name such as THU, or an error that the reader of terms reports
    low, high = int(found["low"] or field.low), int(found["high"] or field.hash_high)
    if not field.low <= low <= high <= field.high:
        raise _bad(field, term, f"write H(LOW-HIGH) within {field.low}-{field.high}")
    span = high - low + 1
    digest = sha256(f"{job}\0{field.name}".encode()).digest()
    seed = int.from_bytes(digest[:8])
    if found["step"] is None:
        return str(low + seed % span)
    step = int(found["step"])
    if step == 0:
        raise _bad(field, term, "a step is 1 or more")
    first = low + seed % min(step, span)
    return f"{first}-{high}/{step}" if first < high else str(first)


def day_rule(day_column: str, weekday_column: str, both: bool) -> DayRule:
    """Return what the two day fields say; the forms that croniter can't list are taken out of them first."""
    plain_days, before_last, nearest, last_workday = [], [], [], False
    for term in day_column.split(","):
        lower = term.lower()
        if lower == "lw":
            last_workday = True
        elif found := _BEFORE_LAST.fullmatch(lower):
            before_last.append(int(found[1] or 0))
            if before_last[-1] > 30:
                raise _bad(DAY, term, "write L-1 to L-30")
        elif found := _NEAREST.fullmatch(lower):
            nearest.append(int(found[1]))
            if not 1 <= nearest[-1] <= 31:
                raise _bad(DAY, term, "write 1W to 31W")
        else:
            plain_days.append(term)
    plain_weekdays, nth, last_weekdays = [], [], 0
    for term in weekday_column.split(","):
        lower = term.lower()
        if found := _NTH.fullmatch(lower):
            nth.append((_weekday(found[1]), int(found[2])))
        elif found := _LAST_WEEKDAY.fullmatch(lower):
            last_weekdays |= 1 << _weekday(found[1])
        else:
            plain_weekdays.append(term)
    return DayRule(
        days=mask(",".join(plain_days), DAY) if plain_days else 0,
        before_last=tuple(before_last),
        nearest=tuple(nearest),
        last_workday=last_workday,
        weekdays=mask(",".join(plain_weekdays), WEEKDAY) if plain_weekdays else 0,
        nth=tuple(nth),
        last_weekdays=last_weekdays,
        both=both,
    )


def _weekday(text: str) -> int:
    return lowest(mask(text, WEEKDAY))


@lru_cache(maxsize=4096)  # ten thousand jobs are written with a few hundred columns
def mask(column: str, field: Field) -> int:
    """Return the values of a column of plain terms as a bit mask; Sunday is 0."""
    bits = 0
    for term in column.split(","):
        for value in _values(term, field):
            bits |= 1 << value
    return bits


def _values(term: str, field: Field) -> list[int]:
    found = _PLAIN.fullmatch(term.lower())
    if found is None:
        raise _bad(field, term, _hint(term, field))
    low, high, step = found["low"], found["high"], found["step"]
    if step is not None and int(step) == 0:
        raise _bad(field, term, "a step is 1 or more")
    if low is None:
        return _expand(term, field, term)  # * and */n
    first = _number(low, field, term)
    if high is None:
        if step is None:
            return [first % 7] if field is WEEKDAY else [first]
        last = field.high
    else:
        last = _number(high, field, term)
        if high == "sun" and first > 0:
            last = 7  # a range that ends with the week's Sunday, as in sat-sun
    if first > last:
        raise _bad(field, term, f"a range can't run backwards; {_forwards(low, high, field)}")
    if first == last:  # croniter reads an equal range as the whole field
        return [first % 7] if field is WEEKDAY else [first]
    return _expand(f"{first}-{last}" + ("" if step is None else f"/{step}"), field, term)


def _forwards(low: str, high: str, field: Field) -> str:
    last = 6 if field is WEEKDAY else field.high
    return f'write "{low}-{last},{field.low}-{high}"' if low != "7" else f'write "0-{high}"'


def _number(text: str, field: Field, term: str) -> int:
    """Return the value of a number or a name, Sunday as written."""
    if text.isdigit():
        value = int(text)
        if not field.low <= value <= field.high:
            raise _bad(field, term, f"{value} is out of range; use {field.low}-{field.high}")
        return value
    return _expand(text, field, term)[0]


def _expand(plain: str, field: Field, term: str) -> list[int]:
    """Return what croniter takes *plain* for, in the column that is *field*'s there; *term* is what was written."""
    columns = ["*"] * 5
    columns[field.column] = plain
    try:
        values = croniter.expand(" ".join(columns))[0][field.column]
    except CroniterError as exc:
        raise _bad(field, term, _hint(term, field)) from exc
    if values == ["*"]:
        return list(range(field.low, min(field.high, field.low + 6) + 1 if field is WEEKDAY else field.high + 1))
    return [value for value in values if isinstance(value, int)]


def _bad(field: Field, term: str, hint: str) -> ScheduleError:
    return ScheduleError(f'{field.name} field: "{term}": {hint}')


def _hint(term: str, field: Field) -> str:
    """Return what to write instead of *term*, which can't be read."""
    term = term.lower()
    bounds = f"{field.low}-{field.high}"
    if term == "?":
        return 'write "*" (and note that weekdays count from Sunday = 0 here)'
    if not term:
        return "nothing between two commas, or at an end of the list"
    if field is WEEKDAY and "#" in term:
        return 'write WEEKDAY#1 to WEEKDAY#5, as in "5#3" for the third Friday'
    if field is WEEKDAY and "l" in term:
        return 'write WEEKDAY before L, as in "5L" for the last Friday'
    if field is DAY and "w" in term:
        return 'write the day before W, as in "15W", or "LW" for the last working day'
    names = {MONTH: MONTH_NAMES, WEEKDAY: WEEKDAY_NAMES}.get(field)
    if names is None:
        return f"use {bounds}, lists, ranges and steps of them, *, or H"
    near = [name for name in re.findall("[a-z]+", term) if name not in names]
    guess = get_close_matches(near[0][:3], names, 1, 0.5) if near else []
    return f"use {bounds} or {names[0]} to {names[-1]}" + (f'; did you mean "{guess[0]}"?' if guess else "")

"""The tables of cron and anacron, line by line: what is a job, where in the line its command begins, and what holds
for it. Pure.

A table is text that is kept: the lines of a table, joined, are the table. Bytes that are no UTF-8 are surrogates in it.
The rules are those of crontab(5) and anacrontab(5), and of cronie's src/entry.c, src/env.c and src/do_command.c where
these say nothing. When a time is due is the matter of ``aura_agent.schedule``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aura_agent.errors import ScheduleError
from aura_agent.schedule.expression import REBOOT, parse
from aura_agent.schedule.gaps import nominal_interval_s
from aura_agent.schedule.plan import Schedule
from aura_agent.schedule.zones import zone

Form = Literal["user", "system", "anacron"]  # a user's crontab, one with a column for the user, an anacrontab

_DAY_S = 86_400.0
# anacrontab(5) of Debian and cronie; a month and a year count in full.
_PERIODS_S = {"@daily": 1.0, "@weekly": 7.0, "@monthly": 31.0, "@yearly": 366.0, "@annually": 366.0}

_COMMENT = re.compile(r"[ \t]*(#.*)?\n?", re.DOTALL)
_SETTING = re.compile(
    r"""[ \t]*(?:"(?P<quoted>[^"=\n]*)"|'(?P<single>[^'=\n]*)'|(?P<plain>[^\s"'=][^\s=]*))\s*=[ \t]*"""
    r"""(?:"(?P<value>[^"\n]*)"|'(?P<other>[^'\n]*)'|(?P<rest>(?!["'])[^\n]*))\s*"""
)
_ENTRY = re.compile(r"[ \t]*-?(?P<when>@\S+|[^\s@#]\S*(?:[ \t]+\S+){4})[ \t]+")
_USER = re.compile(r"(?P<user>\S+)[ \t]+")
_ANACRON = re.compile(r"[ \t]*(?P<when>@\S+|\d+)[ \t]+(?P<delay>\d+)[ \t]+(?P<id>[^\s/]+)[ \t]+")
# What cron itself takes in a field: of what aura_agent.schedule knows besides, cron would make something else.
_VALUE = r"(?:[0-9]+|[a-z]{3})"
_TERM = rf"(?:(?:\*|{_VALUE}-{_VALUE})(?:/[0-9]+)?|{_VALUE})"
_FIELD = re.compile(rf"{_TERM}(?:,{_TERM})*", re.IGNORECASE)
_COMMAND = re.compile(r"(?:\\.|[^\\%])*\\?")  # a % without a backslash ends it


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in a table.

    ``when`` are its time fields; of anacron's, its period. ``command`` is what a shell gets, as it is written, ``at``
    where in the line it begins; ``given`` is what follows: the ``%`` that begins its input, and that. ``settings`` are
    the variables that the table sets above it. ``interval_s`` is the longest time between two runs by the calendar,
    None for one that runs at boot only.
    """

    when: str
    user: str | None
    command: str
    at: int
    given: str
    interval_s: float | None
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end, or several that a backslash joins; ``number`` counts from 1. ``problem``: why no job."""

    number: int
    text: str
    entry: Entry | None = None
    problem: str = ""

    def with_command(self, command: str) -> str:
        """Return the line's text with another command; all else stays."""
        assert self.entry is not None
        return self.text[: self.entry.at] + command + self.text[self.entry.at + len(self.entry.command) :]


def read_table(text: str, form: Form) -> list[Line]:
    """Return the lines of a table; their texts, joined, are *text*."""
    settings: dict[str, str] = {}
    lines = []
    for number, line in _numbered(text, joined=form == "anacron"):
        if _COMMENT.fullmatch(line):
            lines.append(Line(number, line))
        elif (found := _SETTING.fullmatch(line)) is not None:
            name = found["quoted"] or found["single"] or found["plain"] or ""
            value = next(value for value in found.group("value", "other", "rest") if value is not None)
            settings[name] = value if found["rest"] is None else value.rstrip()
            lines.append(Line(number, line))
        else:
            lines.append(_read_entry(number, line, form, dict(settings)))
    return lines


def _numbered(text: str, *, joined: bool) -> list[tuple[int, str]]:
    """Return the lines with their numbers; *joined*: one that ends with a backslash goes on in the next."""
    lines: list[tuple[int, str]] = []
    # Not splitlines(): to cron only a line feed ends a line.
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        if joined and lines and lines[-1][1].endswith("\\\n"):
            lines[-1] = (lines[-1][0], lines[-1][1] + line)
        else:
            lines.append((number, line))
    return lines


def _read_entry(number: int, text: str, form: Form, settings: Mapping[str, str]) -> Line:
    found = (_ANACRON if form == "anacron" else _ENTRY).match(text)
    if found is None:
        return Line(number, text, problem="neither a job nor a variable, as far as cron is concerned")
    at, user, when = found.end(), None, " ".join(found["when"].split())
    if form == "system":
        owner = _USER.match(text, at)
        if owner is None:
            return Line(number, text, problem="no user before the command; cron doesn't run it")
        at, user = owner.end(), owner["user"]
    command, given = text[at:].removesuffix("\n"), ""
    if form != "anacron":  # which knows no %
        split = _COMMAND.match(command)
        assert split is not None
        command, given = split[0], command[split.end() :]
    if not command.strip() or command.startswith("*"):
        return Line(number, text, problem="no command; cron doesn't run it")
    if not text.endswith("\n"):
        return Line(number, text, problem="no line feed at its end; cron doesn't run it")
    try:
        interval_s = _period_s(when) if form == "anacron" else _interval_s(when)
    except ScheduleError as problem:
        return Line(number, text, problem=str(problem))
    return Line(number, text, Entry(when, user, command, at, given, interval_s, settings))


def _interval_s(when: str) -> float | None:
    if when.lower() == REBOOT:
        return None
    if not when.startswith("@"):
        for written in when.split():
            if _FIELD.fullmatch(written) is None:
                raise ScheduleError(f'"{written}" is no field that cron is known to take')
    # The zone decides nothing: the interval is one of the clocks on the wall.
    return nominal_interval_s(Schedule(expressions=(parse(when, job="", zone=zone("UTC")),)))


def _period_s(when: str) -> float:
    days = _PERIODS_S.get(when.lower()) if when.startswith("@") else float(when)
    if not days:
        raise ScheduleError(f'"{when}" is no period; anacron knows days, @daily, @weekly, @monthly and @yearly')
    return days * _DAY_S

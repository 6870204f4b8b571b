"""What Debian's cron refuses: one such line, and it ignores the whole file. Pure.

Told anew from load_user(), load_entry(), get_list(), get_range() and get_number() of its user.c and entry.c: character
by character, since what follows a number in a field is skipped unread, and other odd lines are taken as well.
"""

import re
from collections.abc import Callable

from aura_agent.discover.dialects import DEBIAN

_MAX_LINES = 10_000
_MAX_DIGITS = 100
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Name of a field in cron's words, its lowest and highest value, and the names of values.
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day-of-month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day-of-week", 0, 7, _WEEKDAYS),
)
_NICKNAMES = frozenset({"reboot", "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"})
_NUMBER = re.compile(r"[A-Za-z0-9]*")
_BLANKS = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^ \t\n]*")

NO_LINE_FEED = "no line feed at its end"


class _Bad(Exception):
    """A field that can't be read."""


def file_error(lines: list[tuple[str, bool]], knows_user: Callable[[str], bool] | None) -> str:
    """Return for which line of a table the whole of it is ignored, and why; empty if it is read.

    *lines* are the lines with their ends, each with whether it may be a job: no comment and no variable. *knows_user*
    says whether there is an account; None for a user's crontab, which has no column for it.
    """
    if len(lines) > _MAX_LINES:
        return f"more than {_MAX_LINES:,} lines"
    for number, (line, is_job) in enumerate(lines, 1):
        if not line.endswith("\n") and line.lstrip(" \t") and not line.lstrip(" \t").startswith("#"):
            return f"line {number}: {NO_LINE_FEED}"
        reason = _entry_error(line.lstrip(" \t"), knows_user) if is_job else ""
        if reason:
            return f"line {number}: {reason}"
    return ""


def _entry_error(line: str, knows_user: Callable[[str], bool] | None) -> str:
    """Return what is bad of a line, in cron's words."""
    if line.startswith("@"):
        word = _WORD.match(line, 1)
        assert word is not None
        if word[0] not in _NICKNAMES:
            return "bad time specifier"
        at = _after_blanks(line, word.end())
    else:
        at = 0
        for name, low, high, names in _FIELDS:
            try:
                at = _list(line, at, low, high, names)
            except _Bad:
                return f"bad {name}"
    if knows_user is None:
        if line[at : at + 1] == "*":
            return "bad command"
    else:
        user = _WORD.match(line, at)
        assert user is not None
        if line[user.end() : user.end() + 1] == "\n" or not knows_user(user[0]):
            return f'bad username "{user[0]}"' if user[0] else "bad username"
        at = user.end() + 1
    command = line[at:].removesuffix("\n")
    too_long = len(command.encode("utf-8", "surrogateescape")) > (DEBIAN.max_command_bytes or 0)
    return "command too long" if too_long else ""


def _list(line: str, at: int, low: int, high: int, names: tuple[str, ...]) -> int:
    """Return where the next field begins. Raises _Bad."""
    at = _range(line, at, low, high, names)
    while line[at] == ",":
        at = _range(line, at + 1, low, high, names)
    rest = _WORD.match(line, at)
    assert rest is not None
    return _after_blanks(line, rest.end())


def _range(line: str, at: int, low: int, high: int, names: tuple[str, ...]) -> int:
    if line[at] == "*":
        first, last = low, high
        at += 1
    else:
        first, at = _number(line, at, low, names)
        last = first
        if line[at] == "/":
            raise _Bad
        if line[at] != "-":
            if not low <= first <= high:
                raise _Bad
            return at
        last, at = _number(line, at + 1, low, names)
    if line[at] == "/":
        step, at = _number(line, at + 1, 0, ())
        if step <= 0:
            raise _Bad
    if not (low <= first <= high and low <= last <= high):
        raise _Bad
    return at


def _number(line: str, at: int, low: int, names: tuple[str, ...]) -> tuple[int, int]:
    found = _NUMBER.match(line, at)
    assert found is not None
    word = found[0]
    if word.lower() in names:
        return names.index(word.lower()) + low, found.end()
    if not word.isdigit() or len(word) > _MAX_DIGITS:
        raise _Bad
    return int(word), found.end()


def _after_blanks(line: str, at: int) -> int:
    found = _BLANKS.match(line, at)
    assert found is not None
    return found.end()

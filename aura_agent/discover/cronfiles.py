"""Which files cron and run-parts ignore as a whole, and why. Pure.

From process_crontab() of Debian's database.c and check_open() of cronie's, load_crontab() of busybox's crond.c, and
run-parts(8) of debianutils, of busybox and of Fedora's crontabs package.
"""

import re
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from aura_agent.discover.crontab import Form, read_table
from aura_agent.discover.dialects import BUSYBOX, CRONIE, DEBIAN, Dialect
from aura_agent.discover.vixie import file_error

RunParts = Literal["debianutils", "busybox", "script"]

_CLASSICAL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# Names by the rules of the LSB, which "cron -l" follows: valid_name() of Debian's database.c.
_LSB = re.compile(r"_?([a-z0-9_.]+-)+[a-z0-9]+|[a-z0-9][a-z0-9-]*", re.ASCII)
_CRONIE_IGNORES = re.compile(r"[.#].*|.*~|.*\.rpm(?:save|orig|new)")
_SCRIPT_IGNORES = re.compile(r".*(?:~|,|,v|\.rpm(?:save|orig|new)|\.swp|\.cfsaved)")
_BUSYBOX_RUNS = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_UID = re.compile(r"\d{1,10}", re.ASCII)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What decides about a file; ``link_uid`` is the owner of the link that leads to it, None without one."""

    uid: int
    mode: int
    hard_links: int
    link_uid: int | None = None


def ignored_name(name: str, dialect: Dialect, *, lsb: bool = False) -> bool:
    """Whether cron passes over a file of this name in /etc/cron.d. ``lsb``: it was started with -l."""
    if dialect.name == CRONIE.name:
        return _CRONIE_IGNORES.fullmatch(name) is not None
    return (_LSB if lsb else _CLASSICAL).fullmatch(name) is None


def ignored_crontab_name(name: str, dialect: Dialect) -> bool:
    """Whether cron passes over a user's crontab of this name."""
    if dialect.name == CRONIE.name:
        return _CRONIE_IGNORES.fullmatch(name) is not None
    return "." in name if dialect.name == BUSYBOX.name else name.startswith(".")


def why_ignored(
    file: FileFacts, dialect: Dialect, *, is_users: bool, owner_uid: int | None, root_uid: int | None
) -> str:
    """Return why cron ignores a table, in its own words; empty if it reads it.

    *owner_uid* is the uid of the user whose crontab it is. *root_uid* is root's, None where owners say nothing, as in a
    copy that somebody else than root has made.
    """
    owners = {root_uid, owner_uid} if is_users and dialect.name != BUSYBOX.name else {root_uid}
    mode = f"mode {stat.S_IMODE(file.mode):04o}"
    if dialect.name == DEBIAN.name:
        if is_users and file.link_uid is not None:
            return "CAN'T OPEN: it is a link"
        if root_uid is not None and file.link_uid not in (None, root_uid):
            return "WRONG SYMLINK OWNER"
        wrong_mode = stat.S_IMODE(file.mode) != 0o600 if is_users else file.mode & _OTHERS_WRITE
        wants = "mode 0600 expected" if is_users else "group/other writable"
        reasons = [(wrong_mode, f"INSECURE MODE ({wants}): {mode}"), (file.hard_links != 1, "NUMBER OF HARD LINKS > 1")]
    elif dialect.name == CRONIE.name:
        reasons = [
            (file.mode & 0o7533 != 0o400, f"BAD FILE MODE: {mode}"),
            (is_users and file.hard_links != 1, "BAD LINK COUNT"),
        ]
    else:
        reasons = []
    if root_uid is not None and file.uid not in owners:
        return f"WRONG FILE OWNER: uid {file.uid}"
    return next((reason for applies, reason in reasons if applies), "")


def unreadable_line(text: str, form: Form, dialect: Dialect, knows_user: Callable[[str], bool]) -> str:
    """Return the line for which cron ignores all of a table, and why; empty if it doesn't."""
    if not dialect.strict:
        return ""
    lines = [(line.text, line.entry is not None or bool(line.problem)) for line in read_table(text, form, dialect)]
    return file_error(lines, knows_user if form == "system" else None)


def users_of(text: str, dialect: Dialect) -> frozenset[str]:
    """Return the users in the column of a table of the system."""
    entries = (line.entry for line in read_table(text, "system", dialect))
    return frozenset(entry.user for entry in entries if entry is not None and entry.user is not None)


def why_no_script(name: str, kind: RunParts, *, is_file: bool, executable: bool) -> str:
    """Return why run-parts ignores what is in its directory; empty if it runs it."""
    taken = {
        "debianutils": _CLASSICAL.fullmatch(name) is not None,
        "busybox": _BUSYBOX_RUNS.fullmatch(name) is not None and not name.startswith("."),
        "script": _SCRIPT_IGNORES.fullmatch(name) is None and not name.startswith("."),
    }[kind]
    if not taken:
        dot = kind == "debianutils" and "." in name
        return f"run-parts ignores it: {'a dot in its name' if dot else 'its name'}"
    if not is_file:
        return "run-parts ignores it: no regular file"
    return "" if executable else "run-parts ignores it: not executable"


def option_of(settings: str, variable: str, letter: str) -> str | None:
    """Return what follows the option of this letter among a daemon's, in a file of a shell's variables.

    The empty text for an option without a value; None if the variable doesn't have it.
    """
    for line in settings.split("\n"):
        found = re.fullmatch(rf"\s*{variable}=[\"']?(?P<options>.*?)[\"']?\s*", line)
        option = re.search(rf"(?:^|\s)-[A-Za-z]*{letter}\s*(?P<value>[^\s-]\S*)?", found["options"]) if found else None
        if option is not None:
            return option["value"] or ""
    return None


def read_accounts(passwd: str) -> dict[str, tuple[int, str]]:
    """Return the accounts in the text of a passwd(5) file, each with its uid and its home."""
    fields = [line.split(":") for line in passwd.split("\n")]
    return {field[0]: (int(field[2]), field[5]) for field in fields if len(field) > 5 and _UID.fullmatch(field[2])}


def names_all_accounts(nsswitch: str) -> bool:
    """Whether /etc/passwd has all accounts, by the text of an nsswitch.conf(5)."""
    lines = [line.partition("#")[0].partition(":") for line in nsswitch.split("\n")]
    sources: Collection[str] = next((line[2].split() for line in lines if line[0].strip() == "passwd"), ["files"])
    return set(sources) <= {"files", "compat", "systemd", "db"}

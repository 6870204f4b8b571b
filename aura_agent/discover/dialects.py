"""The implementations of cron: where each looks for its tables, and how it reads them. Pure.

Known from their sources: Debian's and Ubuntu's cron (Vixie's 3.0pl1 with Debian's patches: database.c, user.c, entry.c,
env.c, do_command.c); cronie 1.7 of Fedora, RHEL, SUSE and Arch (the same files below src/); busybox 1.37 of Alpine
(miscutils/crond.c, libbb/parse_config.c). Of all other crons the name is known, and their lines are left alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

LineEnd = Literal["file", "line", "any"]  # what is ignored without a line feed at the end: all, the last line, nothing


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one implementation reads its tables.

    ``spools``: where users' crontabs may be; ``system``: whether it reads /etc/crontab and /etc/cron.d. ``strict``: one
    bad line and the whole file is ignored. ``percent``: a bare ``%`` ends the command, the rest is its input;
    ``halves_backslashes``: two of them are one to the shell. ``joins``: a line that ends with a backslash goes on.
    ``variables``: the only ones that it knows, None for any; ``hash_ends``: a command ends at ``#``. ``quiet_prefix``,
    ``mail_option``, ``random``: ``-`` in front of a line, ``-n`` in front of a command, and ``~`` in a field.
    ``nicknames``: whether it knows ``@daily`` and its like. ``needs_home``: it runs nothing for a user without a home.
    ``empty_values``: ``A=`` sets a variable.
    """

    name: str
    spools: tuple[str, ...]
    system: bool = True
    strict: bool = False
    line_end: LineEnd = "any"
    percent: bool = True
    halves_backslashes: bool = False
    joins: bool = False
    variables: frozenset[str] | None = None
    hash_ends: bool = False
    quiet_prefix: bool = False
    mail_option: bool = False
    random: bool = False
    nicknames: bool = True
    needs_home: bool = False
    cron_tz: bool = False
    empty_values: bool = True
    max_command_bytes: int | None = None


DEBIAN = Dialect(
    "Debian's cron",
    ("/var/spool/cron/crontabs",),
    strict=True,
    line_end="file",
    halves_backslashes=True,
    max_command_bytes=998,  # MAX_COMMAND, with its end
)
# Before 3.0pl1-187 (Debian 12 and Ubuntu 24.04 have an older one) "A=" was a bad line: changelog.Debian.
OLD_DEBIAN = replace(DEBIAN, empty_values=False)
_FIRST_WITH_EMPTY_VALUES = 187
CRONIE = Dialect(
    "cronie",
    ("/var/spool/cron/tabs", "/var/spool/cron/crontabs", "/var/spool/cron"),  # SUSE; Debian and Gentoo; all others
    line_end="line",
    quiet_prefix=True,
    mail_option=True,
    random=True,
    needs_home=True,
    cron_tz=True,
)
BUSYBOX = Dialect(
    "busybox's crond",
    ("/etc/crontabs", "/var/spool/cron/crontabs"),  # Alpine's init script names the first; the second is built in
    system=False,
    percent=False,
    joins=True,
    variables=frozenset({"MAILTO", "PATH", "SHELL"}),
    hash_ends=True,
)
_DISTRIBUTIONS = {
    "alpine": BUSYBOX,
    **dict.fromkeys(("debian", "ubuntu"), DEBIAN),
    **dict.fromkeys(("arch", "fedora", "opensuse", "rhel", "sles", "suse"), CRONIE),
}
SPOOLS = tuple(dict.fromkeys((*DEBIAN.spools, *BUSYBOX.spools, *CRONIE.spools)))
_DEBIAN_VERSION = re.compile(rb"^Package: cron\n(?:.+\n)*?Version: 3\.0pl1-(\d+)", re.MULTILINE)
_SPOOL = re.compile(rb"\0(/(?:var|etc)/[a-z/]*cron[a-z/]*)\0")
# A string that the program of each implementation holds, and no other's. The first that is found counts.
_MARKS: tuple[tuple[bytes, Dialect | str], ...] = (
    (b"dillon's cron daemon", "dcron"),
    (b"fcron", "fcron"),
    (b"BusyBox v", BUSYBOX),
    (b"CRON_TZ", CRONIE),
    (b"INSECURE MODE (mode 0600 expected)", DEBIAN),
)


def dialect_of(program: bytes, *, is_busybox: bool = False) -> Dialect | str:
    """Return the dialect of a cron daemon by its *program*; or the name of one whose dialect isn't known here."""
    known = BUSYBOX if is_busybox else next((known for mark, known in _MARKS if mark in program), "another cron")
    if known is BUSYBOX:
        # Built without them, it knows no such word; a file that is no program doesn't say.
        return replace(BUSYBOX, nicknames=b"annually" in program or not program.startswith(b"\x7fELF"))
    if known is CRONIE:
        built_in = {found.decode().rstrip("/") for found in _SPOOL.findall(program)} & set(CRONIE.spools)
        return replace(CRONIE, spools=tuple(built_in)) if len(built_in) == 1 else CRONIE
    return known


def of_distribution(os_release: str) -> Dialect | None:
    """Return the cron that a distribution installs if nothing else is chosen, by its os-release(5); None if unknown."""
    fields = re.findall(r"^(?:ID|ID_LIKE)=[\"']?([a-z0-9._ -]*)", os_release, re.MULTILINE)
    names = " ".join(fields).split()
    return next((_DISTRIBUTIONS[name] for name in names if name in _DISTRIBUTIONS), None)


def of_packages(cron: Dialect, status: bytes) -> Dialect:
    """Return the dialect of *cron* in its version, by the text of /var/lib/dpkg/status."""
    found = _DEBIAN_VERSION.search(status) if cron is DEBIAN else None
    return OLD_DEBIAN if found is not None and int(found[1]) < _FIRST_WITH_EMPTY_VALUES else cron


def chosen(crons: Mapping[str, Dialect | str]) -> tuple[Dialect | None, str]:
    """Return the dialect of a host with these *crons* (by path); None, and why, where it can't be told."""
    names = {cron if isinstance(cron, str) else cron.name for cron in crons.values()}
    if not names:
        return None, "no cron is installed here, so nothing runs it"
    if len(names) > 1:
        return None, f"{' and '.join(sorted(names))} are installed; which of them runs it isn't known"
    cron = next(iter(crons.values()))
    return (None, f"runs under {cron}, whose ways aren't known here") if isinstance(cron, str) else (cron, "")

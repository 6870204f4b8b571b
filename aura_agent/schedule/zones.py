"""Time zones by name, and the host's own: what the C library, and so every job, takes for local time.

The only part of this package that touches the system: it reads ``/etc/localtime`` and the files of the zones, and only
when a job names no zone. A zone by name is taken from the host's tzdata, else from the package of that name.
"""

import os
import re
import struct
import zoneinfo
from difflib import get_close_matches
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple
from zoneinfo import ZoneInfo

from aura_agent.errors import ScheduleError

_LOCALTIME = "/etc/localtime"
_ZONES = "/usr/share/zoneinfo"
_MAX_BYTES = 1 << 20
_US_RULES = ",M3.2.0,M11.1.0"  # what tzset(3) takes where a summer time is named, and no rule for it
_NAME = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)"
_OFFSET = r"[+-]?\d{1,2}(?::\d{2}(?::\d{2})?)?"
_POSIX = re.compile(rf"{_NAME}{_OFFSET}(?P<summer>{_NAME}(?:{_OFFSET})?)?(?P<rules>,.+)?")


class HostZone(NamedTuple):
    """The zone that this host keeps; *doubt* says in a line where something of the host says otherwise."""

    zone: ZoneInfo
    doubt: str = ""


def zone(name: str | None, *, tz_env: str | None = None, tz_dir: str | None = None, root: str = "/") -> ZoneInfo:
    """Return the zone with this IANA name; for None the host's, see ``host_zone``.

    Raises ScheduleError with the nearest name that exists.
    """
    if name is None:
        return host_zone(tz_env, tz_dir, root).zone
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        near = _nearest(name)
        guess = f'did you mean "{near}"?' if near else 'use an IANA name such as "Europe/Berlin"'
        raise ScheduleError(f'unknown time zone "{name}"; {guess}') from exc


def host_zone(tz_env: str | None, tz_dir: str | None = None, root: str = "/") -> HostZone:
    """Return the zone as tzset(3) has it: of *tz_env* and *tz_dir*, the variables TZ and TZDIR, else of /etc/localtime.

    *root* is where the files are looked for. Never raises: what the C library can't read is UTC to it.
    """
    if tz_env is None:
        return _of_localtime(root)
    said = tz_env.removeprefix(":")
    if not said:
        return HostZone(ZoneInfo("UTC"))
    path = said if said.startswith("/") else os.path.join(tz_dir or _ZONES, said)
    content = _content(_below(root, path))
    if content is not None and (found := _from_content(content, _name_in(path) or said)) is not None:
        return HostZone(found)
    if (rule := _of_rule(said)) is not None:
        return HostZone(rule)
    named = _of_package(_name_in(said) or said)
    if named is not None:
        text = f"TZ={tz_env}: this host has no such zone, and its programs take UTC: install tzdata, or set timezone"
        return HostZone(named, text)
    return HostZone(ZoneInfo("UTC"), f"TZ={tz_env} names no zone, which means UTC: correct it, or set timezone")


def _of_localtime(root: str) -> HostZone:
    path = _below(root, _LOCALTIME)
    content = _content(path)
    said = _first_line(_below(root, "/etc/timezone"))
    found = None
    if content is not None:
        name = _name_in(os.path.realpath(path))
        if not name and said and content == _content(_below(root, os.path.join(_ZONES, said))):
            name = said
        found = _from_content(content, name or "localtime")
    if found is None:
        doubt = f"{_LOCALTIME} can't be read, which means UTC: mend it, or set timezone"
        return HostZone(ZoneInfo("UTC"), doubt if content is not None or os.path.lexists(path) or said else "")
    if said and said != found.key and _differs(said, found, root):
        text = f'/etc/timezone says "{said}", but {_LOCALTIME}, which counts, is another zone'
        return HostZone(found, f"{text}: make them one, or set timezone")
    return HostZone(found)


def _differs(name: str, found: ZoneInfo, root: str) -> bool:
    content = _content(_below(root, os.path.join(_ZONES, name)))
    other = _of_package(name) if content is None else _from_content(content, name)
    return other is None or _clocks(other) != _clocks(found)


def _clocks(zone: ZoneInfo) -> list[int]:
    """Return what tells zones apart: their offsets through the years that schedules are about."""
    from aura_agent.schedule.offsets import offset_s

    return [offset_s(zone, at_s) for at_s in range(1_500_000_000, 2_000_000_000, 30 * 86_400)]


@lru_cache(maxsize=64)  # one object for each zone: schedules are compared, and its changes are looked up once
def _from_content(content: bytes, key: str) -> ZoneInfo | None:
    try:
        return ZoneInfo.from_file(BytesIO(content), key=key)
    except (ValueError, OSError, EOFError, struct.error, IndexError, OverflowError):
        return None


def _of_rule(said: str) -> ZoneInfo | None:
    """Return the zone of a rule such as ``CET-1CEST,M3.5.0,M10.5.0/3``: of a file that holds nothing else."""
    parts = _POSIX.fullmatch(said)
    if parts is None:
        return None
    rule = said + _US_RULES if parts["summer"] and not parts["rules"] else said
    empty = b"TZif2" + bytes(15) + b"".join(count.to_bytes(4, "big") for count in (0, 0, 0, 0, 1, 4))
    body = bytes(6) + b"UTC\0"
    return _from_content(empty + body + empty + body + b"\n" + rule.encode() + b"\n", said)


def _of_package(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _below(root: str, path: str) -> str:
    return path if root == "/" else os.path.join(root, path.lstrip("/"))


def _content(path: str) -> bytes | None:
    """Return what a regular file holds; None for all else."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        return os.read(file, _MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(file)


def _first_line(path: str) -> str:
    content = _content(path)
    return "" if content is None else content.partition(b"\n")[0].decode("utf-8", "replace").strip()


def _name_in(path: str) -> str:
    """Return the zone's name in a path such as ``/usr/share/zoneinfo/posix/Europe/Berlin``, or nothing."""
    _, found, name = path.rpartition("zoneinfo/")
    return name.removeprefix("posix/").removeprefix("right/") if found else ""


def _nearest(name: str) -> str | None:
    """Return the existing name that looks most like *name*; the city alone, or another case, is enough."""
    wanted = name.strip().lower().replace(" ", "_")
    names: dict[str, str] = {}
    for known in sorted(zoneinfo.available_timezones(), key=lambda known: (known.count("/") != 1, known)):
        names.setdefault(known.lower(), known)
        names.setdefault(known.lower().rpartition("/")[2], known)
    if wanted in names:
        return names[wanted]
    if len(wanted) <= 5:  # an abbreviation such as CEST is near to names that are hours away
        return None
    near = get_close_matches(wanted, names, 1, 0.6) or get_close_matches(wanted.rpartition("/")[2], names, 1, 0.7)
    return names[near[0]] if near else None

"""Time zones by name, and the host's own.

The only part of this package that touches the system: it reads ``/etc/localtime`` and ``/etc/timezone``, and only
when a job names no zone.
"""

import os
import zoneinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo

from aura_agent.errors import ScheduleError


def zone(name: str | None, *, tz_env: str | None = None, root: str = "/") -> ZoneInfo:
    """Return the zone with this IANA name; for None the host's, see ``host_zone``.

    Raises ScheduleError with the nearest name that exists.
    """
    if name is None:
        return host_zone(tz_env, root)
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        near = _nearest(name)
        guess = f'did you mean "{near}"?' if near else 'use an IANA name such as "Europe/Berlin"'
        raise ScheduleError(f'unknown time zone "{name}"; {guess}') from exc


def host_zone(tz_env: str | None, root: str = "/") -> ZoneInfo:
    """Return the zone that this host keeps: *tz_env* (the variable TZ), else /etc/localtime, else /etc/timezone,
    else UTC.

    Raises ScheduleError for a TZ that is no IANA name, such as ``CET-1CEST``: guessing would shift every job.
    """
    if tz_env:
        name = _name_in(tz_env) or tz_env.removeprefix(":")
        try:
            return zone(name)
        except ScheduleError as exc:
            raise ScheduleError(f"environment variable TZ: {exc}; or set timezone in the config") from exc.__cause__
    localtime = os.path.join(root, "etc/localtime")
    for name in (_link(localtime), _first_line(os.path.join(root, "etc/timezone"))):
        if name:
            try:
                return ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                continue
    try:
        with open(localtime, "rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (OSError, ValueError):
        return ZoneInfo("UTC")


def _link(path: str) -> str:
    try:
        return _name_in(os.readlink(path))
    except OSError:
        return ""


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return ""


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

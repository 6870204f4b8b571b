"""Who else could change a file that decides what we do. As sshd, sudo and cron do, we don't use such a file.

What others can write to is theirs: with a root daemon, whoever writes its config has root's rights. A directory above
the file counts as much as the file, since its owner can put another in its place; one with the sticky bit, such as
/tmp, lets only owners do that. On a read-only mount nobody writes: who mounted it has decided.
"""

import os
import stat
from collections.abc import Iterator

_ALL_IDS = ["0", "0", "4294967295"]


def other_writer(path: str, found: os.stat_result, *, also: tuple[int, int] | None = None) -> str:
    """Return who but root and ourselves (and the uid and gid *also*) can change the file at *path*, and what to do.

    *found* is what the open file's fstat(2) says. Empty: nobody.
    """
    owners, groups = {0, os.geteuid()}, {0} if os.geteuid() == 0 else {0, os.getegid()}
    if also is not None:
        owners.add(also[0])
        groups.add(also[1])
    for place, status in _places(path, found):
        said = _judge(status, owners, groups, is_directory=place != path)
        if said and not _is_read_only(place):
            what = "" if place == path else f"{place}: "
            names = " or ".join(_user(uid) for uid in sorted(owners))
            return f"{what}{said}, so others decide what we do: let only {names} change it, or mount it read-only"
    return ""


def _places(path: str, found: os.stat_result) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the file, the directory of its name, and all that lead to it."""
    yield path, found
    directories = dict.fromkeys((*_upwards(os.path.realpath(path)), *_upwards(os.path.abspath(path))))
    for directory in directories:
        try:
            yield directory, os.stat(directory)
        except OSError:
            continue  # what can't be looked at by us leads nowhere


def _upwards(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _judge(found: os.stat_result, owners: set[int], groups: set[int], *, is_directory: bool) -> str:
    if found.st_uid not in owners and not _is_unmapped(found.st_uid):
        return f"it belongs to {_user(found.st_uid)}"
    if is_directory and found.st_mode & stat.S_ISVTX:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return "everybody can write to it"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in groups and not _is_unmapped(found.st_gid):
        return f"the group {_group(found.st_gid)} can write to it"
    return ""


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_unmapped(number: int) -> bool:
    """Whether *number* is how a user namespace shows the host's root, and everybody else who isn't in it."""
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as overflow:
            if number != int(overflow.read()):
                return False
        with open("/proc/self/uid_map", encoding="ascii") as uid_map:
            return uid_map.read().split() != _ALL_IDS
    except (OSError, ValueError):
        return False


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"uid {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return f"gid {gid}"

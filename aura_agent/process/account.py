"""Whom a job of the daemon runs as, and the environment that goes with it: as cron has it.

``job_environment`` is pure. ``resolve_account`` asks the name service, which may block.
"""

import grp
import os
import pwd
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aura_agent.process.environment import SECRETS, SUPERVISION
from aura_agent.process.failure import SpawnFailed

# Debian's cron has /usr/bin:/bin: first, so that a line moved here from a crontab finds the same programs.
DEFAULT_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/usr/local/sbin"
DEFAULT_SHELL = "/bin/sh"  # crontab(5): SHELL is /bin/sh, whatever passwd says
_MAX_ID = 2**32 - 2  # one more is (uid_t)-1: "leave it as it is", which would be root (setreuid(2))
_KEPT = frozenset({"LANG", "LANGUAGE", "TZ"})  # and LC_*: without them a job's dates and encoding change


class Account(NamedTuple):
    """Whom a job runs as. *switch* says that this isn't whom we are already."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    switch: bool = True


def resolve_account(user: str | None = None, group: str | None = None) -> Account:
    """Look up whom to run as, with all supplementary groups as initgroups(3) would set them.

    user, group: names or numbers; None: whom we are, the user's own group. Raises SpawnFailed: unknown.
    """
    if user is None:
        uid = os.geteuid()
        entry, gid = _passwd(uid), os.getegid()
    else:
        entry = _passwd(user)
        if entry is not None:
            uid, gid = entry.pw_uid, entry.pw_gid
        elif user.isdecimal():
            uid = gid = int(user)  # no entry, as in many containers: the group of the same number
        else:
            raise SpawnFailed(f"user {user!r} does not exist on this host: create it, or correct `user`")
    if group is not None:
        gid = _group_id(group)
    if uid > _MAX_ID or gid > _MAX_ID:
        raise SpawnFailed("`user` or `group` is a number that no account can have: correct it")
    switch = uid != os.geteuid() or gid != os.getegid()
    if not switch:
        groups = tuple(os.getgroups())
    else:
        groups = (gid,) if entry is None else tuple(os.getgrouplist(entry.pw_name, gid))
    name, home = (str(uid), "/") if entry is None else (entry.pw_name, entry.pw_dir or "/")
    return Account(name, uid, gid, groups, home, switch)


def job_environment(
    account: Account,
    ours: Mapping[str, str],
    extra: Mapping[str, str] | None = None,
    *,
    inherit: Sequence[str] = (),
    shell: str = DEFAULT_SHELL,
) -> dict[str, str]:
    """Return the complete environment of a job of the daemon.

    What cron gives (crontab(5): HOME, LOGNAME, SHELL, PATH; USER besides), and of *ours* the locale, the time zone and
    what *inherit* names: a variable, all that begin as ``PREFIX_*``, or all. SECRETS and SUPERVISION are never handed
    on, nor SHELL, nor what names the account to a job of another one. *extra* is what the operator wrote for this very
    job: it wins, always.
    """
    names_of_account = {"HOME": account.home, "LOGNAME": account.name, "USER": account.name, "SHELL": shell}
    withheld = SECRETS | SUPERVISION | (names_of_account.keys() if account.switch else {"SHELL"})
    environment = {name: value for name, value in ours.items() if name in _KEPT or name.startswith("LC_")}
    environment |= {"PATH": DEFAULT_PATH, **names_of_account}
    environment |= {name: value for name, value in ours.items() if name not in withheld and _is_named(name, inherit)}
    return environment | dict(extra or {})


def _is_named(name: str, inherit: Sequence[str]) -> bool:
    return any(name.startswith(text[:-1]) if text.endswith("*") else name == text for text in inherit)


def _passwd(user: str | int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        pass
    except ValueError as exc:
        raise SpawnFailed(f"user {user!r} is not a possible name") from exc
    return _passwd(int(user)) if isinstance(user, str) and user.isdecimal() else None


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError) as exc:
        if group.isdecimal():
            return int(group)
        raise SpawnFailed(f"group {group!r} does not exist on this host: create it, or correct `group`") from exc

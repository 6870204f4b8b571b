"""Whether a user can really run a program: it is tried with that user's rights, as cron would.

Modes alone don't tell: there are access lists, mounts without exec, interpreters in other places.
"""

import grp
import os
import pwd
import signal
import stat
import subprocess
from dataclasses import dataclass

from aura_agent.discover.accounts import Account
from aura_agent.discover.installation import interpreters

_TIMEOUT_S = 10.0
_DYNAMIC_ID = 61_184  # the first that systemd gives to DynamicUser=, systemd(1)
_CRON_PATH = "/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Ids:
    """What a process has of an account."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str


def why_not_runnable(program: str, account: Account, *, timeout_s: float = _TIMEOUT_S) -> str:
    """Return why *account* can't run *program* (``--version`` is tried); empty if it can.

    Who isn't root can only try it for oneself, whatever the account.
    """
    if os.geteuid() != 0:
        return _try(program, None, str(account), timeout_s)
    try:
        ids = ids_of(account)
    except LookupError as problem:
        return str(problem)
    return _try(program, ids, str(account), timeout_s)


def ids_of(account: Account) -> Ids:
    """Return what a process of *account* has. Raises LookupError: there is no such user or group here."""
    entry = None
    if account.name.isascii() and account.name.isdigit():
        uid = int(account.name)
        entry = next((found for found in pwd.getpwall() if found.pw_uid == uid), None)
        if entry is None:
            return Ids(uid, _gid(account.group, uid), (), account.name, "/")
    elif account.name:
        try:
            entry = pwd.getpwnam(account.name)
        except KeyError:
            if not account.dynamic:
                raise LookupError(f"there is no user {account.name} on this host") from None
    if entry is None:
        return Ids(_DYNAMIC_ID, _gid(account.group, _DYNAMIC_ID), (), "", "/")
    gid = _gid(account.group, entry.pw_gid)
    return Ids(entry.pw_uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), entry.pw_name, entry.pw_dir)


def _gid(group: str, own: int) -> int:
    """Return the number of *group*; *own* for none."""
    if not group:
        return own
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LookupError(f"there is no group {group} on this host") from None


def _try(program: str, ids: Ids | None, who: str, timeout_s: float) -> str:
    environment = {"PATH": _CRON_PATH, "SHELL": "/bin/sh"}
    if ids is not None:
        environment |= {"HOME": ids.home, "LOGNAME": ids.name}
    try:
        process = subprocess.Popen(
            [program, "--version"],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            user=None if ids is None else ids.uid,
            group=None if ids is None else ids.gid,
            extra_groups=None if ids is None else ids.groups,
        )
    except OSError as problem:
        return f"{who} can't run {program}: {_obstacle(program, ids) or problem.strerror}"
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{who} can't run {program}: it hasn't answered for {timeout_s:g} s"
    if process.returncode == 0 and output.startswith(b"aura-run "):
        return ""
    said = errors.decode(errors="replace").strip().splitlines()
    return f"{who} can't run {program}: {said[-1] if said else f'it ended with status {process.returncode}'}"


def _obstacle(program: str, ids: Ids | None) -> str:
    """Return what most probably keeps the program from starting: a directory, a file, an interpreter, a mount."""
    for path in (program, *interpreters(program)):
        real = os.path.realpath(path)
        parts = real.strip("/").split("/")
        for count in range(len(parts) + 1):
            part = "/" + "/".join(parts[:count])
            try:
                found = os.stat(part)
            except OSError as problem:
                return f"{part}: {problem.strerror}"
            if not _may_execute(found, ids):
                kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
                return f"the {kind} {part} is closed to it (mode {stat.S_IMODE(found.st_mode):04o})"
        if os.statvfs(real).f_flag & os.ST_NOEXEC:
            return f"{real} is on a file system mounted noexec"
    return ""


def _may_execute(found: os.stat_result, ids: Ids | None) -> bool:
    uid = os.geteuid() if ids is None else ids.uid
    groups = os.getgroups() if ids is None else (ids.gid, *ids.groups)
    if uid == 0:
        return stat.S_ISDIR(found.st_mode) or bool(found.st_mode & 0o111)
    if uid == found.st_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH))

"""The tables of the cron and the anacron that are installed on a host. Reads, and changes nothing.

Which cron it is decides where its tables are, and which of them it reads: a table that nothing runs has no jobs.
"""

import os
import stat
import subprocess
from collections.abc import Iterator

from aura_agent.discover.cronfiles import (
    FileFacts,
    RunParts,
    ignored_crontab_name,
    ignored_name,
    option_of,
    unreadable_line,
    users_of,
    why_ignored,
    why_no_script,
)
from aura_agent.discover.crontab import Form
from aura_agent.discover.dialects import (
    BUSYBOX,
    CRONIE,
    DEBIAN,
    SPOOLS,
    Dialect,
    chosen,
    dialect_of,
    of_distribution,
    of_packages,
)
from aura_agent.discover.host import Host, by_crontab, own_name, read_own_crontab, read_text, read_user_crontab
from aura_agent.discover.passwd import Accounts
from aura_agent.discover.plan import Batch, Left, Table

_PROGRAM_DIRECTORIES = (
    *("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"),
    "/run/current-system/sw/bin",
)
_CRONS = ("cron", "crond", "vixie-cron", "fcron", "bcron-sched", "dcron", "mcron", "supercronic")
_SYSTEMD_CRON = (
    "/usr/lib/systemd/system-generators/systemd-crontab-generator",
    "/lib/systemd/system-generators/systemd-crontab-generator",
)
_BATCHES = (
    *(f"/etc/cron.{how_often}" for how_often in ("hourly", "daily", "weekly", "monthly", "yearly")),
    *(f"/etc/periodic/{how_often}" for how_often in ("15min", "hourly", "daily", "weekly", "monthly")),  # Alpine's
)
_MAX_FILE_BYTES = 16 * 1024**2


def read_tables(host: Host) -> None:
    """Put the tables into *host*, and into what is ignored those that nothing reads."""
    host.anacron = any(os.path.exists(host.path(f"{directory}/anacron")) for directory in _PROGRAM_DIRECTORIES)
    host.run_parts = _run_parts(host)
    reader = _Reader(host)
    reader.read_users()
    reader.read_system()
    text = host.tried("/etc/anacrontab", read_text)
    if text is not None and host.anacron:
        host.tables.append(Table("/etc/anacrontab", text, "anacron"))
    elif text is not None:
        host.ignored.append(Left("/etc/anacrontab", "", "no anacron is installed here, so nothing runs it"))
        host.idle.append(Table("/etc/anacrontab", text, "anacron"))


def read_batches(host: Host) -> None:
    """Put the directories of run-parts into *host*, and into what is ignored what it doesn't run in them."""
    for directory in _BATCHES:
        if not os.path.isdir(host.path(directory)):
            continue
        scripts, ignored = [], []
        for name in host.listed(directory):
            path = host.path(f"{directory}/{name}")
            executable = os.access(path, os.X_OK)
            reason = why_no_script(name, host.run_parts, is_file=os.path.isfile(path), executable=executable)
            if not reason:
                scripts.append(name)
            elif name != ".placeholder":
                ignored.append(name)
                host.ignored.append(Left(f"{directory}/{name}", "", reason))
        host.batches[directory] = Batch(tuple(scripts), tuple(ignored))


class _Reader:
    """Reads the tables of one host's cron."""

    def __init__(self, host: Host) -> None:
        self._host = host
        cron, self._no_cron = chosen(dict(_installed(host)))
        # A copy without any programs, as of /etc and /var alone, has the cron of its distribution.
        if not host.is_live and not any(os.path.isdir(host.path(place)) for place in _PROGRAM_DIRECTORIES):
            releases = (self._settings(path) for path in ("/etc/os-release", "/usr/lib/os-release"))
            cron = of_distribution(next((text for text in releases if text is not None), ""))
        self._cron = None if cron is None else of_packages(cron, _bytes_of(host.path("/var/lib/dpkg/status")))
        self._accounts = Accounts.of_host(host.root, lambda path: host.tried(path, read_text))
        root_owner = os.stat(host.root).st_uid
        # A copy that somebody else has made says nothing of owners.
        self._root_uid = 0 if root_owner == 0 else None
        # cronie's -p: it takes files of any mode and owner.
        self._any_file = self._cron is not None and self._cron.name == CRONIE.name and self._option("p") is not None

    def read_users(self) -> None:
        """Read the users' crontabs, and name those in places where this cron doesn't look."""
        spool = self._spool()
        if spool is not None:
            self._read_spool(spool)
        seen = set() if spool is None else {self._host.path(spool)}
        for other in SPOOLS:
            real = self._host.path(other)
            if real in seen:
                continue
            seen.add(real)
            for name in self._host.listed(other):
                if os.path.isfile(self._host.path(f"{other}/{name}")) and not name.startswith("."):
                    where = "" if self._cron is None else f"{self._cron.name} reads no crontabs in {other}"
                    self._host.ignored.append(Left(f"{other}/{name}", "", where or self._no_cron))

    def read_system(self) -> None:
        """Read /etc/crontab and /etc/cron.d, or name what is there where this cron doesn't read it."""
        lsb = self._cron is not None and self._cron.name == DEBIAN.name and self._option("l") is not None
        names = self._host.tried("/etc/cron.d", os.listdir) or []
        for path in ("/etc/crontab", *(f"/etc/cron.d/{name}" for name in sorted(names))):
            name = path.rpartition("/")[2]
            if name == ".placeholder" or not os.path.lexists(self._host.path(os.path.dirname(path)) + f"/{name}"):
                continue
            if self._cron is None or not self._cron.system:
                reason = self._no_cron if self._cron is None else f"{self._cron.name} doesn't read it"
                self._host.ignored.append(Left(path, "", reason))
            elif path != "/etc/crontab" and ignored_name(name, self._cron, lsb=lsb):
                self._host.ignored.append(Left(path, "", "cron ignores a file of this name"))
            else:
                self._read_table(path, "system", None)

    def _spool(self) -> str | None:
        """Return where this cron looks for users' crontabs; None if there is no such place."""
        if self._cron is None:
            return None
        named = self._option("c") if self._cron.name == BUSYBOX.name else None
        places = (named,) if named else self._cron.spools
        return next((place for place in places if os.path.isdir(self._host.path(place))), None)

    def _read_spool(self, spool: str) -> None:
        assert self._cron is not None
        try:
            names = sorted(os.listdir(self._host.path(spool)))
        except OSError as problem:
            self._host.unreadable.append(f"{spool}: {problem.strerror}: only root sees the crontabs of others")
            if self._host.is_live:
                self._read_own(f"{spool}/{own_name()}")
            return
        for name in names:
            path = f"{spool}/{name}"
            if ignored_crontab_name(name, self._cron) or os.path.isdir(self._host.path(path)):
                continue
            orphan = not self._accounts.may_know(name)
            self._read_table(path, "user", name, f'there is no user "{name}"; cron' if orphan else "")

    def _read_own(self, path: str) -> None:
        assert self._cron is not None
        try:
            text = read_own_crontab()
        except (OSError, subprocess.TimeoutExpired):
            return  # without crontab(1) there is none either
        if text:
            self._host.tables.append(Table(path, text, "user", own_name(), self._cron))

    def _read_table(self, path: str, form: Form, owner: str | None, ignorer: str = "") -> None:
        """Read one table. *ignorer* says who ignores it, and why, if that is known already."""
        assert self._cron is not None
        cron = self._cron
        live = form == "user" and by_crontab(self._host.root)
        text = self._host.tried(path, read_user_crontab if live else read_text)
        if text is None:
            return
        reason = f"{ignorer} ignores the file" if ignorer else ""
        if not reason and not self._any_file and (file := self._why_ignored(path, cron, owner)):
            reason = f"{file}; {cron.name} ignores the file"
        if not reason and (line := unreadable_line(text, form, cron, self._accounts.may_know)):
            reason = f"{line}; {cron.name} ignores the whole file"
        if reason:
            self._host.ignored.append(Left(path, "", reason))
            self._host.idle.append(Table(path, text, form, owner, cron))
            return
        users = users_of(text, cron) if form == "system" else frozenset({owner or ""})
        unknown = frozenset(user for user in users if not self._accounts.may_know(user))
        homeless = frozenset(user for user in users if cron.needs_home and self._is_homeless(user))
        self._host.tables.append(Table(path, text, form, owner, cron, unknown, homeless))

    def _why_ignored(self, path: str, cron: Dialect, owner: str | None) -> str:
        place = self._host.path(os.path.dirname(path)) + "/" + os.path.basename(path)
        try:
            link, file = os.lstat(place), os.stat(self._host.path(path))
        except OSError:
            return ""  # it was just read; where it has gone since, the write says so
        link_uid = link.st_uid if stat.S_ISLNK(link.st_mode) else None
        facts = FileFacts(file.st_uid, file.st_mode, file.st_nlink, link_uid)
        is_users = owner is not None
        uid = None if owner is None else self._accounts.uid(owner)
        # Without the account's uid the owner of its crontab can't be judged.
        root_uid = None if is_users and uid is None and cron.name != BUSYBOX.name else self._root_uid
        return why_ignored(facts, cron, is_users=is_users, owner_uid=uid, root_uid=root_uid)

    def _is_homeless(self, user: str) -> bool:
        """Whether the home of an account isn't there. A copy that lacks the place where it should be doesn't say."""
        home = self._accounts.home(user)
        if not home:
            return False
        place = os.path.dirname(home)
        if not self._host.is_live and (place == "/" or not os.path.isdir(self._host.path(place))):
            return False
        try:
            return not stat.S_ISDIR(os.stat(self._host.path(home)).st_mode)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _option(self, letter: str) -> str | None:
        """Return the value of an option that the daemon is started with, as far as its settings say."""
        for path, variable in _OPTIONS:
            settings = self._settings(path)
            found = None if settings is None else option_of(settings, variable, letter)
            if found is not None:
                return found
        return None

    def _settings(self, path: str) -> str | None:
        try:
            return read_text(self._host.path(path))
        except OSError:
            return None


# Where distributions have the options of their cron: Debian, Fedora and its kin, Alpine.
_OPTIONS = (
    ("/etc/default/cron", "EXTRA_OPTS"),
    ("/etc/sysconfig/crond", "CRONDARGS"),
    ("/etc/conf.d/crond", "CRON_OPTS"),
)


def _installed(host: Host) -> Iterator[tuple[str, Dialect | str]]:
    """Yield the crons that are installed, by the paths of their programs."""
    for directory in _PROGRAM_DIRECTORIES:
        for name in _CRONS:
            path = host.path(f"{directory}/{name}")
            is_busybox = os.path.basename(path).startswith("busybox")
            if not is_busybox and not os.path.isfile(path):  # busybox itself may be missing in a copy
                continue
            yield path, dialect_of(_bytes_of(path), is_busybox=is_busybox) if name in ("cron", "crond") else name
    if any(os.path.exists(host.path(generator)) for generator in _SYSTEMD_CRON):
        yield _SYSTEMD_CRON[0], "systemd-cron"


def _bytes_of(path: str) -> bytes:
    """Return what a file holds; nothing if it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError:
        return b""


def _run_parts(host: Host) -> RunParts:
    for directory in ("/usr/bin", "/bin", "/usr/sbin"):
        path = host.path(f"{directory}/run-parts")
        if os.path.basename(path).startswith("busybox"):
            return "busybox"
        if os.path.isfile(path):
            return "script" if _bytes_of(path).startswith(b"#!") else "debianutils"
    return "debianutils"

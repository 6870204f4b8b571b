"""What this host, or a copy of one below *root*, has of crontabs and timers. Reads, and changes nothing.

Where cron looks, and which files it passes over: cron(8) of Debian and of cronie.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import aura_agent
from aura_agent.discover.below import below
from aura_agent.discover.crontab import Form, without_header
from aura_agent.discover.plan import DROP_INS, Batch, Left, Table, Timer
from aura_agent.discover.units import read_unit

_MAX_FILE_BYTES = 1024**2
_SPOOLS = ("/var/spool/cron/crontabs", "/var/spool/cron")  # Debian's, cronie's
_BATCHES = tuple(f"/etc/cron.{how_often}" for how_often in ("hourly", "daily", "weekly", "monthly", "yearly"))
_RUN_PARTS_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)  # run-parts(8), and Debian's cron for /etc/cron.d
_CRONIE_IGNORES = re.compile(r"[.#].*|.*~|.*\.rpm(?:save|orig|new)")
_UNIT_PATH = (  # systemd.unit(5), the first that has a file counts
    *("/etc/systemd/system", "/run/systemd/transient", "/run/systemd/system"),
    *("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"),
)
MAX_COMMAND_BYTES = 998  # MAX_COMMAND of Debian's cron, with its end
_COMMAND_TIMEOUT_S = 30.0

_T = TypeVar("_T")


@dataclass(slots=True)
class Host:
    """What was found below ``root``; ``unreadable`` are places and why they couldn't be read."""

    root: str
    tables: list[Table] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    batches: dict[str, Batch] = field(default_factory=dict)
    ignored: list[Left] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    systemd: bool = False
    anacron: bool = False
    cron_tz: bool | None = None
    max_command_bytes: int | None = None
    run_parts_tells: bool = True

    @property
    def is_live(self) -> bool:
        """Whether this is the running system, whose crontab and systemctl may be asked."""
        return self.root == "/"

    def path(self, inside: str) -> str:
        """Return where a path of the host is, links followed."""
        return below(self.root, inside)

    def may_write(self, inside: str) -> bool:
        """Whether the user who asks may put another file in the place of this one.

        A read-only file system is nobody's right or lack of it: writing there fails, with that as the reason.
        """
        directory = os.path.dirname(self.path(inside))
        while not os.path.exists(directory):
            directory = os.path.dirname(directory)
        return os.access(directory, os.W_OK) or bool(os.statvfs(directory).f_flag & os.ST_RDONLY)

    def set_aside_what_others_own(self) -> None:
        """Leave to root what only root can change: all but the own crontab, which crontab(1) writes."""
        kept = []
        for table in self.tables:
            if self.may_write(table.path) or (self.is_live and table.owner == own_name()):
                kept.append(table)
            else:
                self.ignored.append(Left(table.path, "", "only root can change it"))
        self.tables = kept
        if self.timers and not self.may_write(f"{DROP_INS}/x.service.d/x.conf"):
            self.ignored += [Left(timer.name, "", "only root can change it") for timer in self.timers]
            self.timers = []


def read_host(root: str) -> Host:
    """Look at everything; what can't be read is noted, not raised."""
    host = Host(os.path.abspath(root))
    host.systemd = os.path.isdir(host.path("/run/systemd/system"))
    host.anacron = os.path.exists(host.path("/usr/sbin/anacron"))
    host.cron_tz = _heeds_cron_tz(host)
    host.max_command_bytes = MAX_COMMAND_BYTES if host.cron_tz is False else None
    host.run_parts_tells = not _is_script(host, "/usr/bin/run-parts")
    _read_user_crontabs(host)
    _read_table(host, "/etc/crontab", "system")
    for name in _names(host, "/etc/cron.d"):
        _read_cron_d(host, name)
    _read_table(host, "/etc/anacrontab", "anacron")
    for directory in _BATCHES:
        if os.path.isdir(host.path(directory)):
            host.batches[directory] = _batch(host, directory, _names(host, directory))
    for name in sorted(_timer_names(host)):
        if not name.endswith("@.timer"):  # a template, of which nothing is in use by itself
            _read_timer(host, name)
    return host


def needed_by(aura_run: str) -> list[str]:
    """Return the files and directories without which *aura_run* doesn't run: itself, the package, its Python."""
    python = os.path.realpath(sys.executable)
    places = [aura_run, os.path.realpath(aura_run), os.path.dirname(os.path.abspath(aura_agent.__file__))]
    return list(dict.fromkeys([*places, sys.executable, python, sys.prefix, sys.base_prefix]))


def own_name() -> str:
    """Return the name of the user who asks, as crontab(1) knows it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())  # as in a container; it has no crontab either


def read_text(path: str) -> str:
    """Return the bytes of a regular file as text that keeps them all. Raises OSError."""
    # A FIFO must not hold us up.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as reader:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise OSError(22, "not a regular file", path)
        content = reader.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise OSError(27, "larger than 1 MiB", path)
    return content.decode("utf-8", "surrogateescape")


def by_crontab(root: str) -> bool:
    """Whether users' crontabs below *root* are read and written as crontab(1) shows and takes them."""
    return root == "/" and shutil.which("crontab") is not None


def read_user_crontab(path: str) -> str:
    """Return the table in a file of the spool as its owner gave it to crontab(1). Raises OSError."""
    return without_header(read_text(path))


def read_own_crontab() -> str:
    """Return the crontab of the user who asks, as ``crontab -l`` shows it; empty for none. Raises OSError."""
    done = subprocess.run(["crontab", "-l"], capture_output=True, check=False, timeout=_COMMAND_TIMEOUT_S)
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


def _read_user_crontabs(host: Host) -> None:
    for spool in _SPOOLS:
        try:
            names = sorted(entry.name for entry in os.scandir(host.path(spool)) if entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            continue
        except OSError as problem:
            host.unreadable.append(f"{spool}: {problem.strerror}: only root sees the crontabs of others")
            if host.is_live:
                _read_own(host, f"{spool}/{own_name()}")
            continue
        for name in names:
            if not _CRONIE_IGNORES.fullmatch(name):
                path = f"{spool}/{name}"
                text = _tried(host, path, read_user_crontab if by_crontab(host.root) else read_text)
                if text is not None:
                    host.tables.append(Table(path, text, "user", name))


def _read_own(host: Host, path: str) -> None:
    if any(table.path == path for table in host.tables):
        return
    try:
        text = read_own_crontab()
    except (OSError, subprocess.TimeoutExpired):
        return  # without crontab(1) there is none either
    if text:
        host.tables.append(Table(path, text, "user", own_name()))


def _read_table(host: Host, path: str, form: Form) -> None:
    text = _tried(host, path, read_text)
    if text is not None:
        host.tables.append(Table(path, text, form))


def _read_cron_d(host: Host, name: str) -> None:
    path = f"/etc/cron.d/{name}"
    cronie = host.cron_tz is True
    if (_CRONIE_IGNORES.fullmatch(name) is not None) if cronie else (_RUN_PARTS_NAME.fullmatch(name) is None):
        if name != ".placeholder":
            host.ignored.append(Left(path, "", "cron ignores a file of this name"))
    else:
        _read_table(host, path, "system")


def _batch(host: Host, directory: str, names: list[str]) -> Batch:
    scripts: list[str] = []
    ignored: list[str] = []
    for name in names:
        runs = _RUN_PARTS_NAME.fullmatch(name) and os.access(host.path(f"{directory}/{name}"), os.X_OK)
        (scripts if runs else ignored).append(name)
    return Batch(tuple(scripts), tuple(name for name in ignored if name != ".placeholder"))


def _names(host: Host, directory: str) -> list[str]:
    return sorted(_tried(host, directory, os.listdir) or [])


def _tried(host: Host, path: str, read: Callable[[str], _T]) -> _T | None:
    """Return what *read* makes of the path below the root; None for what isn't there, or can't be read."""
    try:
        return read(host.path(path))
    except FileNotFoundError:
        return None
    except OSError as problem:
        host.unreadable.append(f"{path}: {problem.strerror}")
        return None


def _heeds_cron_tz(host: Host) -> bool | None:
    """Whether the cron that is installed knows CRON_TZ, as cronie does and Debian's cron doesn't; None without one."""
    for name in ("crond", "cron"):
        try:
            with open(host.path(f"/usr/sbin/{name}"), "rb") as program:
                return b"CRON_TZ" in program.read()
        except OSError:
            continue
    return None


def _is_script(host: Host, path: str) -> bool:
    try:
        with open(host.path(path), "rb") as program:
            return program.read(2) == b"#!"
    except OSError:
        return False


def _timer_names(host: Host) -> set[str]:
    """Return the timers that are in use: those that systemd has active, else those that some target wants."""
    if host.is_live and host.systemd:
        command = ["systemctl", "list-units", "--type=timer", "--state=active", "--plain", "--no-legend", "--no-pager"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMMAND_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError):
            host.unreadable.append("systemctl: can't tell which timers are active; those that are enabled are taken")
        else:
            return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    return set(_wanted_timers(host))


def _wanted_timers(host: Host) -> Iterator[str]:
    for directory in _UNIT_PATH:
        for target in _listed(host, directory):
            if target.endswith((".wants", ".requires")):
                yield from (name for name in _listed(host, f"{directory}/{target}") if name.endswith(".timer"))


def _listed(host: Host, directory: str) -> list[str]:
    """Return the names in a directory; none if it can't be read."""
    try:
        return os.listdir(host.path(directory))
    except OSError:
        return []


def _read_timer(host: Host, name: str) -> None:
    timer = _read_unit(host, name)
    if timer is None:
        return
    service_name = (timer.get(("Timer", "Unit")) or [f"{name.removesuffix('.timer')}.service"])[-1]
    service = _read_unit(host, service_name)
    if service is None or "%" in service_name:
        host.ignored.append(Left(name, "", f"its service {service_name} isn't there"))
    else:
        host.timers.append(Timer(name, service_name, timer, service))


def _read_unit(host: Host, name: str) -> dict[tuple[str, str], list[str]] | None:
    """Return the settings of a unit; None if it isn't there, or masked."""
    stem, dot, suffix = name.rpartition(".")
    template = f"{stem.partition('@')[0]}@{dot}{suffix}" if "@" in stem else name
    fragment = next(
        (
            path
            for path in (f"{directory}/{one}" for one in (name, template) for directory in _UNIT_PATH)
            if os.path.exists(host.path(path)) or host.path(path) == host.path(os.devnull)
        ),
        None,
    )
    if fragment is None or host.path(fragment) == host.path(os.devnull):
        return None
    # Of drop-ins with one name the one of the first directory counts; they are read in the order of their names.
    drop_ins: dict[str, str] = {}
    for one in dict.fromkeys((name, template)):
        for directory in _UNIT_PATH:
            for drop_in in _listed(host, f"{directory}/{one}.d"):
                if drop_in.endswith(".conf"):
                    drop_ins.setdefault(drop_in, f"{directory}/{one}.d/{drop_in}")
    texts = []
    for path in (fragment, *(drop_ins[drop_in] for drop_in in sorted(drop_ins))):
        text = None if host.path(path) == host.path(os.devnull) else _tried(host, path, read_text)
        if text is not None:
            texts.append(text)
    return read_unit(texts)

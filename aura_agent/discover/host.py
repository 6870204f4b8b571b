"""A host, or a copy of one below *root*: its files, and what of crontabs and timers was found in them."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import aura_agent
from aura_agent.discover.below import below
from aura_agent.discover.cronfiles import RunParts
from aura_agent.discover.crontab import without_header
from aura_agent.discover.plan import DROP_INS, Batch, Left, Table, Timer

_MAX_FILE_BYTES = 1024**2
COMMAND_TIMEOUT_S = 30.0

_T = TypeVar("_T")


@dataclass(slots=True)
class Host:
    """What was found below ``root``.

    ``idle`` are tables that nothing runs, each with its reason in ``ignored``; ``unreadable`` are places and why they
    couldn't be read.
    """

    root: str
    tables: list[Table] = field(default_factory=list)
    idle: list[Table] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    batches: dict[str, Batch] = field(default_factory=dict)
    ignored: list[Left] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    systemd: bool = False
    anacron: bool = False
    run_parts: RunParts = "debianutils"

    @property
    def is_live(self) -> bool:
        """Whether this is the running system, whose crontab and systemctl may be asked."""
        return self.root == "/"

    def path(self, inside: str) -> str:
        """Return where a path of the host is, links followed."""
        return below(self.root, inside)

    def tried(self, inside: str, read: Callable[[str], _T]) -> _T | None:
        """Return what *read* makes of a path of the host; None for what isn't there, or can't be read."""
        try:
            return read(self.path(inside))
        except FileNotFoundError:
            return None
        except OSError as problem:
            self.unreadable.append(f"{inside}: {problem.strerror}")
            return None

    def listed(self, directory: str) -> list[str]:
        """Return the names in a directory; none if it can't be read."""
        try:
            return sorted(os.listdir(self.path(directory)))
        except OSError:
            return []

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
        self.idle = [table for table in self.idle if self._is_ours(table)]
        self.ignored += [
            Left(table.path, "", "only root can change it") for table in self.tables if not self._is_ours(table)
        ]
        self.tables = [table for table in self.tables if self._is_ours(table)]
        if self.timers and not self.may_write(f"{DROP_INS}/x.service.d/x.conf"):
            self.ignored += [Left(timer.name, "", "only root can change it") for timer in self.timers]
            self.timers = []

    def _is_ours(self, table: Table) -> bool:
        """Whether the user who asks may change a table."""
        return self.may_write(table.path) or (self.is_live and table.owner == own_name())


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
    done = subprocess.run(["crontab", "-l"], capture_output=True, check=False, timeout=COMMAND_TIMEOUT_S)
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""

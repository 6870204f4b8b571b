"""Whether the store went back in time: a backup or a snapshot of it was put in its place.

A number in the database grows with each lease, before anything is sent, and with each failure and each drop by a
person. A copy of it, the *mark*, lies outside the store, in memory that a reboot empties. A database behind its mark is
an older one: what waits in it may have been sent since, or contradicted. Such pings are *held* until somebody knows
better (``aura_agent.outbox.entries``). Aura knows what was sent, but of no failure: so those are counted apart.

A mark can only be behind, never ahead, of the database that wrote it: it is written after the commit. So a power cut, a
reboot, a first start and a store copied to another host raise no alarm, and no clock is asked.
"""

import os
import sqlite3
from hashlib import sha256
from typing import NamedTuple

from aura_agent.outbox.database import transaction
from aura_agent.outbox.rules import Moment

HELD = "held: the store was put back to an earlier state; released by Aura's last ping or `queue flush`"
_MAX_BYTES = 8192
_LOOKED_THROUGH = 200
_STORE = 3  # the word of a mark that is the store's path, the rest of it


class Mark(NamedTuple):
    """What the store knew when its *number* last grew, and when that was, in which boot.

    *contradictions* is how often it grew by what speaks against pings that wait: a failure, a drop.
    """

    number: int
    contradictions: int
    boot_id: str
    boot_ns: int


def default_directory() -> str:
    """Return where marks lie, whatever the environment says: all processes of a user have to agree."""
    return f"/dev/shm/aura-agent-{os.geteuid()}"  # noqa: S108  # _prepare looks whose it is


class Generation:
    """The number of one store, and its mark in *directory* (None: there is none)."""

    def __init__(self, connection: sqlite3.Connection, store: str | None, directory: str | None) -> None:
        self._connection = connection
        self._store = "" if store is None else os.path.realpath(store)  # a copy elsewhere goes its own way
        self._directory = None if store is None else directory
        self._grown_ns: int | None = None  # when it last grew, if the mark hasn't followed yet

    def is_behind(self, boot_id: str) -> Mark | None:
        """Return the mark if the database is behind it."""
        if self._directory is None:
            return None
        name, number, _ = self._read()
        mark = read(self._directory, name, boot_id)
        return mark if mark is not None and mark.number > number else None

    def catch_up(self, mark: Mark, epoch: int) -> int:
        """Hold what waits from before *mark*, and what is yet to come from there; return how many pings wait so.

        *epoch* is the boot's number at the mark.
        """
        with transaction(self._connection):
            held_until = (epoch, mark.boot_ns)
            self._connection.execute(
                "UPDATE generation SET number = ?1, contradictions = ?2, held_epoch = ?3, held_boot_ns = ?4,"
                " held_against = contradictions < ?2"
                " OR held_against AND EXISTS (SELECT 1 FROM entries WHERE state = 'waiting' AND held)",
                (mark.number, mark.contradictions, *held_until),
            )
            return self._connection.execute(
                "UPDATE entries SET held = 1, reason = ? WHERE state = 'waiting' AND (epoch, ended_boot_ns) <= (?, ?)",
                (HELD, *held_until),
            ).rowcount

    def holds(self, ended: Moment) -> bool:
        """Whether a run that ended then may have been dealt with by the store that was there before."""
        row = self._connection.execute("SELECT held_epoch, held_boot_ns FROM generation").fetchone()
        return row["held_epoch"] is not None and (ended.epoch, ended.boot_ns) <= tuple(row)

    def holds_what_was_contradicted(self) -> bool:
        """Whether something has been contradicted since what is held was waiting: it may be any of that."""
        return bool(self._connection.execute("SELECT held_against FROM generation").fetchone()[0])

    def grow(self, now: Moment, *, contradicts: bool = False) -> None:
        """Something is about to be sent, or speaks against what may wait. Works inside the transaction that says so."""
        if self._directory is not None:
            self._connection.execute(
                "UPDATE generation SET number = number + 1, contradictions = contradictions + ?", (contradicts,)
            )
            self._grown_ns = now.boot_ns

    def publish(self, boot_id: str) -> None:
        """Write the mark if the number has grown, once that is committed and before anything is sent."""
        if self._directory is None or self._grown_ns is None:
            return
        name, number, contradictions = self._read()
        before = read(self._directory, name, boot_id)
        if before is None or before.number < number:
            write(self._directory, name, Mark(number, contradictions, boot_id, self._grown_ns), self._store)
        self._grown_ns = None

    def _read(self) -> tuple[str, int, int]:
        """Return the name of the mark's file, the number, and how often it grew by a contradiction."""
        row = self._connection.execute("SELECT store_id, number, contradictions FROM generation").fetchone()
        name = sha256(f"{row['store_id']} {self._store}".encode("utf-8", "surrogateescape")).hexdigest()
        return name, row["number"], row["contradictions"]


def read(directory: str, name: str, boot_id: str) -> Mark | None:
    """Return the mark of this boot; None if there is none that is ours."""
    try:
        file = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(file).st_uid != os.geteuid():
            return None
        counts, marked_boot_id, boot_ns, _ = os.read(file, _MAX_BYTES).split(maxsplit=_STORE)
        number, _, contradictions = counts.partition(b"/")
        if marked_boot_id != boot_id.encode():
            return None
        return Mark(int(number), int(contradictions or 0), boot_id, int(boot_ns))
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)


def write(directory: str, name: str, mark: Mark, store: str) -> None:
    """Write the mark of *store* if there is a place for it; who is killed meanwhile leaves the one before."""
    path = os.path.join(directory, name)
    new = f"{path}.{os.getpid()}"
    try:
        if not os.path.exists(path):
            _prepare(directory)
            _remove_old(directory)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            counts = b"%d/%d" % (mark.number, mark.contradictions)
            os.write(file, b"%b %b %d %b" % (counts, mark.boot_id.encode(), mark.boot_ns, os.fsencode(store)))
        finally:
            os.close(file)
        os.rename(new, path)
    except OSError:
        pass  # without a mark nothing is noticed, and nothing is held


def _remove_old(directory: str) -> None:
    """Remove marks of stores that are gone, so that they fill no memory."""
    for name in os.listdir(directory)[:_LOOKED_THROUGH]:
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                words = file.read(_MAX_BYTES).split(maxsplit=_STORE)
            if len(words) <= _STORE or not os.path.exists(words[_STORE]):
                os.unlink(path)
        except OSError:
            pass


def _prepare(directory: str) -> None:
    """Have *directory* for us alone. Raises OSError."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        found = os.lstat(directory)
        if found.st_mode & 0o170077 != 0o040000 or found.st_uid != os.geteuid():
            raise PermissionError(1, "not ours alone", directory) from None

"""What keeps a store small: bounds for its rows and its bytes, and what goes first when they are reached.

In this order: output of old runs, ended entries (superseded ones before others, the oldest first), waiting successes
that a later one of their stream stands for, bodies, runs. A stream's newest success stays whatever happens, and so do
its marks: it is no row of these tables that keeps a ping from being false. Names of which nothing was reported in 90
days go, too; the newest of their marks stays for all of them (``refs``).

It goes a bounded step at a time, after a report was accepted or attempts have ended, so that nobody waits long for it:
what a step doesn't come to is left to the next. The file shrinks by incremental vacuum, as slowly.
"""

import sqlite3
from dataclasses import dataclass

from aura_agent.errors import StoreError
from aura_agent.outbox.database import reading, transaction
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.refs import Refs, is_old, long_ago
from aura_agent.outbox.rules import Moment, State

_LOOK_EVERY_ROWS = 200  # of history, and ended attempts, whoever wrote them
_STEP_ROWS = 1000
_BATCH_ROWS = 100  # while bytes are short: rows may be large
_VACUUM_PAGES = 256  # 1 MiB at SQLite's page size
_SPARE_PAGES = 256  # free ones that stay: they are used again soon


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a store holds: rows of each kind, and bytes of the database file that are in use."""

    runs_per_job: int = 200
    runs: int = 50_000
    ended: int = 5000
    waiting: int = 200_000
    in_use_bytes: int = 256 << 20


class Pruner:
    """Keeps one store within *bounds*. ``problem`` says why it can't now: nobody's report or ping fails for that."""

    def __init__(self, connection: sqlite3.Connection, entries: Entries, bounds: Bounds) -> None:
        self._connection = connection
        self._entries = entries
        self._refs = Refs(connection)
        self._bounds = bounds
        self._is_due = False
        self.problem = ""

    def saw(self, number: int) -> None:
        """The row of that number was written, or is at its end: now and then that is a reason to look."""
        self._is_due = self._is_due or number % _LOOK_EVERY_ROWS == 0

    def step_if_due(self, now: Moment) -> None:
        """Go a step towards the bounds, in a transaction of its own; what isn't done then is due the next time."""
        try:
            with reading():
                is_due = self._is_due or _is_crowded(self._connection, self._bounds)
            if is_due:
                with transaction(self._connection):
                    more = self._step(now)
                with reading():
                    self._is_due = _vacuum(self._connection) or more
            self.problem = ""
        except StoreError as problem:
            self.problem = str(problem)

    def _step(self, now: Moment) -> bool:
        """Return whether there is more to do."""
        connection, bounds = self._connection, self._bounds
        more = [
            _delete_beyond_job(connection, bounds.runs_per_job),
            _delete(connection, "runs", f"{_OLDEST_RUNS} LIMIT max(0, (SELECT count(*) FROM runs) - ?)", bounds.runs),
            _delete(
                connection,
                "entries",
                f"{_ENDED} LIMIT max(0, (SELECT count(*) FROM entries WHERE state <> 'waiting') - ?)",
                bounds.ended,
            ),
        ]
        (waiting,) = connection.execute("SELECT count(*) FROM entries WHERE state = 'waiting'").fetchone()
        crowded_out = _stood_for(connection, min(_STEP_ROWS, waiting - bounds.waiting))
        if not crowded_out and _is_crowded(connection, bounds) and not _make_room(connection):
            crowded_out = _stood_for(connection, _BATCH_ROWS)
            if not crowded_out:
                _strip(connection)
        more += [
            self._refs.prune(now, _STEP_ROWS) == _STEP_ROWS,
            _forget_jobs(connection, now) == _STEP_ROWS,
        ]
        for entry_id, stream_id in crowded_out:
            self._entries.withdraw(entry_id, stream_id, State.SUPERSEDED, _STORE_IS_FULL, now)
        return any(more) or bool(crowded_out)


def _vacuum(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system, outside any transaction; return whether there are more to give."""
    free = _free_pages(connection)
    if free <= _SPARE_PAGES:
        return False
    # Not execute(): it takes one step of the statement, and each step gives back one page.
    connection.executescript(f"PRAGMA incremental_vacuum({min(_VACUUM_PAGES, free - _SPARE_PAGES)})")
    # None go from a file that was made without auto_vacuum: they are used again.
    return _SPARE_PAGES < _free_pages(connection) < free


_STORE_IS_FULL = "a later success waits, and the store is full"
_OLDEST_RUNS = "SELECT rowid FROM runs ORDER BY rowid"
_ENDED = "SELECT rowid FROM entries WHERE state <> 'waiting' ORDER BY state <> 'superseded', changed_wall_ns, id"


def _make_room(connection: sqlite3.Connection) -> bool:
    """Take away the next batch of what is least worth keeping; return whether there was any."""
    return bool(
        connection.execute(
            f"UPDATE runs SET tail = '' WHERE rowid IN (SELECT rowid FROM runs WHERE tail <> '' ORDER BY rowid"
            f" LIMIT {_BATCH_ROWS})"
        ).rowcount
        or connection.execute(f"DELETE FROM entries WHERE rowid IN ({_ENDED} LIMIT {_BATCH_ROWS})").rowcount
    )


def _strip(connection: sqlite3.Connection) -> None:
    """Take away bodies, without which a ping says the same, and then runs."""
    stripped = connection.execute(
        "UPDATE entries SET body = NULL WHERE id IN (SELECT id FROM entries WHERE body IS NOT NULL ORDER BY id"
        f" LIMIT {_BATCH_ROWS})"
    ).rowcount
    if not stripped:
        connection.execute(f"DELETE FROM runs WHERE rowid IN ({_OLDEST_RUNS} LIMIT {_BATCH_ROWS})")


def _stood_for(connection: sqlite3.Connection, limit: int) -> list[tuple[int, int]]:
    """Return the oldest waiting entries, with their streams, behind which a later success of the stream waits."""
    if limit <= 0:
        return []
    rows = connection.execute(
        "SELECT id, stream_id FROM entries AS old WHERE state = 'waiting' AND EXISTS (SELECT 1 FROM entries AS later"
        " WHERE later.stream_id = old.stream_id AND later.state = 'waiting' AND (later.epoch, later.started_boot_ns,"
        " later.run_id) > (old.epoch, old.started_boot_ns, old.run_id)) AND NOT EXISTS (SELECT 1 FROM streams"
        " WHERE streams.id = old.stream_id AND lease_owner IS NOT NULL AND lease_entry = old.id) ORDER BY id LIMIT ?",
        (limit,),
    )
    return [(row["id"], row["stream_id"]) for row in rows]


def _forget_jobs(connection: sqlite3.Connection, now: Moment) -> int:
    """Delete what is known of jobs of which nothing was reported in 90 days, but what the scheduler has noted."""
    return connection.execute(
        "DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE last_fire_wall_ns IS NULL AND reboot_id IS NULL"
        f" AND NOT paused AND newest_epoch IS NOT NULL AND {is_old('newest')} LIMIT {_STEP_ROWS})",
        long_ago(now),
    ).rowcount


def _delete_beyond_job(connection: sqlite3.Connection, bound: int) -> bool:
    """Delete the older runs of each job that has more than *bound*, as ``_delete`` does.

    Job by job: numbering all rows of a full history would take longer than the reports between two looks.
    """
    left = _STEP_ROWS
    for (job,) in connection.execute("SELECT job FROM runs GROUP BY job HAVING count(*) > ?", (bound,)).fetchall():
        left -= connection.execute(
            "DELETE FROM runs WHERE rowid IN"
            " (SELECT rowid FROM runs WHERE job = ? ORDER BY started_wall_ns DESC LIMIT ? OFFSET ?)",
            (job, left, bound),
        ).rowcount
    return left == 0


def _delete(connection: sqlite3.Connection, table: str, chosen: str, bound: int) -> bool:
    """Delete those of *table* that *chosen* has beyond *bound*, so many in a step; return whether that was the step."""
    deleted = connection.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM ({chosen}) LIMIT {_STEP_ROWS})", (bound,)
    ).rowcount
    return deleted == _STEP_ROWS


def _is_crowded(connection: sqlite3.Connection, bounds: Bounds) -> bool:
    """Whether the file is over its bytes: numbers of its first page, so ask as often as you like."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size <= bounds.in_use_bytes:
        return False
    return bool((pages - _free_pages(connection)) * size > bounds.in_use_bytes)


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])

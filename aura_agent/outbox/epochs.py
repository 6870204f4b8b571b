"""The store's sense of time: which boot has which number, what now is, and how old what is from before a boot must be.

The database numbers boots (``aura_agent.outbox.boot_numbers``); ``boots`` in the store's directory has those in which
nobody opened it. Here is also the newest wall-clock instant that was seen in each. Works inside the transactions of
``aura_agent.outbox.store``.

A boot has two numbers if ``boots`` says that the store was elsewhere meanwhile. Any process may find that out while
others have the store open, so each transaction reads the numbers anew; which of them a run has, its start decides.
"""

import sqlite3
from collections.abc import Callable

from aura_agent.clock import Clock
from aura_agent.outbox.boot_numbers import BETWEEN_BOOTS_NS, NumberedBoot, UnseenBoot, number, place
from aura_agent.outbox.database import reading, transaction
from aura_agent.outbox.rules import Key, Moment
from aura_agent.report import boots
from aura_agent.report.record import Report

_UNSEEN_KEPT = 1000


class Epochs:
    """The boots that the store in *directory* has seen (None: one in memory); *boot_id* is the boot of *clock*."""

    def __init__(self, connection: sqlite3.Connection, directory: str | None, clock: Clock, boot_id: str) -> None:
        """Number the boot if it is new. Raises StoreError."""
        self._connection = connection
        self._directory = directory
        self._clock = clock
        self.boot_id = boot_id
        self._epoch = self._number()

    def now(self) -> Moment:
        return self._moment(self._connection)

    def clock_over(self, connection: sqlite3.Connection) -> Callable[[], Moment]:
        """Return what tells the time as ``now`` does, but reads the database by *connection*."""
        return lambda: self._moment(connection)

    def key(self, report: Report) -> Key:
        """Return the place of the run in the order: of one in a boot that the store never saw, by when it was."""
        started_ns = report.started.boot_ns
        known = self._number_at(report.boot_id, started_ns)
        if known is not None:
            return Key(known, started_ns, report.run_id)
        boot = self._unseen(report)
        return Key(boot.late if report.outcome.withdraws else boot.early, boot.boot_ns(started_ns), report.run_id)

    def number_of(self, boot_ns: int) -> int:
        """Return the number of the boot that goes on, for what began or happened then."""
        return self._number_at(self.boot_id, boot_ns) or self._epoch

    def origin(self, key: Key) -> tuple[str, int]:
        """Return the boot id of a run, and CLOCK_BOOTTIME at its start there."""
        if key.boot_ns >= BETWEEN_BOOTS_NS:
            unseen = self._connection.execute(
                "SELECT * FROM unseen_boots WHERE ? IN (early, late) AND began_wall_ns <= ?"
                " ORDER BY began_wall_ns DESC LIMIT 1",
                (key.epoch, key.boot_ns - BETWEEN_BOOTS_NS),
            ).fetchone()
            if unseen is not None:
                return unseen["boot_id"], _as_unseen(unseen).started_boot_ns(key.boot_ns)
            return f"unknown-{key.epoch}-{key.boot_ns}", key.boot_ns - BETWEEN_BOOTS_NS
        row = self._connection.execute(
            "SELECT boot_id, newest_wall_ns FROM epochs WHERE epoch = ?", (key.epoch,)
        ).fetchone()
        if row is None or row["boot_id"] is None:
            newest_ns = 0 if row is None else row["newest_wall_ns"]
            return f"unknown-{key.epoch}-{newest_ns}", key.boot_ns
        return row["boot_id"], key.boot_ns

    def age_s(self, now: Moment) -> float:
        """Return for how long this store has known the boot of *now*."""
        first_ns = self._first_seen_ns(now.epoch)
        return 0.0 if first_ns is None else (now.boot_ns - first_ns) / 1e9

    def saw(self, epoch: int, wall_ns: int) -> None:
        """The wall clock has been there in that boot."""
        self._connection.execute(
            "INSERT INTO epochs (epoch, newest_wall_ns) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET newest_wall_ns = max(newest_wall_ns, excluded.newest_wall_ns)",
            (epoch, wall_ns),
        )

    def newest_before_ns(self, epoch: int) -> int:
        """Return the newest instant of the wall clock that earlier boots have seen."""
        query = "SELECT coalesce(max(newest_wall_ns), 0) FROM epochs WHERE epoch < ?"
        return int(self._connection.execute(query, (epoch,)).fetchone()[0])

    # -- private -------------------------------------------------------------------------------------------------

    def _moment(self, connection: sqlite3.Connection) -> Moment:
        with reading():
            row = connection.execute(
                "SELECT (SELECT max(epoch) FROM epochs WHERE boot_id = ?), (SELECT max(epoch) FROM epochs)",
                (self.boot_id,),
            ).fetchone()
        epoch = self._epoch if row[0] is None else int(row[0])
        return Moment(epoch, *self._clock.read(), newest_epoch=max(epoch, row[1] or 0))

    def _number(self) -> int:
        """Return the number of the boot that goes on; note the CLOCK_BOOTTIME at which this store first saw it."""
        lines = self._lines()
        with reading():
            added, current = number(self._known_ids(), lines, self.boot_id)
            first_ns = self._first_seen_ns(current)
        if not added and first_ns is not None:
            return current
        with transaction(self._connection):
            known = self._known_ids()
            added, current = number(known, lines, self.boot_id)  # others may have numbered it meanwhile
            self._connection.executemany(
                "INSERT INTO epochs (epoch, newest_wall_ns, boot_id) VALUES (?, 0, ?)"
                " ON CONFLICT DO UPDATE SET boot_id = excluded.boot_id",
                added.items(),
            )
            self._connection.execute(
                "UPDATE epochs SET first_boot_ns = coalesce(first_boot_ns, ?),"
                " first_wall_ns = coalesce(first_wall_ns, ?) WHERE epoch = ?",
                (*self._clock.read(), current),
            )
            before = max((at for at, boot_id in known.items() if boot_id == self.boot_id), default=current)
            if before < current:
                self._carry_on(before, current)
        return current

    def _carry_on(self, before: int, current: int) -> None:
        """The boot that goes on has another number: leases and waits that were counted in it go on, too."""
        for table, column in (("streams", "lease_epoch"), ("streams", "due_epoch"), ("hosts", "epoch")):
            self._connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {column} = ?",  # names of ours
                (current, before),
            )

    def _lines(self) -> list[str]:
        """Return the lines of ``boots``, the last of them of this boot; the database can do without the file."""
        if self._directory is None:
            return []
        try:
            boots.count(self._directory, self.boot_id)
            return boots.lines(self._directory)
        except OSError:
            return []

    def _known_ids(self) -> dict[int, str | None]:
        return {row["epoch"]: row["boot_id"] for row in self._connection.execute(f"{_NUMBERED} ORDER BY epoch")}

    def _first_seen_ns(self, epoch: int) -> int | None:
        row = self._connection.execute("SELECT first_boot_ns FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
        return None if row is None or row["first_boot_ns"] is None else int(row["first_boot_ns"])

    def _number_at(self, boot_id: str, boot_ns: int) -> int | None:
        """Return the number that *boot_id* had at *boot_ns*, None if it has none: the same for whoever asks, ever."""
        row = self._connection.execute(
            "SELECT coalesce(max(epoch) FILTER (WHERE coalesce(first_boot_ns, 0) <= ?), min(epoch))"
            " FROM epochs WHERE boot_id = ?",
            (boot_ns, boot_id),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def _unseen(self, report: Report) -> UnseenBoot:
        """Return the place of the boot of *report*, once and for all decided by its first report."""
        row = self._connection.execute("SELECT * FROM unseen_boots WHERE boot_id = ?", (report.boot_id,)).fetchone()
        if row is not None:
            return _as_unseen(row)
        known = [
            NumberedBoot(
                row["epoch"],
                row["boot_id"],
                0 if row["first_wall_ns"] is None else max(0, row["first_wall_ns"] - (row["first_boot_ns"] or 0)),
                max(row["newest_wall_ns"], row["first_wall_ns"] or 0),
            )
            for row in self._connection.execute(f"{_NUMBERED} AND epoch < ? ORDER BY epoch", (self.now().epoch,))
        ]
        boot = place(known, report.started, report.ended)
        self._connection.execute("INSERT INTO unseen_boots VALUES (?, ?, ?, ?)", (report.boot_id, *boot))
        self._connection.execute(
            "DELETE FROM unseen_boots WHERE rowid <= (SELECT max(rowid) FROM unseen_boots) - ?", (_UNSEEN_KEPT,)
        )
        return boot


_NUMBERED = "SELECT * FROM epochs WHERE epoch > 0"  # an older version kept there what was from before all


def _as_unseen(row: sqlite3.Row) -> UnseenBoot:
    return UnseenBoot(row["early"], row["late"], row["began_wall_ns"])

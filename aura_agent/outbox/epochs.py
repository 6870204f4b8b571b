"""The store's sense of time: which boot is which epoch, what now is, and how old what is from before a boot must be.

A boot's number is a line of ``boots`` in the store's directory; the newest wall-clock instants that were seen in it are
in the database. Works inside the transactions of ``aura_agent.outbox.store``.
"""

import sqlite3

from aura_agent.clock import Clock
from aura_agent.outbox.database import reading, transaction
from aura_agent.outbox.rules import Moment
from aura_agent.report import boots


class Epochs:
    """The boots that the store in *directory* has seen (None: one in memory); *boot_id* is the boot of *clock*."""

    def __init__(self, connection: sqlite3.Connection, directory: str | None, clock: Clock, boot_id: str) -> None:
        """Count the boot if it is new. Raises OSError, StoreError."""
        self._connection = connection
        self._directory = directory
        self._clock = clock
        self.boot_id = boot_id
        self.epoch = 1 if directory is None else boots.count(directory, boot_id)
        self._began_ns = self._first_seen_ns()

    def now(self) -> Moment:
        reading = self._clock.read()
        return Moment(self.epoch, reading.boot_ns, reading.wall_ns)

    def of(self, boot_id: str) -> int:
        """Return the boot's epoch; 0, before all others, for one that this store never saw."""
        if boot_id == self.boot_id:
            return self.epoch
        return 0 if self._directory is None else boots.known(self._directory).get(boot_id, 0)

    def age_s(self, now: Moment) -> float:
        """Return for how long this store has known the boot of *now*."""
        return (now.boot_ns - self._began_ns) / 1e9

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

    def _first_seen_ns(self) -> int:
        """Return the CLOCK_BOOTTIME at which this store first saw the boot that we are in."""
        query = "SELECT first_boot_ns FROM epochs WHERE epoch = ? AND first_boot_ns IS NOT NULL"
        with reading():
            row = self._connection.execute(query, (self.epoch,)).fetchone()
        if row is not None:
            return int(row["first_boot_ns"])
        with transaction(self._connection):
            boot_ns = self.now().boot_ns
            self._connection.execute(
                "INSERT INTO epochs VALUES (?, 0, ?)"
                " ON CONFLICT DO UPDATE SET first_boot_ns = coalesce(first_boot_ns, excluded.first_boot_ns)",
                (self.epoch, boot_ns),
            )
        return boot_ns

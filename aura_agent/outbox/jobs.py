"""What the scheduler must not forget over restarts: fire times dealt with, boots that jobs have seen, pauses."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from aura_agent.outbox.database import reading, transaction


class Mark(NamedTuple):
    """How far a job's fire times have been dealt with, in nanoseconds since the Unix epoch, and by which schedule.

    ``ahead_ns`` is how far by clocks that were far ahead; ``schedule`` None: an older version wrote.
    """

    last_fire_ns: int
    ahead_ns: tuple[int, ...] = ()
    schedule: str | None = None


class JobMarks:
    """The marks of all jobs, in the store's database. Methods block on the disk and raise StoreError."""

    def __init__(self, connection: sqlite3.Connection, check_usable: Callable[[], None]) -> None:
        """*check_usable* raises StoreError where nothing can be written."""
        self._connection = connection
        self._check_usable = check_usable

    def marks(self) -> dict[str, Mark]:
        """Return the mark of each job that has one."""
        query = "SELECT job, last_fire_wall_ns, ahead_wall_ns, schedule FROM jobs WHERE last_fire_wall_ns IS NOT NULL"
        with reading():
            return {
                job: Mark(last, tuple(map(int, (ahead or "").split())), schedule)
                for job, last, ahead, schedule in self._connection.execute(query)
            }

    def set_marks(self, marks: Mapping[str, Mark], gone: Iterable[str] = ()) -> None:
        """Remember *marks*: no slot up to them runs again, also after a restart. Forget those of the jobs in *gone*."""
        self._check_usable()
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO jobs (job, last_fire_wall_ns, ahead_wall_ns, schedule) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET last_fire_wall_ns = excluded.last_fire_wall_ns,"
                " ahead_wall_ns = excluded.ahead_wall_ns, schedule = excluded.schedule",
                [
                    (job, mark.last_fire_ns, " ".join(map(str, mark.ahead_ns)) or None, mark.schedule)
                    for job, mark in marks.items()
                ],
            )
            self._connection.executemany(
                "UPDATE jobs SET last_fire_wall_ns = NULL, ahead_wall_ns = NULL, schedule = NULL WHERE job = ?",
                [(job,) for job in gone],
            )

    def reboot_fires(self) -> dict[str, str]:
        """Return the boot id in which each ``@reboot`` job was last started."""
        query = "SELECT job, reboot_id FROM jobs WHERE reboot_id IS NOT NULL"
        with reading():
            return {row["job"]: row["reboot_id"] for row in self._connection.execute(query)}

    def set_reboot_fires(self, jobs: Iterable[str], boot_id: str) -> None:
        """Remember that *jobs* have seen this boot."""
        self._check_usable()
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO jobs (job, reboot_id) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET reboot_id = excluded.reboot_id",
                [(job, boot_id) for job in jobs],
            )

    def paused(self) -> set[str]:
        with reading():
            return {row["job"] for row in self._connection.execute("SELECT job FROM jobs WHERE paused")}

    def set_paused(self, job: str, *, paused: bool) -> None:
        self._check_usable()
        with transaction(self._connection):
            self._connection.execute(
                "INSERT INTO jobs (job, paused) VALUES (?, ?) ON CONFLICT DO UPDATE SET paused = excluded.paused",
                (job, paused),
            )

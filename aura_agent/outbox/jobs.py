"""What the scheduler must not forget over restarts: fire times dealt with, boots that jobs have seen, pauses."""

import sqlite3
from collections.abc import Iterable

from aura_agent.outbox.database import reading, transaction


class JobMarks:
    """The marks of all jobs, in the store's database. Methods block on the disk and raise StoreError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def last_fires(self) -> dict[str, int]:
        """Return each job's last fire time that has been dealt with, in nanoseconds since the Unix epoch."""
        query = "SELECT job, last_fire_wall_ns FROM jobs WHERE last_fire_wall_ns IS NOT NULL"
        with reading():
            return {row["job"]: row["last_fire_wall_ns"] for row in self._connection.execute(query)}

    def set_last_fires(self, fires: dict[str, int]) -> None:
        """Remember *fires*: no slot up to them runs again, also after a restart."""
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO jobs (job, last_fire_wall_ns) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET last_fire_wall_ns = excluded.last_fire_wall_ns",
                fires.items(),
            )

    def reboot_fires(self) -> dict[str, str]:
        """Return the boot id in which each ``@reboot`` job was last started."""
        query = "SELECT job, reboot_id FROM jobs WHERE reboot_id IS NOT NULL"
        with reading():
            return {row["job"]: row["reboot_id"] for row in self._connection.execute(query)}

    def set_reboot_fires(self, jobs: Iterable[str], boot_id: str) -> None:
        """Remember that *jobs* have seen this boot."""
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
        with transaction(self._connection):
            self._connection.execute(
                "INSERT INTO jobs (job, paused) VALUES (?, ?) ON CONFLICT DO UPDATE SET paused = excluded.paused",
                (job, paused),
            )

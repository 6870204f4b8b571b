"""Outboxes on real files with clocks that tests move, and reports to put into them."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from aura_agent.clock import Reading
from aura_agent.outbox.claims import Attempt, Ended
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.rules import State
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from tests.reports import report_of

SECOND_NS = 10**9
START = Reading(1_000 * SECOND_NS, 1_800_000_000 * SECOND_NS)


class MovedClock:
    """Time as a test says; both clocks go together unless told otherwise."""

    def __init__(self, reading: Reading = START) -> None:
        self.reading = reading

    def read(self) -> Reading:
        return self.reading

    def advance(self, seconds: float) -> None:
        ns = int(seconds * SECOND_NS)
        self.reading = Reading(self.reading.boot_ns + ns, self.reading.wall_ns + ns)


@dataclass
class Bench:
    """One store, its clock, and a way to have runs happen."""

    directory: Path
    clock: MovedClock
    outbox: Outbox
    runs: int = 0

    def run(
        self,
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        ref: str = "heartbeat:backup",
        took_s: float = 1.0,
        change: Callable[[Report], Report] = lambda report: report,
    ) -> str:
        """Let a run happen now, take *took_s*, and be accepted; return its id."""
        self.runs += 1
        started = self.clock.read()
        self.clock.advance(took_s)
        report = report_of(f"run{self.runs:08}", started, outcome, ref=ref, ended=self.clock.read())
        self.outbox.accept([change(report)])
        return report.run_id

    def know(self, name: str, heartbeat_id: str = "", *, interval_s: float | None = 3600, grace_s: float = 600) -> str:
        """Put a heartbeat into the cache; return its id."""
        heartbeat_id = heartbeat_id or f"id-{name}"
        url = Secret(f"http://127.0.0.1:9/ping/{heartbeat_id}")
        self.outbox.remember(
            [CachedHeartbeat(heartbeat_id, name, interval_s, grace_s, "up", None, url, self.clock.read().wall_ns)]
        )
        return heartbeat_id

    def states(self) -> dict[str, str]:
        """Return each entry's state by run id."""
        rows = self.outbox.connection.execute("SELECT run_id, state FROM entries ORDER BY id")
        return {row["run_id"]: row["state"] for row in rows}

    def reopen(self, owner: str = "test") -> None:
        """Close the store and open it again, as a new process would."""
        self.outbox.close()
        self.outbox = open_outbox(self.directory, self.clock, owner)


def open_outbox(
    directory: Path | str,
    clock: MovedClock,
    owner: str = "test",
    boot_id: str | None = None,
    marks: str | None = None,
) -> Outbox:
    return Outbox(str(directory), clock, owner=owner, hostname="host", boot_id=boot_id, marks=marks)


def bench(directory: Path) -> Bench:
    clock = MovedClock()
    return Bench(directory / "store", clock, open_outbox(directory / "store", clock))


def delivered(outbox: Outbox, attempt: Attempt, reason: str) -> None:
    """Put on record that the ping URL acknowledged."""
    outbox.settle([Ended(attempt=attempt, reason=reason, acknowledged=True)])


def not_delivered(
    outbox: Outbox,
    attempt: Attempt,
    reason: str,
    *,
    delay_s: float,
    parked: bool = False,
    drop_body: bool = False,
    host_not_before_s: float | None = None,
) -> State:
    """Put on record that it did not; return the entry's state."""
    ended = Ended(
        attempt=attempt,
        reason=reason,
        delay_s=delay_s,
        parked=parked,
        drop_body=drop_body,
        host_not_before_s=host_not_before_s,
    )
    return outbox.settle([ended])[0]


def damage(database: Path, table: str, column: str, value: str, condition: str) -> int:
    """Write *value*, in SQL, into a column, whatever its type; return the number of rows.

    STRICT is lifted meanwhile: a bad disk knows no types.
    """
    for typed in (False, True):
        changes = (") STRICT", ")") if not typed else (")", ") STRICT")
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            if typed:
                query = f"UPDATE {table} SET {column} = {value} WHERE {condition}"
                count = connection.execute(query).rowcount
            connection.execute("PRAGMA writable_schema = ON")
            query = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"
            ((sql,),) = connection.execute(query, (table,)).fetchall()
            sql = changes[1].join(sql.rsplit(changes[0], 1))
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", (sql, table))
            ((version,),) = connection.execute("PRAGMA schema_version").fetchall()
            connection.execute(f"PRAGMA schema_version = {version + 1}")
    return count


def renamed(run_id: str) -> Callable[[Report], Report]:
    return lambda report: replace(report, run_id=run_id)

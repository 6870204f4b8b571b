"""Hook calls that are due: what happened to a job, until whoever reads a config has told people of it, or found nobody.

A call is noted in the very transaction that learns what happened, in whatever process that is; so it outlives a crash,
and each is taken by one process at a time. How a job stands (whether its newest run failed) is kept beside it, in the
order of the runs' keys, so that a recovery is noticed once, and a report that comes late changes nothing.

Works inside the transactions of ``aura_agent.outbox.store``. What hooks there are, it doesn't know.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from aura_agent.outbox.refs import stored
from aura_agent.outbox.rules import Key, Moment, age_s
from aura_agent.report.record import Outcome, Report

KEPT_S = 24 * 3600.0  # what is older is no news, and nobody is told of it
_KEEP_CALLS = 1000  # where nobody takes them


class HookKind(StrEnum):
    """What happened, by the config's key."""

    FAILURE = "on_failure"
    RECOVERY = "on_recovery"
    LOST_RUN = "on_lost_run"
    UNDELIVERABLE = "on_undeliverable"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCall:
    """One thing to be told: which hook of which job, and the run that it is about.

    *reason* is why. *tail* is the end of the run's output, empty where none was captured: it may hold anything.
    """

    id: int
    kind: HookKind
    job: str
    run_id: str
    reason: str
    heartbeat: str
    outcome: str
    started_at: datetime | None
    duration_s: float
    exit_code: int | None
    signal: int | None
    attempts: int
    tail: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A stream whose pings wait, and nobody was told: for how long, the newest one's job and run, and why, if known.

    *heartbeat* is one label of the stream.
    """

    stream_id: int
    job: str
    heartbeat: str
    run_id: str
    waiting_s: float
    problem: str


class HookCalls:
    """The calls of one store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def heard(self, job: str, ref: str | None, outcomes: Iterable[tuple[Report, Key]], now: Moment) -> None:
        """Outcomes of the job's runs are news: note what there is to tell of each, and how the job stands then.

        How it stands is kept for each *ref*: wrapped lines of a crontab may all be called "sh".
        """
        if not job:
            return
        kept_as = job if ref is None else f"{job}\n{stored(ref)}"
        row = self._connection.execute(
            "SELECT newest_epoch, newest_boot_ns, newest_run, failing FROM jobs WHERE job = ?", (kept_as,)
        ).fetchone()
        newest = None if row is None or None in row[:3] else Key(*row[:3])
        failing = row is not None and bool(row["failing"])
        before = newest, failing
        for report, key in outcomes:
            if report.outcome is Outcome.SKIPPED:
                continue
            failed = report.outcome.withdraws
            recovered = False
            if newest is None or key >= newest:
                recovered = failing and not failed
                newest, failing = key, failed
            ended = Moment(key.epoch, report.ended.boot_ns, report.ended.wall_ns)
            is_news = report.outcome is Outcome.LOST or age_s(ended, now) <= KEPT_S  # a lost run is found out only now
            if not report.calls_hooks or not is_news:
                continue
            if failed:
                kind = HookKind.LOST_RUN if report.outcome is Outcome.LOST else HookKind.FAILURE
                self.note(kind, job, report.run_id, report.reason, now)
            elif recovered:
                self.note(HookKind.RECOVERY, job, report.run_id, report.reason, now)
        if newest is not None and (newest, failing) != before:
            self._put_standing(kept_as, newest, failing=failing)

    def note(self, kind: HookKind, job: str, run_id: str, reason: str, now: Moment) -> None:
        noted = self._connection.execute(
            "INSERT INTO hook_calls (kind, job, run_id, reason, noted_wall_ns) VALUES (?, ?, ?, ?, ?)",
            (kind, job, run_id, reason, now.wall_ns),
        )
        self._connection.execute("DELETE FROM hook_calls WHERE id <= ?", ((noted.lastrowid or 0) - _KEEP_CALLS,))

    def any(self) -> bool:
        """Whether there is a call that nobody has taken."""
        found = self._connection.execute("SELECT 1 FROM hook_calls WHERE owner IS NULL LIMIT 1").fetchone()
        return found is not None

    def is_due(self, run_id: str) -> bool:
        """Whether there is a call about the run that nobody has taken."""
        query = "SELECT 1 FROM hook_calls WHERE run_id = ? AND owner IS NULL LIMIT 1"
        return self._connection.execute(query, (run_id,)).fetchone() is not None

    def take(self, owner: str, now: Moment, limit: int, noted_since_ns: int = 0) -> list[HookCall]:
        """Give up to *limit* calls to *owner*, oldest first: those noted since that instant of the wall clock."""
        self._connection.execute(
            "DELETE FROM hook_calls WHERE owner IS NULL AND (noted_wall_ns < ? OR kind NOT IN (?, ?, ?, ?))",
            (now.wall_ns - int(KEPT_S * 1e9), *HookKind),
        )
        rows = self._connection.execute(
            "SELECT hook_calls.id, kind, hook_calls.job, run_id, hook_calls.reason, coalesce(heartbeat, '') AS"
            " heartbeat, coalesce(outcome, '') AS outcome, started_wall_ns, coalesce(duration_s, 0) AS duration_s,"
            " exit_code, signal, coalesce(attempts, 1) AS attempts, coalesce(tail, '') AS tail"
            " FROM hook_calls LEFT JOIN runs USING (run_id) WHERE owner IS NULL AND noted_wall_ns >= ?"
            " ORDER BY hook_calls.id LIMIT ?",
            (noted_since_ns, limit),
        ).fetchall()
        self._connection.executemany(
            "UPDATE hook_calls SET owner = ? WHERE id = ?", [(owner, row["id"]) for row in rows]
        )
        return [_call(row) for row in rows]

    def done(self, call_id: int) -> None:
        """People have been told, or can't be."""
        self._connection.execute("DELETE FROM hook_calls WHERE id = ?", (call_id,))

    def forget(self, run_ids: list[str]) -> None:
        """Somebody else tells of these runs."""
        self._connection.executemany("DELETE FROM hook_calls WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    def release(self, owner: str) -> None:
        """Give back what *owner* has taken and not done."""
        self._connection.execute("UPDATE hook_calls SET owner = NULL WHERE owner = ?", (owner,))

    def _put_standing(self, job: str, newest: Key, *, failing: bool) -> None:
        """Remember the job's newest run, and whether it failed."""
        self._connection.execute(
            "INSERT INTO jobs (job, newest_epoch, newest_boot_ns, newest_run, failing) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET newest_epoch = excluded.newest_epoch,"
            " newest_boot_ns = excluded.newest_boot_ns, newest_run = excluded.newest_run, failing = excluded.failing",
            (job, *newest, failing),
        )


def _call(row: sqlite3.Row) -> HookCall:
    started_ns = row["started_wall_ns"]
    return HookCall(
        id=row["id"],
        kind=HookKind(row["kind"]),
        job=row["job"],
        run_id=row["run_id"],
        reason=row["reason"],
        heartbeat=row["heartbeat"],
        outcome=row["outcome"],
        started_at=None if started_ns is None else datetime.fromtimestamp(started_ns / 1e9, UTC),
        duration_s=row["duration_s"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        attempts=row["attempts"],
        tail=row["tail"],
    )

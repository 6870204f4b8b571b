"""What ran: the runs of jobs as ``history`` shows them, and the newest ones of all jobs for ``status`` and metrics.

Each query reads a few rows per source
through an index, however many runs there are: nothing here reads all runs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import nlargest
from json import dumps

from aura_agent.outbox.hooks import HookCall
from aura_agent.outbox.reader import Readable
from aura_agent.outbox.refs import label
from aura_agent.outbox.run_owner import Meanings, RunOwners, Source
from aura_agent.outbox.scopes import NO_SCOPE
from aura_agent.report.record import Outcome


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of *source* that ended with *outcome*; *ping* is the state of its ping, None without one."""

    source: Source
    run_id: str
    outcome: Outcome
    started_at: datetime
    duration_s: float
    reason: str
    ping: str | None

    @property
    def ended_s(self) -> float:
        """When it ended, in seconds since the Unix epoch."""
        return self.started_at.timestamp() + self.duration_s


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as ``history`` shows it."""

    run_id: str
    job: str
    heartbeat: str
    outcome: str
    started_at: datetime
    duration_s: float
    exit_code: int | None
    signal: int | None
    attempts: int
    reason: str
    tail: str
    ping: str | None
    cpu_s: float | None
    max_rss_bytes: int | None
    io_read_bytes: int | None
    io_written_bytes: int | None


# Steps through the index from one (job, heartbeat, outcome) to the next: SQLite's DISTINCT would read every run, and so
# does a comparison of row values (of it 3.46 uses the first column alone).
_KINDS = """
    WITH RECURSIVE kinds (job, heartbeat, outcome) AS (
        VALUES ('', '', '')
        UNION ALL
        SELECT next.job, next.heartbeat, next.outcome FROM kinds JOIN runs AS next ON next.rowid = coalesce(
            (SELECT rowid FROM runs WHERE job = kinds.job AND heartbeat = kinds.heartbeat AND outcome > kinds.outcome
             ORDER BY outcome LIMIT 1),
            (SELECT rowid FROM runs WHERE job = kinds.job AND heartbeat > kinds.heartbeat
             ORDER BY heartbeat, outcome LIMIT 1),
            (SELECT rowid FROM runs WHERE job > kinds.job ORDER BY job, heartbeat, outcome LIMIT 1)
        )
    )
"""


def last_runs(outbox: Readable) -> list[LastRun]:
    """Return for each source the newest run of each outcome."""
    rows = outbox.connection.execute(
        f"{_KINDS} SELECT runs.job, runs.heartbeat, runs.run_id, runs.outcome, started_wall_ns, duration_s,"
        " runs.reason, entries.state AS ping FROM kinds JOIN runs ON runs.rowid = ("
        "SELECT rowid FROM runs WHERE runs.job = kinds.job AND runs.heartbeat = kinds.heartbeat"
        " AND runs.outcome = kinds.outcome ORDER BY started_wall_ns DESC LIMIT 1"
        ") LEFT JOIN entries ON entries.run_id = runs.run_id"
    )
    return [
        LastRun(
            Source(row["job"], row["heartbeat"]),
            row["run_id"],
            Outcome(row["outcome"]),
            instant(row["started_wall_ns"]),
            row["duration_s"],
            row["reason"],
            row["ping"],
        )
        for row in rows
    ]


def run_owners(outbox: Readable, jobs: Mapping[str, str]) -> RunOwners:
    """Return who of *jobs*, by name with the heartbeat that each feeds, owns which runs, as far as the store knows."""
    attached = outbox.connection.execute(
        "SELECT ref, heartbeat_id FROM refs JOIN streams ON streams.id = stream_id WHERE refs.scope IN (?, ?)",
        (NO_SCOPE, outbox.scopes.current()),
    )
    cached = [(heartbeat.id, heartbeat.name) for heartbeat in outbox.heartbeats.all()]
    return RunOwners(jobs, Meanings(dict(attached.fetchall()), cached, outbox.heartbeats.candidates, label))


def with_owner(call: HookCall, owners: RunOwners) -> HookCall:
    """Return *call* for the job of the config whose run it is about."""
    return replace(call, job=owners.named(Source(call.job, call.heartbeat)))


def newest_of(runs: Iterable[LastRun], owners: RunOwners) -> dict[str, LastRun]:
    """Return the newest of *runs* of each job of the config that has one."""
    newest: dict[str, LastRun] = {}
    for run in runs:
        name = owners.of(run.source)
        if name is not None and (name not in newest or run.started_at > newest[name].started_at):
            newest[name] = run
    return newest


def last_successes(runs: Iterable[LastRun], owners: RunOwners) -> dict[str, float]:
    """Return the end of each job's newest success, in seconds since the Unix epoch."""
    successes: dict[str, float] = {}
    for run in runs:
        name = owners.named(run.source) if run.outcome is Outcome.SUCCEEDED else ""
        if name:
            successes[name] = max(run.ended_s, successes.get(name, 0.0))
    return successes


def run_rows(
    outbox: Readable, *, job: str | None = None, chosen: Callable[[Source], bool] | None = None, limit: int = 20
) -> list[RunRow]:
    """Return the newest runs, newest first: those of *job* or heartbeat, those of the *chosen* sources, or all."""
    if job is not None:
        return run_rows(outbox, chosen=lambda source: job in source, limit=limit)
    found = "SELECT rowid FROM runs ORDER BY started_wall_ns DESC LIMIT :limit"
    if chosen is not None:
        found = "SELECT value FROM json_each(:rowids)"
    rows = outbox.connection.execute(
        "SELECT runs.*, entries.state AS ping FROM runs LEFT JOIN entries ON entries.run_id = runs.run_id"
        f" WHERE runs.rowid IN ({found}) ORDER BY started_wall_ns DESC",
        {"limit": limit} if chosen is None else {"rowids": dumps(_newest(outbox, chosen, limit))},
    )
    return [
        RunRow(
            run_id=row["run_id"],
            job=row["job"],
            heartbeat=row["heartbeat"],
            outcome=row["outcome"],
            started_at=instant(row["started_wall_ns"]),
            duration_s=row["duration_s"],
            exit_code=row["exit_code"],
            signal=row["signal"],
            attempts=row["attempts"],
            reason=row["reason"],
            tail=row["tail"],
            ping=row["ping"],
            cpu_s=row["cpu_s"],
            max_rss_bytes=row["max_rss_bytes"],
            io_read_bytes=row["io_read_bytes"],
            io_written_bytes=row["io_written_bytes"],
        )
        for row in rows
    ]


def instant(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC)


def _newest(outbox: Readable, chosen: Callable[[Source], bool], limit: int) -> list[int]:
    """Return the rows of the newest runs of the *chosen* sources."""
    kinds = outbox.connection.execute(f"{_KINDS} SELECT job, heartbeat, outcome FROM kinds WHERE outcome <> ''")
    wanted = [tuple(kind) for kind in kinds.fetchall() if chosen(Source(kind["job"], kind["heartbeat"]))]
    newest: Iterable[tuple[int, int]] = (
        (row["started_wall_ns"], row["rowid"])
        for kind in wanted
        for row in outbox.connection.execute(
            "SELECT started_wall_ns, rowid FROM runs WHERE job = ? AND heartbeat = ? AND outcome = ?"
            " ORDER BY started_wall_ns DESC LIMIT ?",
            (*kind, limit),
        )
    )
    return [rowid for _, rowid in nlargest(limit, newest)]

"""What looking costs: status, page, metrics and history read a few rows per job, however many runs there are."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aura_agent.outbox.queries import oldest_waiting_s, other_feeders, state_counts
from aura_agent.outbox.run_history import last_runs, last_successes, newest_of, run_owners, run_rows
from aura_agent.outbox.run_owner import RunOwners
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome
from tests.outbox.stores import SECOND_NS, START, Bench, bench

_STEPS_PER_CALL = 10  # of SQLite's virtual machine


def fill(at: Bench, runs: int) -> None:
    """Put *runs* runs of one job into the history, and as many pings: half of them wait, half are delivered."""
    connection = at.outbox.connection
    start_ns = START.wall_ns - runs * SECOND_NS
    stream_id = at.outbox.streams.of("heartbeat:often")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO runs VALUES (?, 'often', 'often', ?, ?, 1.0, 0, NULL, 1, '', '', NULL, NULL, NULL, NULL)",
        ((f"run-{n}", ("failed", "succeeded")[n % 2], start_ns + n * SECOND_NS) for n in range(runs)),
    )
    connection.executemany(
        "INSERT INTO entries (stream_id, run_id, job, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns,"
        " replay_all, state, accepted_wall_ns, changed_wall_ns) VALUES (?, ?, 'often', 1, 0, 0, ?, 0, ?, ?, ?)",
        (
            (stream_id, f"run-{n}", at_ns, ("waiting", "delivered")[n % 2], at_ns, at_ns)
            for n in range(runs)
            for at_ns in [start_ns + n * SECOND_NS]
        ),
    )
    connection.execute("COMMIT")


@contextmanager
def counted(connection: sqlite3.Connection) -> Iterator[list[int]]:
    """Count what SQLite does meanwhile."""
    calls: list[int] = []
    connection.set_progress_handler(lambda: calls.append(1), _STEPS_PER_CALL)
    try:
        yield calls
    finally:
        connection.set_progress_handler(None, 0)


def foreign(outbox: Outbox) -> dict[str, str]:
    """Ask for a heartbeat that something else has just pinged, and we have long ago."""
    outbox.connection.execute("UPDATE streams SET heartbeat_id = 'id-often', delivered_wall_ns = 1")
    return other_feeders(outbox, {"id-often": START.wall_ns + 3600 * SECOND_NS})


def owners(outbox: Outbox) -> RunOwners:
    return run_owners(outbox, {name: name for name in ("often", "backup", "never")})


LOOKS: dict[str, Callable[[Outbox], object]] = {
    "the newest run of each job": lambda outbox: newest_of(last_runs(outbox), owners(outbox)),
    "the newest success of each job": lambda outbox: last_successes(last_runs(outbox), owners(outbox)),
    "the history of a job": lambda outbox: run_rows(outbox, job="often", limit=5),
    "the history of a job that never ran": lambda outbox: run_rows(outbox, job="never"),
    "the history of all": lambda outbox: run_rows(outbox, limit=5),
    "the oldest ping that waits": oldest_waiting_s,
    "who else pings": foreign,
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_costs_the_same_however_many_runs_there_are(tmp_path: Path, look: str) -> None:
    """Counted in steps of SQLite's virtual machine. Jobs that never ran, or fail, are no exception."""
    cost = {}
    for runs in (100, 2000):
        at = bench(tmp_path / str(runs))
        fill(at, runs)
        with counted(at.outbox.connection) as calls:
            LOOKS[look](at.outbox)
        cost[runs] = len(calls)
        at.outbox.close()

    assert cost[2000] <= cost[100] * 1.5 + 5


def test_no_query_of_status_page_metrics_or_history_scans_runs_or_pings(at: Bench) -> None:
    """Every statement that they execute is explained by SQLite itself."""
    fill(at, 100)
    statements: list[str] = []
    at.outbox.connection.set_trace_callback(statements.append)
    for look in (*LOOKS.values(), state_counts):
        look(at.outbox)
    at.outbox.connection.set_trace_callback(None)

    assert len(statements) >= len(LOOKS)
    scans = {
        row["detail"]
        for statement in statements
        if not statement.startswith("--")
        for row in at.outbox.connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        if re.match(r"SCAN (?!streams|heartbeats|kinds|refs|json_each|scopes|CONSTANT|\d)", row["detail"])
    }
    # The newest of all runs: read in the index's order, and no further than LIMIT.
    assert scans <= {"SCAN runs USING COVERING INDEX runs_by_start"}


def test_the_newest_run_of_each_outcome_is_found_beside_others(at: Bench) -> None:
    """Also where the job's newest run is older than hundreds of others."""
    fill(at, 300)
    at.clock.advance(60)
    failed = at.run(Outcome.FAILED)

    newest = newest_of(last_runs(at.outbox), owners(at.outbox))

    assert {name: run.run_id for name, run in newest.items()} == {"often": "run-299", "backup": failed}
    assert last_successes(last_runs(at.outbox), owners(at.outbox)) == {"often": START.wall_ns / 1e9}

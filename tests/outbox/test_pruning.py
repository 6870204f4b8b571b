"""The store's bounds: what goes first, what never goes, and that the file follows."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.outbox.pruning import Bounds
from aura_agent.outbox.queries import entry_row, queue_rows, state_counts
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import Bench, MovedClock, delivered
from tests.reports import report_of

_BOUNDS = Bounds(runs_per_job=50, runs=80, ended=30, waiting=20, in_use_bytes=4 << 20)
_SLACK = 200  # so many reports may come before the bounds are looked at again
_BODY = b"x" * 50_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose store is soon full."""
    clock = MovedClock()
    outbox = Outbox(str(tmp_path / "store"), clock, owner="test", hostname="host", bounds=_BOUNDS)
    made = Bench(tmp_path / "store", clock, outbox)
    yield made
    made.outbox.close()


def _all(report: Report) -> Report:
    return replace(report, replay_all=True)


def _large(report: Report) -> Report:
    return replace(report, replay_all=True, body=_BODY, tail="y" * 20_000)


def _fill(at: Bench, runs: int, ref: str = "heartbeat:busy") -> None:
    """Let *runs* successes be accepted together."""
    reports = []
    for _ in range(runs):
        at.runs += 1
        now = at.clock.read()
        at.clock.advance(1)
        report = report_of(f"run{at.runs:08}", now, ref=ref, job=f"job{at.runs % 4}")
        reports.append(_all(report))
    at.outbox.accept(reports)


def _some_more_reports(at: Bench) -> None:
    """It is done a step at a time, after reports."""
    for _ in range(10):
        _fill(at, 40)


def _some_more_reports_elsewhere(at: Bench) -> None:
    for _ in range(5):
        at.run(Outcome.FAILED, ref="heartbeat:other")


def test_what_waits_is_bounded_and_the_newest_of_each_heartbeat_stays(small: Bench) -> None:
    """Beyond the bound the oldest are superseded, with a reason and told; a heartbeat's only success never is."""
    quiet = small.run(ref="heartbeat:quiet", change=_all)

    _fill(small, 400)
    small.run(ref="heartbeat:busy", change=_all)

    waiting = [row.run_id for row in queue_rows(small.outbox, ended=False)]
    gone = small.outbox.claim(1).withdrawn
    assert waiting == [quiet, *(f"run{number:08}" for number in range(small.runs - 18, small.runs + 1))]
    assert {(each.state.value, each.reason) for each in gone} == {
        ("superseded", "a later success waits, and the store is full")
    }


def test_what_is_being_sent_stays(small: Bench) -> None:
    """An attempt under way is never cancelled, however full the store is."""
    small.know("busy")
    sent = small.run(ref="heartbeat:busy", change=_all)
    (attempt,) = small.outbox.claim(1).attempts

    _fill(small, 400)
    meanwhile = small.states()[sent]
    delivered(small.outbox, attempt, "200")

    assert (attempt.run_id, meanwhile, small.states()[sent]) == (sent, "waiting", "delivered")


def test_superseded_entries_go_before_others_that_have_ended(small: Bench) -> None:
    """They say least: a later success took their place."""
    small.know("busy")
    told = set()
    for _ in range(10):
        told.add(small.run(ref="heartbeat:busy"))
        delivered(small.outbox, small.outbox.claim(1).attempts[0], "200")
    for _ in range(200):
        small.run(ref="heartbeat:other")

    assert told <= set(small.states())
    assert len(small.states()) < _SLACK


def test_the_output_of_old_runs_goes_before_what_waits(small: Bench) -> None:
    """A full store costs people some history, and Aura no ping that was asked for."""
    waiting = [small.run(ref="heartbeat:busy", change=_all) for _ in range(15)]
    noisy = [
        small.run(
            Outcome.FAILED,
            ref="heartbeat:noisy",
            change=lambda report: replace(report, job="noisy", tail="y" * 100_000),
        )
        for _ in range(110)
    ]

    assert [row.run_id for row in queue_rows(small.outbox, ended=False)] == waiting
    kept = run_rows(small.outbox, job="noisy", limit=1000)
    assert [row.run_id for row in kept] == noisy[: -len(kept) - 1 : -1]
    assert len(kept) < len(noisy)
    assert (bool(kept[0].tail), bool(kept[-1].tail)) == (True, False)


def test_at_last_bodies_go_and_each_heartbeats_newest_success_stays(small: Bench) -> None:
    """Without its body a ping says the same."""
    for number in range(20):
        small.run(ref=f"heartbeat:beat{number}", change=lambda report: replace(report, body=b"x" * 300_000))

    waiting = [entry_row(small.outbox, row.id) for row in queue_rows(small.outbox, ended=False)]
    assert len(waiting) == 20
    assert sum(row.body_bytes for row in waiting if row is not None) < _BOUNDS.in_use_bytes


def test_earlier_successes_go_before_the_bodies_of_later_ones(small: Bench) -> None:
    """What is left of what waits goes out as it was reported."""
    small.know("busy")
    runs = [
        small.run(ref="heartbeat:busy", change=lambda report: replace(report, replay_all=True, body=b"x" * 300_000))
        for _ in range(19)
    ]
    _some_more_reports_elsewhere(small)

    waiting = [row.run_id for row in queue_rows(small.outbox, ended=False)]
    assert 0 < len(waiting) < len(runs)
    assert waiting == runs[-len(waiting) :]
    (attempt,) = small.outbox.claim(1).attempts
    assert (attempt.run_id, len(attempt.body or b"")) == (waiting[0], 300_000)


def test_history_and_ended_entries_are_bounded(small: Bench) -> None:
    """Of all jobs together, not only of each."""
    for _ in range(3):
        _fill(small, 200)
    small.run(Outcome.FAILED, ref="heartbeat:busy")
    _some_more_reports(small)

    assert len(run_rows(small.outbox, limit=10_000)) <= _BOUNDS.runs + _SLACK
    assert sum(state_counts(small.outbox).values()) <= _BOUNDS.ended + _BOUNDS.waiting + _SLACK


def test_a_job_that_runs_often_leaves_the_others_their_history(small: Bench) -> None:
    """Of its own runs the newest stay; of a job that runs seldom, all."""
    seldom = [small.run(change=lambda report: replace(report, job="seldom")) for _ in range(3)]
    often = [small.run(change=lambda report: replace(report, job="often")) for _ in range(2 * _SLACK - len(seldom))]

    assert [run.run_id for run in run_rows(small.outbox, job="seldom")] == seldom[::-1]
    assert [run.run_id for run in run_rows(small.outbox, job="often", limit=10_000)] == (
        often[: -_BOUNDS.runs_per_job - 1 : -1]
    )


def test_the_file_is_bounded_and_shrinks(small: Bench) -> None:
    """Large bodies and outputs: the file stays about as small as the bound, and what is true still goes out."""
    small.know("busy")
    small.know("quiet")
    quiet = small.run(ref="heartbeat:quiet", change=_large)
    for _ in range(120):
        newest = small.run(ref="heartbeat:busy", change=_large)

    database = small.directory / "outbox.db"
    assert database.stat().st_size < 2 * _BOUNDS.in_use_bytes
    assert len(run_rows(small.outbox, limit=10_000)) > 0
    sent = []
    while attempts := small.outbox.claim(10).attempts:
        for attempt in attempts:
            sent.append(attempt.run_id)
            delivered(small.outbox, attempt, "200")
    assert quiet in sent
    assert sent[-1] == newest
    _some_more_reports(small)
    small.reopen()  # what is given back shows once the log has gone into the file
    assert database.stat().st_size < _BOUNDS.in_use_bytes


def test_the_newest_failure_outlives_all_of_it(small: Bench) -> None:
    """A success from before it that turns up late is withdrawn, though no row tells of the failure any more."""
    early = small.clock.read()
    small.clock.advance(1)
    failed = small.run(Outcome.FAILED, ref="heartbeat:busy")
    for _ in range(3):
        _fill(small, 200, ref="heartbeat:other")

    late = small.run(ref="heartbeat:busy", change=lambda report: replace(report, started=early))

    assert failed not in {row.run_id for row in run_rows(small.outbox, limit=10_000)}
    assert small.states()[late] == "invalidated"


def test_reports_and_pings_go_through_where_nothing_can_be_pruned(small: Bench) -> None:
    """What was accepted is news, what was leased can be sent, and why nothing can be taken away is told."""
    statement = "CREATE TRIGGER refuse BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    small.outbox.connection.execute(statement)
    small.know("backup")
    _fill(small, 400)

    for _ in range(_SLACK):
        small.run()
        claim = small.outbox.claim(1)
        assert len(claim.attempts) == 1
        small.outbox.release_leases()
    small.outbox.drop(None, "by a person's decision")
    assert "the disk is full" in small.outbox.claim(1).problem

    small.outbox.connection.execute("DROP TRIGGER refuse")
    assert small.outbox.claim(1).problem == ""


def test_a_file_that_cannot_shrink_is_not_looked_through_with_each_report(tmp_path: Path) -> None:
    """One that was made without incremental vacuum keeps its free pages: they are used again."""
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    with closing(sqlite3.connect(directory / "outbox.db")) as made:
        made.execute("CREATE TABLE of_old (content BLOB) STRICT")
        made.execute("INSERT INTO of_old VALUES (zeroblob(4000000))")
        made.execute("DROP TABLE of_old")
        made.commit()
    (directory / "outbox.db").chmod(0o600)
    clock = MovedClock()
    bench = Bench(directory, clock, Outbox(str(directory), clock, owner="test", hostname="host"))
    _fill(bench, _SLACK)
    statements: list[str] = []
    bench.outbox.connection.set_trace_callback(statements.append)

    bench.run()

    assert not [statement for statement in statements if statement.startswith("DELETE FROM runs")]
    bench.outbox.close()


def _refs(at: Bench) -> set[str]:
    return {row["ref"] for row in at.outbox.connection.execute("SELECT refs.ref FROM refs WHERE ref <> ''")}


def _jobs(at: Bench) -> set[str]:
    return {row["job"].partition("\n")[0] for row in at.outbox.connection.execute("SELECT job FROM jobs")}


def _fail_once_each(at: Bench, names: int) -> None:
    now = at.clock.read()
    at.outbox.accept(
        [
            report_of(f"fail{number:08}", now, Outcome.FAILED, ref=f"heartbeat:once-{number}", job=f"once-{number}")
            for number in range(names)
        ]
    )


def test_names_that_never_come_again_are_forgotten(small: Bench) -> None:
    """Generated names, for instance: their queues and jobs go 90 days after their last run."""
    _fail_once_each(small, 300)
    small.outbox.jobs.set_paused("once-7", paused=True)
    small.clock.advance(89 * 86400)
    _some_more_reports(small)
    assert len(_refs(small)) == 301

    small.clock.advance(2 * 86400)
    _some_more_reports(small)

    assert _refs(small) == {"heartbeat:busy"}
    assert _jobs(small) == {"once-7", "job0", "job1", "job2", "job3"}


def test_forgotten_failure_still_withdraws_an_older_success(small: Bench) -> None:
    """A run of before it that ends after months is no truer than it was, whatever its name."""
    began = small.clock.read()
    small.clock.advance(60)
    _fail_once_each(small, 1)
    small.clock.advance(91 * 86400)
    _some_more_reports(small)
    assert _refs(small) == {"heartbeat:busy"}

    late = small.run(ref="heartbeat:once-0", change=lambda report: replace(report, started=began))
    fresh = small.run(ref="heartbeat:once-1")

    assert (small.states()[late], small.states()[fresh]) == ("invalidated", "waiting")


def test_wall_clock_far_ahead_forgets_no_name_of_this_boot(small: Bench) -> None:
    """Age is counted by the time since boot."""
    _fail_once_each(small, 3)
    small.clock.reading = small.clock.reading._replace(wall_ns=small.clock.reading.wall_ns + 400 * 86400 * 10**9)
    _some_more_reports(small)
    assert len(_refs(small)) == 4

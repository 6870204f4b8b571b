"""Reports that are durable and not judged yet: whatever next decides anything takes them in first."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from aura_agent.clock import Reading
from aura_agent.errors import StoreError
from aura_agent.outbox.queries import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report import wire
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import SECOND_NS, START, Bench, bench, open_outbox


@pytest.fixture
def at(tmp_path: Path) -> Bench:
    made = bench(tmp_path)
    made.know("backup")
    return made


def report(run_id: str, outcome: Outcome = Outcome.SUCCEEDED, *, began_s: float = 0.0, took_s: float = 1.0) -> Report:
    """Return what a run amounts to that began so long after the clock's start."""
    started = Reading(START.boot_ns + int(began_s * SECOND_NS), START.wall_ns + int(began_s * SECOND_NS))
    took_ns = int(took_s * SECOND_NS)
    return Report(
        run_id=run_id,
        boot_id=current_boot_id(),
        started=started,
        ended=Reading(started.boot_ns + took_ns, started.wall_ns + took_ns),
        outcome=outcome,
        ref="heartbeat:backup",
        job="backup",
    )


def keep(outbox: Outbox, *reports: Report) -> None:
    outbox.keep([wire.encode("run", each.to_fields()) for each in reports])


def test_the_next_claim_sends_what_was_kept(at: Bench) -> None:
    """Nothing has to happen in between, and twice the same is one ping."""
    keep(at.outbox, report("run00000001"))
    keep(at.outbox, report("run00000001"))

    assert [attempt.run_id for attempt in at.outbox.claim(8).attempts] == ["run00000001"]
    assert at.outbox.take_spool() == 0


def test_a_failure_that_was_kept_withdraws_before_anything_is_sent(at: Bench) -> None:
    """It is durable: no ping that it contradicts begins from here on."""
    at.outbox.accept([report("run00000001")])
    keep(at.outbox, report("run00000002", Outcome.FAILED, began_s=2))

    assert at.outbox.claim(8).attempts == ()
    assert at.states() == {"run00000001": "invalidated"}


def test_what_was_kept_outlives_the_process(at: Bench) -> None:
    """It waits in the file like everything else that was acknowledged, and counts as waiting."""
    keep(at.outbox, report("run00000001"))
    at.reopen()

    assert at.outbox.waiting_count() == 1
    assert at.outbox.take_spool() == 1
    assert at.states() == {"run00000001": "waiting"}


def test_another_process_takes_it_in_too(at: Bench) -> None:
    """A command that shows the history finds what the daemon has just acknowledged."""
    keep(at.outbox, report("run00000001"))
    other = open_outbox(at.directory, at.clock, "another")

    other.take_spool()

    assert [row.run_id for row in run_rows(other)] == ["run00000001"]
    assert at.outbox.take_spool() == 0
    other.close()


def test_all_that_waits_is_dropped_also_what_is_not_judged_yet(at: Bench) -> None:
    """Who drops everything doesn't see it sent a moment later."""
    keep(at.outbox, report("run00000001"))

    assert len(at.outbox.drop(None, "by hand").dropped) == 1
    assert at.outbox.claim(8).attempts == ()


def test_people_are_told_of_a_failure_that_was_kept(at: Bench) -> None:
    """Whoever takes the calls that are due takes this one."""
    keep(at.outbox, report("run00000001", Outcome.FAILED))

    assert [call.run_id for call in at.outbox.take_hook_calls(8)] == ["run00000001"]


def test_a_store_that_cannot_judge_what_it_has_kept_keeps_no_more(at: Bench) -> None:
    """Room for a line isn't room for what follows from it: who reports hears of it, and has other ways."""
    keep(at.outbox, report("run00000001"))
    at.outbox.connection.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ROLLBACK, 'full'); END")
    with pytest.raises(StoreError):
        at.outbox.claim(8)
    with pytest.raises(StoreError):
        keep(at.outbox, report("run00000002", began_s=2))
    at.outbox.connection.execute("DROP TRIGGER full")

    keep(at.outbox, report("run00000002", began_s=2))
    at.outbox.take_spool()

    assert at.states() == {"run00000001": "superseded", "run00000002": "waiting"}


def test_what_is_no_report_after_all_is_in_no_other_s_way(at: Bench) -> None:
    """From a clock at the end of all time: it is told of, and the reports beside it count."""
    end = Reading(0, 2**63 - 1)
    odd = replace(report("run00000001"), boot_id="elsewhere", started=end, ended=end, ref="heartbeat:another")
    keep(at.outbox, odd, report("run00000002"))

    assert at.outbox.take_spool() == 1
    assert at.states() == {"run00000002": "waiting"}
    (notice,) = at.outbox.take_notices()
    assert "never sent" in notice


_outcomes = st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST, Outcome.SKIPPED])
_runs = st.tuples(st.integers(1, 6), _outcomes, st.integers(-90_000, 0), st.booleans(), st.sampled_from(["one", "two"]))


@given(runs=st.lists(_runs, min_size=2, max_size=12), sent=st.booleans())
@settings(max_examples=60, deadline=None)
def test_many_together_do_what_they_would_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, Outcome, int, bool, str]], sent: bool
) -> None:
    """Entries, streams, jobs, history and hook calls: nobody can tell afterwards how they came in."""
    reports = [
        replace(
            report(f"run{number:08}", outcome, began_s=began_s),
            replay_all=replay_all,
            ref=f"heartbeat:{beat}",
            job=beat,
        )
        for number, outcome, began_s, replay_all, beat in runs
    ]
    stores = [bench(tmp_path_factory.mktemp("store")) for _ in range(2)]
    for each in stores:
        each.know("one")
        each.outbox.accept([replace(reports[0], run_id="before000", outcome=Outcome.SUCCEEDED)])
        if sent:
            each.outbox.claim(1)

    in_turn, together = stores
    for told in reports:
        in_turn.outbox.accept([told])
    keep(together.outbox, *reports)
    together.outbox.take_spool()

    assert _contents(in_turn) == _contents(together)
    in_turn.outbox.close()
    together.outbox.close()


def _contents(store: Bench) -> dict[str, list[str]]:
    """Return the rows of each table, in no order."""
    queries = {
        "entries": "SELECT run_id, stream_id, job, epoch, ended_wall_ns, replay_all, state, reason FROM entries",
        "streams": "SELECT * FROM streams",
        "refs": "SELECT * FROM refs",
        "runs": "SELECT * FROM runs",
        "jobs": "SELECT * FROM jobs",
        "hook_calls": "SELECT kind, job, run_id, reason FROM hook_calls",
        "epochs": "SELECT * FROM epochs",
        "inbox": "SELECT * FROM inbox",
    }
    return {
        name: sorted(str(_telling(dict(row))) for row in store.outbox.connection.execute(query))
        for name, query in queries.items()
    }


def _telling(row: dict[str, object]) -> dict[str, object]:
    """Return *row* without what says nothing: of a stream in which nothing may be sent the urgency, and since when."""
    if row.get("due_boot_ns", 0) is None or row.get("lease_owner") is not None:
        row["urgency_wall_ns"] = 0
    if row.get("since_epoch", 0) is None:
        row["since_boot_ns"] = row["since_wall_ns"] = None
    return row

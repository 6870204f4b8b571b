"""Reports that are durable and not judged yet: whatever next decides anything takes them in first."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from aura_agent.clock import Reading
from aura_agent.errors import StoreDamagedError, StoreError
from aura_agent.outbox.queries import queue_rows
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report import boots, wire
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import SECOND_NS, START, Bench, bench, delivered, not_delivered, open_outbox
from tests.reports import report_of


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Bench]:
    made = bench(tmp_path)
    made.know("backup")
    yield made
    made.outbox.close()


def report(run_id: str, outcome: Outcome = Outcome.SUCCEEDED, *, began_s: float = 0.0, took_s: float = 1.0) -> Report:
    """Return what a run amounts to that began so long after the clock's start."""
    started = Reading(START.boot_ns + int(began_s * SECOND_NS), START.wall_ns + int(began_s * SECOND_NS))
    took_ns = int(took_s * SECOND_NS)
    return report_of(
        run_id,
        started,
        outcome,
        ended=Reading(started.boot_ns + took_ns, started.wall_ns + took_ns),
    )


def keep(outbox: Outbox, *reports: Report) -> None:
    outbox.keep({wire.encode("run", each.to_fields()): each for each in reports})


def test_the_next_claim_sends_what_was_kept(at: Bench) -> None:
    """Nothing has to happen in between, and twice the same is one ping."""
    keep(at.outbox, report("run00000001"))
    keep(at.outbox, report("run00000001"))

    assert [attempt.run_id for attempt in at.outbox.claim(8).attempts] == ["run00000001"]
    assert at.outbox.take_in() == 0


def test_a_failure_that_was_kept_withdraws_before_anything_is_sent(at: Bench) -> None:
    """It is durable: no ping that it contradicts begins from here on."""
    at.outbox.accept([report("run00000001")])
    keep(at.outbox, report("run00000002", Outcome.FAILED, began_s=2))

    assert at.outbox.claim(8).attempts == ()
    assert at.states() == {"run00000001": "invalidated"}


def test_a_failure_that_was_kept_during_an_attempt_ends_it_for_good(at: Bench) -> None:
    """However the attempt's end is put on record: nothing tells whether it arrived, and it isn't made again."""
    at.outbox.accept([report("run00000001")])
    (attempt,) = at.outbox.claim(8).attempts
    keep(at.outbox, report("run00000002", Outcome.FAILED, began_s=2))

    assert not_delivered(at.outbox, attempt, "no answer", delay_s=1) == "invalidated"
    (entry,) = queue_rows(at.outbox, ended=True)
    assert entry.reason.endswith("(may have arrived)")


def test_a_failure_that_was_kept_withdraws_before_streams_are_merged(at: Bench) -> None:
    """What it has withdrawn didn't expire, and nobody is told that it did."""
    at.outbox.accept([replace(report("run00000001"), ref="heartbeat:later", calls_hooks=False)])
    failure = report("run00000002", Outcome.FAILED, began_s=2)
    keep(at.outbox, replace(failure, ref="heartbeat:later", calls_hooks=False))
    at.clock.advance(25 * 3600)
    at.know("later")

    assert at.states() == {"run00000001": "invalidated"}
    assert at.outbox.take_hook_calls(8) == []


def test_nobody_is_told_that_what_a_kept_failure_withdraws_does_not_get_through(at: Bench) -> None:
    """It waits no more."""
    at.outbox.accept([report("run00000001")])
    keep(at.outbox, report("run00000002", Outcome.FAILED, began_s=2))

    assert at.outbox.undelivered() == []


def test_what_was_kept_outlives_the_process(at: Bench) -> None:
    """It waits in the file like everything else that was acknowledged, and counts as waiting."""
    keep(at.outbox, report("run00000001"))
    at.reopen()

    assert at.outbox.waiting_count() == 1
    assert at.outbox.take_in() == 1
    assert at.states() == {"run00000001": "waiting"}


@pytest.mark.parametrize(("later_s", "state"), [(100, "waiting"), (5000, "expired")])
def test_what_was_kept_before_a_boot_is_of_that_boot(at: Bench, later_s: int, state: str) -> None:
    """A host that goes down before anything is judged: the run comes before all of the next boot, and ages meanwhile."""
    keep(at.outbox, report("run00000001"))
    at.outbox.close()
    at.clock.reading = Reading(5 * SECOND_NS, START.wall_ns + later_s * SECOND_NS)
    at.outbox = open_outbox(at.directory, at.clock, boot_id="2" * 32)
    at.outbox.take_in()

    assert at.states() == {"run00000001": state}
    now = at.clock.read()
    failure = replace(report("run00000002", Outcome.FAILED), boot_id="2" * 32, started=now, ended=now)
    at.outbox.accept([failure])
    assert at.states() == {"run00000001": "invalidated" if state == "waiting" else state}


def test_another_process_takes_it_in_too(at: Bench) -> None:
    """A command that shows the history finds what the daemon has just acknowledged."""
    keep(at.outbox, report("run00000001"))
    other = open_outbox(at.directory, at.clock, "another")

    other.take_in()

    assert [row.run_id for row in run_rows(other)] == ["run00000001"]
    assert at.outbox.take_in() == 0
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


@pytest.mark.parametrize("decide", [lambda outbox: outbox.claim(8), lambda outbox: outbox.take_hook_calls(8)])
def test_a_store_that_cannot_judge_what_it_has_kept_keeps_no_more(
    at: Bench, decide: Callable[[Outbox], object]
) -> None:
    """Room for a line isn't room for what follows from it: who reports hears of it, and has other ways."""
    keep(at.outbox, report("run00000001"))
    at.outbox.connection.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ROLLBACK, 'full'); END")
    with pytest.raises(StoreError):
        decide(at.outbox)
    with pytest.raises(StoreError):
        keep(at.outbox, report("run00000002", began_s=2))
    at.outbox.connection.execute("DROP TRIGGER full")

    keep(at.outbox, report("run00000002", began_s=2))
    at.outbox.take_in()

    assert at.states() == {"run00000001": "superseded", "run00000002": "waiting"}


def test_a_store_that_was_removed_keeps_no_more(at: Bench) -> None:
    """What is written into a file without a name is not durable: who reports hears of it."""
    (at.directory / "outbox.db").unlink()

    with pytest.raises(StoreDamagedError, match="was removed"):
        keep(at.outbox, report("run00000001"))


def test_what_is_no_report_after_all_is_in_no_other_s_way(at: Bench) -> None:
    """It is told of, and the reports beside it count."""
    at.outbox.connection.execute(
        "CREATE TRIGGER unfit BEFORE INSERT ON runs WHEN NEW.run_id = 'run00000001'"
        " BEGIN SELECT RAISE(ABORT, 'nothing that can be kept'); END"
    )
    keep(at.outbox, report("run00000001"), report("run00000002"))
    at.outbox.keep({b"run v=1 nonsense=1\n": None})

    assert at.outbox.take_in() == 1
    assert at.states() == {"run00000002": "waiting"}
    (notice,) = at.outbox.take_notices()
    assert notice.startswith("2 reports that were acknowledged")


def test_a_clock_at_the_end_of_all_time_is_in_no_other_report_s_way(at: Bench) -> None:
    """The store has been told of an instant after which SQLite counts no more: a success still waits, and is sent."""
    end = Reading(0, 2**63 - 1)
    keep(at.outbox, replace(report("run00000001", Outcome.FAILED), boot_id="elsewhere", started=end, ended=end))
    keep(at.outbox, report("run00000002"))

    assert [attempt.run_id for attempt in at.outbox.claim(8).attempts] == ["run00000002"]


def test_of_two_that_have_expired_people_are_told_of_the_older(at: Bench) -> None:
    """Also where it waited before, and the other one was too late from the beginning."""
    keep(at.outbox, report("run00000001"))
    at.outbox.take_in()
    at.clock.advance(5000)
    keep(at.outbox, report("run00000002", began_s=2))

    (call,) = at.outbox.take_hook_calls(8)
    assert (call.kind, call.run_id) == ("on_undeliverable", "run00000001")
    assert at.states() == {"run00000001": "expired", "run00000002": "expired"}


_EARLIER_BOOT = "1" * 32
_outcomes = st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST, Outcome.SKIPPED])
_refs = st.sampled_from(["heartbeat:one", "auto:one", "heartbeat:nobody", None])  # the first two are one stream


@st.composite
def _reports(draw: st.DrawFn) -> Report:
    """One of a few runs: so some come twice, and of some an outcome turns up after they were lost."""
    told = report(f"run{draw(st.integers(1, 6)):08}", draw(_outcomes), began_s=draw(st.integers(-3000, 900)))
    if draw(st.integers(0, 4)) == 0:
        a_boot_ago = Reading(told.started.boot_ns, told.started.wall_ns - 10_000 * SECOND_NS)
        told = replace(told, boot_id=_EARLIER_BOOT, started=a_boot_ago, ended=a_boot_ago)
    return replace(
        told,
        ref=draw(_refs),
        job=draw(st.sampled_from(["one", "two", ""])),
        replay_all=draw(st.booleans()),
        max_age_s=draw(st.sampled_from([None, None, 100.0])),
        calls_hooks=draw(st.booleans()),
    )


@given(
    before=st.lists(_reports(), max_size=3),
    reports=st.lists(_reports(), min_size=2, max_size=10),
    then=st.sampled_from(["nothing", "leased", "not acknowledged", "delivered"]),
    later_s=st.sampled_from([0, 50, 5000]),
)
@settings(max_examples=100, deadline=None)
def test_many_together_do_what_they_would_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, before: list[Report], reports: list[Report], then: str, later_s: float
) -> None:
    """Entries, streams, jobs, history and hook calls: nobody can tell afterwards how they came in."""
    stores = [_lived_in(tmp_path_factory.mktemp("home"), before, then, later_s) for _ in range(2)]

    in_turn, together = stores
    for told in reports:
        in_turn.outbox.accept([told])
    keep(together.outbox, *reports)
    together.outbox.take_in()

    assert _contents(in_turn) == _contents(together)
    claims = [each.outbox.claim(8) for each in stores]
    assert len({frozenset(attempt.run_id for attempt in claim.attempts) for claim in claims}) == 1
    for each in stores:
        each.outbox.close()


def _lived_in(home: Path, before: list[Report], then: str, later_s: float) -> Bench:
    """Return a store that has seen two boots, *before*, *then* how the attempts went, and some time pass."""
    (home / "store").mkdir(mode=0o700)
    boots.count(str(home / "store"), _EARLIER_BOOT)
    made = bench(home)
    made.know("one")
    made.clock.advance(1000)
    for told in before:
        made.outbox.accept([told])
    attempts = () if then == "nothing" else made.outbox.claim(8).attempts
    for attempt in attempts:
        if then == "delivered":
            delivered(made.outbox, attempt, "")
        elif then == "not acknowledged":
            not_delivered(made.outbox, attempt, "no answer", delay_s=1000)
    made.clock.advance(later_s)
    return made


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

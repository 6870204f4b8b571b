"""Which hook calls a store notes, and who gets them: the transactions that learn of it, whoever's they are."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from aura_agent.outbox.handover import handed_over, to_hand_over
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from tests.outbox.stores import SECOND_NS, Bench, delivered


def _taken(outbox: Outbox) -> list[tuple[str, str]]:
    """Take all calls and end them; return their hooks and runs."""
    calls = outbox.take_hook_calls(1000)
    for call in calls:
        outbox.end_hook_call(call.id)
    return [(call.kind.value, call.run_id) for call in calls]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.KILLED, Outcome.NOT_STARTED])
def test_each_failure_is_noted_and_the_first_success_after_it(at: Bench, outcome: Outcome) -> None:
    """Not the success before, nor the second after; what was skipped changes nothing."""
    at.run()
    first, second = at.run(outcome), at.run(outcome)
    at.run(Outcome.SKIPPED)
    recovery = at.run()
    at.run()

    assert _taken(at.outbox) == [("on_failure", first), ("on_failure", second), ("on_recovery", recovery)]
    assert _taken(at.outbox) == []


def test_a_lost_run_is_one_until_its_outcome_turns_up(at: Bench) -> None:
    """Then its success is the recovery from it."""
    run_id = at.run(Outcome.LOST)
    assert _taken(at.outbox) == [("on_lost_run", run_id)]

    at.runs -= 1
    at.clock.advance(-1)
    assert at.run() == run_id

    assert _taken(at.outbox) == [("on_recovery", run_id)]


def test_a_success_that_comes_late_is_no_recovery(at: Bench) -> None:
    """It started before the failure; nor does a failure from before the newest success make the next one a recovery."""
    early: list[Report] = []

    def keep(report: Report) -> Report:
        early.append(report)
        return replace(report, run_id="elsewhere1", job="other")

    at.run(change=keep)
    failure = at.run(Outcome.FAILED)
    at.outbox.accept(early)
    assert _taken(at.outbox) == [("on_failure", failure)]

    recovery = at.run()
    at.outbox.accept([replace(early[0], run_id="elsewhere2", outcome=Outcome.FAILED)])
    at.run()
    assert _taken(at.outbox) == [("on_recovery", recovery), ("on_failure", "elsewhere2")]


def test_jobs_stand_for_themselves_and_over_a_new_start(at: Bench) -> None:
    """The failure of one is not the recovery of another."""
    failure = at.run(Outcome.FAILED)
    at.run(change=lambda report: replace(report, job="other"))
    at.reopen()
    recovery = at.run()

    assert _taken(at.outbox) == [("on_failure", failure), ("on_recovery", recovery)]


def test_what_is_a_day_old_is_no_news(at: Bench) -> None:
    """A report that comes so late notes nothing, a call that nobody took is forgotten; a lost run is news when found."""
    late: list[Report] = []

    def keep(report: Report) -> Report:
        late.append(report)
        return replace(report, run_id="elsewhere1", outcome=Outcome.SKIPPED)

    at.run(Outcome.FAILED, change=keep)
    at.run(Outcome.FAILED)
    at.clock.advance(25 * 3600)
    at.outbox.accept(late)
    lost = replace(late[0], run_id="elsewhere2", outcome=Outcome.LOST)
    at.outbox.accept([lost])

    assert _taken(at.outbox) == [("on_lost_run", "elsewhere2")]


def test_a_wrong_wall_clock_makes_nothing_old(at: Bench) -> None:
    """Within a boot CLOCK_BOOTTIME says how long ago a run ended."""
    run_id = at.run(
        Outcome.FAILED, change=lambda report: replace(report, ended=report.ended._replace(wall_ns=SECOND_NS))
    )

    assert _taken(at.outbox) == [("on_failure", run_id)]


def test_where_nobody_takes_them_calls_are_bounded(at: Bench) -> None:
    """The newest thousand stay."""
    runs = [at.run(Outcome.FAILED) for _ in range(1010)]

    assert [run_id for _, run_id in _taken(at.outbox)] == runs[10:]


def test_a_call_is_taken_by_one_process_and_given_back_by_one_that_is_gone(at: Bench) -> None:
    """As leases are: by a lock that the end of a process frees."""
    run_id = at.run(Outcome.FAILED)
    other = Outbox(str(at.directory), at.clock, owner="other", hostname="host")
    assert [call.run_id for call in other.take_hook_calls(10)] == [run_id]
    assert at.outbox.take_hook_calls(10) == []
    assert not at.outbox.claim(1).hook_calls

    other.release_hook_calls()
    other.close()

    assert at.outbox.claim(1).hook_calls
    assert _taken(at.outbox) == [("on_failure", run_id)]


def test_a_call_of_a_process_that_was_killed_is_taken_by_the_next(at: Bench) -> None:
    """Its lock is free, whether or not anything is due to be sent."""
    run_id = at.run(Outcome.FAILED)
    code = (
        "import os, sys; from aura_agent.outbox.store import open_outbox\n"
        "calls = open_outbox(sys.argv[1], 'run').take_hook_calls(10); print(len(calls), flush=True); os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", code, at.directory], stdout=subprocess.PIPE, check=False)
    assert (ended.stdout, ended.returncode) == (b"1\n", -signal.SIGABRT)

    assert _taken(at.outbox) == [("on_failure", run_id)]


def test_only_what_was_noted_since_is_taken(at: Bench) -> None:
    """An aura-run tells of what came to light since its job ended."""
    at.run(Outcome.FAILED)
    since_ns = at.clock.read().wall_ns + 1
    at.clock.advance(1)
    run_id = at.run(Outcome.FAILED)

    assert [call.run_id for call in at.outbox.take_hook_calls(10, noted_since_ns=since_ns)] == [run_id]


def test_a_run_of_which_nobody_shall_be_told_notes_nothing(at: Bench) -> None:
    """And yet the next success is the recovery from it."""
    at.run(Outcome.FAILED, change=lambda report: replace(report, calls_hooks=False))
    recovery = at.run()

    assert _taken(at.outbox) == [("on_recovery", recovery)]


def test_what_is_handed_over_is_told_by_one_of_both(at: Bench) -> None:
    """The daemon tells what was not told here; what it has is forgotten here."""
    at.run(Outcome.FAILED)
    (untold,) = to_hand_over(at.outbox)
    assert untold.calls_hooks
    handed_over(at.outbox, [untold.run_id])
    assert _taken(at.outbox) == []

    at.run(Outcome.FAILED)
    _taken(at.outbox)
    (told,) = to_hand_over(at.outbox)
    assert not told.calls_hooks


def test_an_entry_that_expires_is_told_once_until_a_delivery(at: Bench) -> None:
    """Each later one would say the same; after a ping that got through it is news again."""
    at.know("backup", interval_s=10, grace_s=0)
    first = at.run()
    at.clock.advance(20)
    at.outbox.claim(1)
    at.run()
    at.clock.advance(20)
    at.outbox.claim(1)
    assert _taken(at.outbox) == [("on_undeliverable", first)]

    at.run()
    (attempt,) = at.outbox.claim(1).attempts
    delivered(at.outbox, attempt, "")
    again = at.run()
    at.clock.advance(20)
    at.outbox.claim(1)
    assert _taken(at.outbox) == [("on_undeliverable", again)]


def test_how_long_pings_have_waited_counts_from_the_first_that_waited_in_vain(at: Bench) -> None:
    """Though each later success takes the place of the one before; a delivery or a failure ends the count."""
    at.know("backup")
    at.run()
    at.clock.advance(100)
    newest = at.run()
    (stream,) = at.outbox.undelivered()
    assert (stream.run_id, stream.waiting_s) == (newest, 101.0)

    at.run(Outcome.FAILED)
    assert at.outbox.undelivered() == []
    at.run()
    at.clock.advance(5)
    (stream,) = at.outbox.undelivered()
    assert stream.waiting_s == 5.0
    at.outbox.tell_undeliverable(stream, "because")
    at.outbox.tell_undeliverable(stream, "because")
    assert at.outbox.undelivered() == []
    assert [kind for kind, _ in _taken(at.outbox)] == ["on_failure", "on_recovery", "on_undeliverable"]


@pytest.mark.parametrize("first", [Outcome.SUCCEEDED, Outcome.FAILED])
@pytest.mark.parametrize("last", ["heartbeat:backup", "heartbeat:id-backup"])
def test_what_turns_out_to_be_one_heartbeats_has_waited_all_along(at: Bench, first: Outcome, last: str) -> None:
    """What came under its name and under its id: the count goes on from the first that waits in vain."""
    at.run(first, ref="heartbeat:backup")
    at.clock.advance(100)
    at.run(ref="heartbeat:id-backup")
    at.clock.advance(50)
    at.run(ref=last)
    at.know("backup")

    (stream,) = at.outbox.undelivered()
    assert stream.waiting_s == (152.0 if first is Outcome.SUCCEEDED else 51.0)


def test_what_waits_behind_a_delivery_does_so_from_then_on(at: Bench) -> None:
    """With replay = "all": one got through, the next doesn't, and people hear of that in time, neither late nor early."""
    at.know("backup")
    for _ in range(2):
        at.run(change=lambda report: replace(report, replay_all=True))
        at.clock.advance(100)
    (attempt,) = at.outbox.claim(1).attempts
    delivered(at.outbox, attempt, "")
    at.clock.advance(30)

    (stream,) = at.outbox.undelivered()
    assert stream.waiting_s == 30.0


@pytest.mark.parametrize("told", ["heartbeat:backup", "heartbeat:id-backup"])
def test_people_who_know_that_pings_wait_are_not_told_again_when_two_streams_become_one(at: Bench, told: str) -> None:
    """Whichever of the two they were told of."""
    for ref in ("heartbeat:backup", "heartbeat:id-backup"):
        at.run(ref=ref)
    streams = {stream.run_id: stream for stream in at.outbox.undelivered()}
    runs = {"heartbeat:backup": "run00000001", "heartbeat:id-backup": "run00000002"}
    at.outbox.tell_undeliverable(streams[runs[told]], "because")
    assert len(at.outbox.undelivered()) == 1

    at.know("backup")
    at.outbox.claim(0)

    assert at.outbox.undelivered() == []


def test_trouble_that_the_other_stream_has_no_part_in_ends_with_both(at: Bench) -> None:
    """Told that one doesn't get through, which turns out to feed a heartbeat that hears: the next trouble is told."""
    at.run(ref="heartbeat:backup")
    (waiting,) = at.outbox.undelivered()
    at.outbox.tell_undeliverable(waiting, "because")
    at.run(ref="url:http://127.0.0.1:9/ping/id-backup")
    (attempt,) = at.outbox.claim(1).attempts
    at.clock.advance(5)
    delivered(at.outbox, attempt, "")
    at.know("backup")
    at.run()
    at.clock.advance(60)

    (stream,) = at.outbox.undelivered()
    assert stream.waiting_s == 60.0


def test_of_two_streams_that_become_one_the_later_delivery_counts(at: Bench) -> None:
    """Whoever compares with Aura's last ping would take it for somebody else's otherwise."""
    at.know("backup", "id-backup")
    at.run(ref="heartbeat:backup")
    (attempt,) = at.outbox.claim(1).attempts
    delivered(at.outbox, attempt, "")
    at.clock.advance(1000)
    at.run(ref="url:http://127.0.0.1:9/ping/other")
    (attempt,) = at.outbox.claim(1).attempts
    delivered(at.outbox, attempt, "")
    later_ns = at.clock.read().wall_ns

    at.outbox.remember_url("id-backup", Secret("http://127.0.0.1:9/ping/other"), later_ns)

    rows = at.outbox.connection.execute("SELECT delivered_wall_ns FROM streams").fetchall()
    assert [row[0] for row in rows] == [later_ns]


def test_a_store_of_the_version_before_gets_what_hooks_need(at: Bench) -> None:
    """Its jobs stand well until one fails."""
    failure = at.run(Outcome.FAILED)
    connection = at.outbox.connection
    connection.execute("UPDATE jobs SET newest_epoch = NULL, newest_boot_ns = NULL, newest_run = NULL, failing = 0")
    at.run()

    assert _taken(at.outbox) == [("on_failure", failure)]

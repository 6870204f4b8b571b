"""Judging start records: what the store makes of runs whose wrapper is gone."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from aura_agent.errors import StoreError
from aura_agent.outbox.run_history import run_rows
from aura_agent.report import spool, started, wire
from aura_agent.report.record import Outcome, Report
from tests.machine import needs, pid_namespaces
from tests.outbox.stores import Bench
from tests.reports import report_of

_LEAVE = """
from sys import argv
from aura_agent.report.started import StartRecord
StartRecord(argv[1], argv[2], int(argv[3]), argv[4].encode())
"""


def _started(at: Bench, run_id: str, boot_id: str = "") -> Report:
    """Return the report of a run that starts now and succeeds at once."""
    run = report_of(run_id, at.clock.read())
    return replace(run, boot_id=boot_id) if boot_id else run


def _leave_record(at: Bench, run: Report, attempt: int = 1) -> None:
    """Let a wrapper die that had put *run*'s start on record."""
    fields = {key: value for key, value in run.to_fields().items() if not key.startswith("end") and key != "outcome"}
    line = wire.encode("start", fields).decode()
    subprocess.run([sys.executable, "-c", _LEAVE, str(at.directory), run.run_id, str(attempt), line], check=True)


def _outcomes(at: Bench) -> dict[str, str]:
    return {row.run_id: row.outcome for row in run_rows(at.outbox)}


def test_a_lost_run_withdraws_what_waits_from_before_it(at: Bench) -> None:
    """It counts as a failure, is said once, and leaves no record behind."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    _leave_record(at, _started(at, "lostrun1"))
    at.clock.advance(5)

    claims = [at.outbox.claim(10) for _ in range(2)]

    assert [claim.attempts for claim in claims] == [(), ()]
    assert [claim.lost for claim in claims] == [("backup",), ()]
    assert at.states() == {earlier: "invalidated"}
    row = next(row for row in run_rows(at.outbox) if row.run_id == "lostrun1")
    assert (row.outcome, row.duration_s) == ("lost", 5.0)
    assert not started.count(str(at.directory))


def test_what_is_decided_again_and_again_over_a_full_disk_is_told_once(at: Bench) -> None:
    """A claim that can't be written is undone, with the lost run and the withdrawal in it; the next finds both anew."""
    at.know("backup")
    at.run(ref="heartbeat:other")
    at.run()
    at.clock.advance(1)
    _leave_record(at, replace(_started(at, "lostrun1"), ref="heartbeat:other"))
    at.outbox.connection.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE OF lease_owner ON streams BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    for _ in range(3):
        with pytest.raises(StoreError):
            at.outbox.claim(10)
    at.outbox.connection.execute("DROP TRIGGER refuse")

    claim = at.outbox.claim(10)

    assert [gone.heartbeat for gone in claim.withdrawn] == ["other"]
    assert claim.lost == ("backup",)


def test_a_run_whose_outcome_is_in_the_spool_is_not_lost(at: Bench) -> None:
    """Its wrapper was killed between the two files."""
    run = _started(at, "spooled1")
    _leave_record(at, run)
    spool.write(str(at.directory), run.run_id, wire.encode("run", run.to_fields()))

    assert at.outbox.take_in() == 1
    assert _outcomes(at) == {"spooled1": "succeeded"}
    assert not started.count(str(at.directory))


def test_a_run_whose_outcome_is_known_is_not_lost(at: Bench) -> None:
    """Its wrapper was killed after somebody had taken in its report."""
    run = _started(at, "known001")
    at.outbox.accept([run])
    _leave_record(at, run)

    assert at.outbox.take_in() == 0
    assert (_outcomes(at), at.states()) == ({"known001": "succeeded"}, {"known001": "waiting"})


def test_an_outcome_that_turns_up_later_replaces_lost(at: Bench) -> None:
    """What was withdrawn stays withdrawn."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    run = _started(at, "foundrun")
    _leave_record(at, run)
    at.outbox.take_in()

    at.outbox.accept([run])

    assert _outcomes(at)["foundrun"] == "succeeded"
    assert at.states() == {earlier: "invalidated", "foundrun": "waiting"}
    assert [attempt.run_id for attempt in at.outbox.claim(10).attempts] == ["foundrun"]


def test_a_run_lost_in_its_second_attempt_counts_from_there(at: Bench) -> None:
    """A success that started between the two attempts is earlier than it."""
    first = _started(at, "retried1")
    at.clock.advance(1)
    between = at.run()
    at.clock.advance(1)
    second = replace(_started(at, "retried1"))
    _leave_record(at, first, 1)
    _leave_record(at, second, 2)

    at.outbox.take_in()

    assert at.states() == {between: "invalidated"}


def test_a_run_of_an_earlier_boot_is_lost_and_older_than_those_of_this_one(at: Bench) -> None:
    """Its wrapper went with the power; a success since then stands."""
    boots = at.directory / "boots"
    boots.write_text("boot-before\n" + boots.read_text())
    at.reopen()
    _leave_record(at, replace(_started(at, "oldrun01"), boot_id="boot-before"))
    since = at.run()

    assert at.outbox.take_in() == 1
    assert _outcomes(at)["oldrun01"] == "lost"
    assert at.states() == {since: "waiting"}


def test_a_run_of_the_daemon_lost_in_its_second_attempt_counts_from_there(at: Bench) -> None:
    """As one under a wrapper does."""
    at.outbox.begin([("daemonrun1", "backup", "heartbeat:backup", at.clock.read())])
    at.clock.advance(1)
    between = at.run()
    at.outbox.begin([("daemonrun1", "backup", "heartbeat:backup", at.clock.read())])
    at.reopen()

    assert at.outbox.lose_open_runs() == ["backup"]
    assert at.states() == {between: "invalidated"}


def test_a_run_of_the_daemon_whose_outcome_is_in_the_spool_is_not_lost(at: Bench) -> None:
    """The disk was full as the daemon stopped: what it put there withdraws nothing."""
    earlier = at.run()
    run = _started(at, "daemonrun2")
    at.outbox.begin([(run.run_id, run.job, run.ref, run.started)])
    spool.write(str(at.directory), run.run_id, wire.encode("run", replace(run, replay_all=True).to_fields()))
    at.reopen()

    assert at.outbox.lose_open_runs() == []
    assert _outcomes(at)[run.run_id] == "succeeded"
    assert at.states()[earlier] in ("waiting", "superseded")


@pytest.mark.parametrize("line", ["run v=1 x=y", "start v=1", "start v=1 run=short boot=b start_boot_ns=x start_ns=1"])
def test_a_record_that_says_nothing_hinders_nobody(at: Bench, line: str) -> None:
    """Whole, and yet of no run: it is removed, and the rest goes on."""
    subprocess.run([sys.executable, "-c", _LEAVE, str(at.directory), "oddrun01", "1", line], check=True)
    run_id = at.run()
    at.know("backup")

    assert [attempt.run_id for attempt in at.outbox.claim(10).attempts] == [run_id]
    assert not started.count(str(at.directory))


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SKIPPED])
def test_a_start_that_goes_on_record_after_its_end_loses_no_run(at: Bench, outcome: Outcome) -> None:
    """The database was locked meanwhile: nothing is left of the start, whatever is pruned later."""
    run = replace(_started(at, "daemonrun3"), outcome=outcome)
    at.outbox.accept([run])
    at.outbox.begin([(run.run_id, run.job, run.ref, run.started)])
    for table in ("runs", "entries"):
        at.outbox.connection.execute(f"DELETE FROM {table}")
    at.reopen()

    assert at.outbox.lose_open_runs() == []
    assert _outcomes(at) == {}


# -- runs of a daemon that is gone, judged by others ---------------------------------------------------------------

_SERVE = """
import sys
from aura_agent.clock import Reading
from aura_agent.outbox.store import open_outbox
daemon = open_outbox(sys.argv[1], "daemon")
daemon.begin([("openrun1", "backup", "heartbeat:backup", Reading(int(sys.argv[2]), int(sys.argv[3])))])
print("begun", flush=True)
sys.stdin.read()
"""


@contextmanager
def _daemon_with_a_run(at: Bench, *before: str) -> Iterator["subprocess.Popen[str]"]:
    """Have another process go on with a run that starts now, started by the command *before*."""
    argv = [*before, sys.executable, "-c", _SERVE, str(at.directory), *map(str, at.clock.read())]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "begun\n"
        try:
            yield daemon
        finally:
            daemon.kill()


def test_whoever_sends_next_finds_the_run_of_a_killed_daemon_lost(at: Bench) -> None:
    """It withdraws the success before it, and is told of once."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    with _daemon_with_a_run(at) as daemon:
        daemon.kill()
        daemon.wait()

        claims = [at.outbox.claim(10) for _ in range(2)]

    assert [(claim.attempts, claim.lost) for claim in claims] == [((), ("backup",)), ((), ())]
    assert at.states() == {earlier: "invalidated"}
    assert _outcomes(at)["openrun1"] == "lost"


def test_a_run_of_a_killed_daemon_is_lost_while_the_next_one_just_starts(at: Bench) -> None:
    """That one holds the store's lock already, and has judged nothing yet."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    with _daemon_with_a_run(at) as daemon, (at.directory / "daemon.lock").open("w") as lock:
        daemon.kill()
        daemon.wait()
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert at.outbox.claim(10).attempts == ()

    assert at.states() == {earlier: "invalidated"}


def test_a_run_of_a_living_daemon_is_not_lost(at: Bench) -> None:
    """What was true before it is sent, as often as somebody looks."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    with _daemon_with_a_run(at):
        at.outbox.take_in()

        assert [attempt.run_id for attempt in at.outbox.claim(10).attempts] == [earlier]
        assert "openrun1" not in _outcomes(at)


@pytest.mark.root
@needs(pid_namespaces)
def test_a_run_of_a_daemon_of_another_pid_namespace_is_not_lost(at: Bench) -> None:
    """A pid would say nothing here; its lock does."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    with _daemon_with_a_run(at, "unshare", "--pid", "--fork", "--kill-child"):
        assert [attempt.run_id for attempt in at.outbox.claim(10).attempts] == [earlier]


def test_a_run_of_a_killed_daemon_is_seen_by_who_only_lists(at: Bench) -> None:
    """`queue list` and `history` say what a delivery would find."""
    at.run()
    at.outbox.take_in()
    at.clock.advance(1)
    with _daemon_with_a_run(at) as daemon:
        daemon.kill()
        daemon.wait()

        assert at.outbox.take_in() == 1

    assert _outcomes(at)["openrun1"] == "lost"


def test_a_run_that_an_older_version_began_is_judged_by_the_lock_of_the_store(at: Bench) -> None:
    """Its row names no daemon."""
    at.know("backup")
    earlier = at.run()
    at.clock.advance(1)
    at.outbox.begin([("openrun1", "backup", "heartbeat:backup", at.clock.read())])
    at.outbox.connection.execute("UPDATE open_runs SET owner = NULL")
    with (at.directory / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at.outbox.take_in()
        assert at.states() == {earlier: "waiting"}
    at.outbox.claim(10)

    assert at.states() == {earlier: "invalidated"}


def test_the_outcome_of_a_run_that_a_killed_daemon_spooled_counts(at: Bench) -> None:
    """It is read before the run is judged."""
    at.know("backup")
    run = _started(at, "openrun1")
    with _daemon_with_a_run(at) as daemon:
        daemon.kill()
        daemon.wait()
        spool.write(str(at.directory), run.run_id, wire.encode("run", run.to_fields()))

        assert [attempt.run_id for attempt in at.outbox.claim(10).attempts] == ["openrun1"]

    assert _outcomes(at) == {"openrun1": "succeeded"}
    assert os.listdir(at.directory / "spool") == []

"""The outbox on a real SQLite file: accept, lease, send, acknowledge."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.clock import Reading
from aura_agent.errors import StoreDamagedError, StoreError
from aura_agent.outbox.claims import LEASE_S, Attempt, Claim, Rooms
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.queries import queue_rows
from aura_agent.outbox.rules import State
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report import spool, wire
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from tests.outbox.stores import SECOND_NS, START, Bench, delivered, not_delivered, open_outbox, renamed
from tests.reports import report_of

_BARE_URL = "url:http://127.0.0.1:9/ping/id-backup"  # of the heartbeat that Bench.know puts into the cache


def _only(claim: Claim) -> Attempt:
    assert len(claim.attempts) == 1
    return claim.attempts[0]


def test_a_success_is_leased_sent_and_acknowledged(at: Bench) -> None:
    """The whole way of one entry, and nothing is left to send after it."""
    at.know("backup")
    run_id = at.run()

    attempt = _only(at.outbox.claim(10))
    assert (attempt.run_id, attempt.heartbeat) == (run_id, "backup")
    delivered(at.outbox, attempt, "200")

    assert at.states() == {run_id: "delivered"}
    assert at.outbox.claim(10) == Claim()


def test_a_leased_stream_is_nobody_elses(at: Bench) -> None:
    """Across processes one attempt is in flight per heartbeat, also when a newer success arrives."""
    at.know("backup")
    at.run()
    _only(at.outbox.claim(10))
    at.run()

    other = open_outbox(at.directory, at.clock, owner="other")
    assert other.claim(10).attempts == ()
    other.close()


def test_a_lease_whose_holder_hangs_runs_out(at: Bench) -> None:
    """What it was sending is sent again by somebody else."""
    at.know("backup")
    run_id = at.run()
    _only(at.outbox.claim(10))
    other = open_outbox(at.directory, at.clock, owner="other")

    at.clock.advance(LEASE_S - 1)
    assert other.claim(10).attempts == ()
    at.clock.advance(2)
    assert _only(other.claim(10)).run_id == run_id
    other.close()


_TAKE_LEASE = """
import sys
from aura_agent.clock import Reading
from tests.outbox.stores import MovedClock, open_outbox
outbox = open_outbox(sys.argv[1], MovedClock(Reading(int(sys.argv[2]), int(sys.argv[3]))), "theirs")
print(len(outbox.claim(10).attempts), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_was_sending_is_taken_over_at_once(at: Bench) -> None:
    """As long as it lives the lease is its own; once it is gone, nobody waits for that to run out."""
    at.know("backup")
    run_id = at.run()
    clock = at.clock.read()
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE_LEASE, at.directory, str(clock.boot_ns), str(clock.wall_ns)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        alive = at.outbox.claim(10)
        process.kill()
        process.wait()

    assert alive.attempts == ()
    assert _only(at.outbox.claim(10)).run_id == run_id
    assert os.listdir(at.directory / "senders") == ["test"]


def test_who_takes_over_and_does_not_come_through_leaves_that_to_the_next(at: Bench) -> None:
    """The sign of the one that is gone stays until it is on record that its lease is: else that would run out."""
    at.know("backup")
    run_id = at.run()
    clock = at.clock.read()
    subprocess.run(
        [sys.executable, "-c", _TAKE_LEASE, at.directory, str(clock.boot_ns), str(clock.wall_ns)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    refused = "WHEN new.lease_owner IS NOT NULL BEGIN SELECT RAISE(ABORT, 'no'); END"
    at.outbox.connection.execute(f"CREATE TRIGGER refuse BEFORE UPDATE OF lease_owner ON streams {refused}")
    with pytest.raises(StoreError):
        at.outbox.claim(10)
    at.outbox.connection.execute("DROP TRIGGER refuse")

    assert _only(at.outbox.claim(10)).run_id == run_id
    assert os.listdir(at.directory / "senders") == ["test"]


def test_a_failed_attempt_waits_for_its_delay(at: Bench) -> None:
    """Back-off is kept by the store: no attempt before its time, and the time is told."""
    at.know("backup")
    run_id = at.run()
    not_delivered(at.outbox, _only(at.outbox.claim(10)), "503", delay_s=30)

    claim = at.outbox.claim(10)
    assert claim.attempts == ()
    assert claim.next_due_s == pytest.approx(30)
    at.clock.advance(30)
    attempt = _only(at.outbox.claim(10))
    assert (attempt.run_id, attempt.tries) == (run_id, 1)


def test_a_new_success_is_tried_at_once(at: Bench) -> None:
    """Neither back-off nor parking holds back a newer success; the older one is superseded."""
    at.know("backup")
    old = at.run()
    not_delivered(at.outbox, _only(at.outbox.claim(10)), "404", delay_s=3600, parked=True)

    new = at.run()

    assert _only(at.outbox.claim(10)).run_id == new
    assert at.states()[old] == "superseded"


def test_a_failure_withdraws_what_waits(at: Bench) -> None:
    """A later run that didn't succeed makes the earlier success unsendable, for good."""
    at.know("backup")
    run_id = at.run()
    at.run(Outcome.FAILED)

    assert at.outbox.claim(10).attempts == ()
    assert at.states() == {run_id: "invalidated"}


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.KILLED, Outcome.NOT_STARTED, Outcome.LOST])
def test_each_kind_of_failure_withdraws(at: Bench, outcome: Outcome) -> None:
    """They are all silence for Aura."""
    run_id = at.run()
    at.run(outcome)

    assert at.states() == {run_id: "invalidated"}


def test_a_skipped_run_withdraws_nothing(at: Bench) -> None:
    """It didn't fail: it didn't run."""
    run_id = at.run()
    at.run(Outcome.SKIPPED)

    assert at.states() == {run_id: "waiting"}


def test_a_failure_that_started_earlier_withdraws_nothing(at: Bench) -> None:
    """Order is by start: a long run that failed late says nothing about one that started after it."""
    early = at.clock.read()
    at.clock.advance(10)
    run_id = at.run()
    at.run(Outcome.FAILED, change=lambda report: replace(report, started=early))

    assert at.states() == {run_id: "waiting"}


def test_a_failure_outlives_the_history(at: Bench) -> None:
    """A success of long ago that turns up late is withdrawn, however much has been pruned since."""
    early = at.clock.read()
    at.clock.advance(10)
    at.run(Outcome.FAILED)
    at.outbox.connection.execute("DELETE FROM runs")
    late = at.run(change=lambda report: replace(report, started=early))

    assert at.states() == {late: "invalidated"}


def test_an_attempt_under_way_is_never_cancelled(at: Bench) -> None:
    """A failure arrives meanwhile: a 2xx still counts as delivered."""
    at.know("backup")
    run_id = at.run()
    attempt = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED)

    assert at.states() == {run_id: "waiting"}
    delivered(at.outbox, attempt, "200")
    assert at.states() == {run_id: "delivered"}


def test_an_attempt_that_failed_meanwhile_is_withdrawn_and_says_so(at: Bench) -> None:
    """Anything but a 2xx after a failure arrived: invalidated, it may have arrived, never retried."""
    at.know("backup")
    run_id = at.run()
    attempt = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED)

    state = not_delivered(at.outbox, attempt, "connection lost", delay_s=1)

    assert state is State.INVALIDATED
    (row,) = queue_rows(at.outbox, ended=True)
    assert (row.run_id, row.state) == (run_id, "invalidated")
    assert "may have arrived" in row.reason
    at.clock.advance(60)
    assert at.outbox.claim(10).attempts == ()


def test_a_waiting_success_expires_with_its_heartbeat(at: Bench) -> None:
    """Older than interval + grace it is never sent, and it says why."""
    at.know("backup", interval_s=3600, grace_s=600)
    run_id = at.run()
    at.clock.advance(4201)

    assert at.outbox.claim(10).attempts == ()
    (row,) = queue_rows(at.outbox, ended=True)
    assert (row.run_id, row.state) == (run_id, "expired")
    assert "4200" in row.reason


def test_a_wrong_wall_clock_expires_nothing_within_a_boot(at: Bench) -> None:
    """The clock jumps ahead by ten years while an entry waits."""
    at.know("backup")
    run_id = at.run()
    now = at.clock.read()
    at.clock.reading = Reading(now.boot_ns + SECOND_NS, now.wall_ns + 10**17 * 3)

    assert _only(at.outbox.claim(10)).run_id == run_id


def test_a_run_stamped_in_the_far_future_does_not_silence_the_stream(at: Bench) -> None:
    """A clock that stood at 2036 when a run ended changes nothing for the runs after it."""
    at.know("backup")
    at.run(change=lambda report: replace(report, ended=report.ended._replace(wall_ns=2_090_000_000 * SECOND_NS)))
    delivered(at.outbox, _only(at.outbox.claim(10)), "200")
    later = at.run()

    assert _only(at.outbox.claim(10)).run_id == later


def test_a_report_is_accepted_once(at: Bench) -> None:
    """The same run over the socket and through the spool is one run."""
    run_id = at.run()
    at.outbox.accept([])
    at.run(change=renamed(run_id))

    assert at.states() == {run_id: "waiting"}


def test_an_outcome_that_turns_up_replaces_lost(at: Bench) -> None:
    """What was withdrawn stays withdrawn; the run itself counts again."""
    older = at.run()
    lost = at.run(Outcome.LOST)
    at.know("backup")
    at.run(change=renamed(lost))

    rows = {row.run_id: row.outcome for row in run_rows(at.outbox)}
    assert rows[lost] != "lost"
    assert at.states()[older] == "invalidated"


def test_the_spool_is_read_in_at_the_lease(at: Bench) -> None:
    """A failure in the spool withdraws what waits in the same transaction that would have sent it."""
    at.know("backup")
    waiting = at.run()
    at.clock.advance(5)
    now = at.clock.read()
    fields = {
        "run": "spooled1",
        "boot": current_boot_id(),
        "start_boot_ns": str(now.boot_ns),
        "start_ns": str(now.wall_ns),
        "end_boot_ns": str(now.boot_ns),
        "end_ns": str(now.wall_ns),
        "outcome": "failed",
        "ref": "heartbeat:backup",
    }
    path = spool.write(str(at.directory), "spooled1", wire.encode("run", fields))

    assert at.outbox.claim(10).attempts == ()
    assert at.states() == {waiting: "invalidated"}
    assert not os.path.exists(path)


def test_a_spool_file_that_is_no_report_is_set_aside(at: Bench) -> None:
    """It blocks nothing and is not deleted."""
    spool.write(str(at.directory), "odd", b"something else\n")
    run_id = at.run()
    at.know("backup")

    at.outbox.claim(10)
    assert at.states() == {run_id: "waiting"}
    assert os.listdir(at.directory / "spool" / "torn") == ["odd.report"]


def test_names_ids_and_urls_of_one_heartbeat_are_one_stream(at: Bench) -> None:
    """Whatever the report called it, order and withdrawal hold across."""
    heartbeat_id = at.know("host/nightly")
    by_name = at.run(ref="heartbeat:host/nightly")
    by_id = at.run(ref=f"heartbeat:{heartbeat_id}")
    by_url = at.run(ref=f"url:http://127.0.0.1:9/ping/{heartbeat_id}")
    by_command = at.run(ref="auto:nightly")

    assert [at.states()[run] for run in (by_name, by_id, by_url, by_command)] == ["superseded"] * 3 + ["waiting"]
    at.run(Outcome.FAILED, ref="auto:nightly")
    assert at.states()[by_command] == "invalidated"


def test_streams_merge_once_the_heartbeat_is_known(at: Bench) -> None:
    """Entries that came before the name was resolved obey the rules of the one stream from then on."""
    first = at.run(ref="heartbeat:backup")
    at.run(Outcome.FAILED, ref="heartbeat:the-id")
    last = at.run(ref="auto:backup")
    unresolved = at.outbox.claim(10).unresolved
    assert len(unresolved) == 2

    at.know("backup", "the-id")
    for stream in unresolved:
        at.outbox.attach(stream.stream_id, "the-id")

    attempt = _only(at.outbox.claim(10))
    assert (attempt.run_id, at.states()[first]) == (last, "invalidated")


def test_a_command_prefers_its_own_hosts_heartbeat(at: Bench) -> None:
    """HOST/backup before backup."""
    at.know("backup")
    own = at.know("host/backup")
    at.run(ref="auto:backup")

    assert _only(at.outbox.claim(10)).heartbeat_id == own


def test_a_ping_url_that_has_been_found_is_used_at_once(at: Bench) -> None:
    """The heartbeat was known before, its ping URL was not: nothing waits once it is."""
    row = CachedHeartbeat("the-id", "backup", 3600, 600, "up", None, None, 0)
    at.outbox.remember([row])
    run_id = at.run()
    (unresolved,) = at.outbox.claim(10).unresolved

    at.outbox.remember_url("the-id", Secret("http://127.0.0.1:9/ping/x"), 0)
    at.outbox.attach(unresolved.stream_id, "the-id")

    assert _only(at.outbox.claim(10)).run_id == run_id


def test_two_heartbeats_of_one_name_are_nobodys_guess(at: Bench) -> None:
    """Nothing is sent to either until somebody says which."""
    rows = [CachedHeartbeat(name, "backup", 3600, 600, "up", None, None, 0) for name in ("one", "two")]
    at.outbox.remember(rows)
    at.run(ref="heartbeat:backup")

    claim = at.outbox.claim(10)
    assert (claim.attempts, len(claim.unresolved)) == ((), 1)


def test_retry_after_holds_back_the_whole_host(at: Bench) -> None:
    """Not only the stream that was told so."""
    at.know("one")
    at.know("two")
    at.run(ref="heartbeat:one")
    not_delivered(at.outbox, _only(at.outbox.claim(10)), "429", delay_s=60, host_not_before_s=60)
    at.run(ref="heartbeat:two")

    claim = at.outbox.claim(10)
    assert claim.attempts == ()
    assert claim.next_due_s == pytest.approx(60, abs=2)
    at.outbox.hurry()
    assert at.outbox.claim(10).attempts == ()
    at.clock.advance(61)
    assert len(at.outbox.claim(10).attempts) == 2


def test_a_body_that_was_too_large_goes_no_more(at: Bench) -> None:
    """After a 413 the same ping is sent again without it."""
    at.know("backup")
    at.run(change=lambda report: replace(report, body=b"tail"))
    attempt = _only(at.outbox.claim(10))
    assert attempt.body == b"tail"
    not_delivered(at.outbox, attempt, "413", delay_s=0, drop_body=True)

    assert _only(at.outbox.claim(10)).body is None


def test_a_daemons_run_without_an_outcome_is_lost(at: Bench) -> None:
    """The daemon was killed while its job ran: what waits from before is withdrawn, the history says lost."""
    waiting = at.run()
    now = at.outbox.now()
    at.outbox.begin([("abandoned", "backup", "heartbeat:backup", Reading(now.boot_ns, now.wall_ns))])
    at.reopen()

    assert at.outbox.lose_open_runs() == ["backup"]
    assert at.states() == {waiting: "invalidated"}
    assert run_rows(at.outbox, limit=1)[0].outcome == "lost"


def test_an_earlier_boot_comes_before_a_later_one(at: Bench) -> None:
    """CLOCK_BOOTTIME starts anew at each boot; the count of boots keeps the order."""
    at.know("backup")
    (at.directory / "boots").write_text("older\nold\n" + current_boot_id() + "\n")
    at.reopen()
    old = at.run(change=lambda report: replace(report, boot_id="old", started=Reading(10**18, START.wall_ns)))
    new = at.run()

    assert at.states() == {old: "superseded", new: "waiting"}


def test_a_run_stamped_far_ahead_keeps_nothing_from_expiring(at: Bench) -> None:
    """Before its clock was set, a host thought it was 2036; two boots later what is old is old all the same."""
    at.know("backup", interval_s=3600, grace_s=600)
    at.run(Outcome.SKIPPED, change=lambda report: replace(report, ended=Reading(START.boot_ns, 2_100_000_000 * 10**9)))
    _reboot(at, 1)
    run_id = at.run()
    _reboot(at, 2)

    at.clock.advance(4100)
    assert at.outbox.claim(10).attempts != ()
    at.outbox.release_leases()
    at.clock.advance(200)
    assert at.outbox.claim(10).attempts == ()
    assert at.states() == {run_id: "expired"}


def _reboot(at: Bench, boots_before: int) -> None:
    """Open the store in another boot, a minute later, whose clock is right."""
    lines = [f"boot{number}" for number in range(boots_before)]
    (at.directory / "boots").write_text("\n".join([*lines, current_boot_id()]) + "\n")
    at.clock.reading = Reading(START.boot_ns, START.wall_ns + 60 * SECOND_NS)
    at.reopen()


def test_what_waits_survives_a_reboot(at: Bench) -> None:
    """In the next boot the clock has started anew; the entry is still there, is due, and ages by the wall clock."""
    at.know("backup", interval_s=3600, grace_s=0)
    (at.directory / "boots").write_text("old\n" + current_boot_id() + "\n")
    at.reopen()
    run_id = at.run(change=lambda report: replace(report, boot_id="old"))
    wall_ns = at.clock.read().wall_ns
    at.clock.reading = Reading(5 * SECOND_NS, wall_ns + 600 * SECOND_NS)

    not_delivered(at.outbox, _only(at.outbox.claim(10)), "503", delay_s=1)
    at.clock.reading = Reading(3300 * SECOND_NS, wall_ns + 3700 * SECOND_NS)
    at.outbox.claim(10)

    assert at.states() == {run_id: "expired"}


def test_nothing_is_taken_from_the_spool_into_a_database_that_was_set_aside(at: Bench) -> None:
    """Somebody else found it damaged, and gave it another name under our hands: its commits are nobody's any more."""
    at.run()
    os.rename(at.directory / "outbox.db", at.directory / "outbox.db.corrupt-now")
    (at.directory / "outbox.db").touch()
    fields = {"run": "spooled1", "boot": current_boot_id(), "outcome": "succeeded", "ref": "heartbeat:backup"}
    fields |= dict.fromkeys(("start_boot_ns", "start_ns", "end_boot_ns", "end_ns"), "1")
    path = spool.write(str(at.directory), "spooled1", wire.encode("run", fields))

    with pytest.raises(StoreDamagedError, match="set aside"):
        at.outbox.take_in()
    assert spool.waiting(str(at.directory)) == [path]
    at.reopen()
    assert at.outbox.take_in() == 1
    assert list(at.states()) == ["spooled1"]


def test_a_store_of_the_first_schema_is_brought_up(tmp_path: Path) -> None:
    """What an earlier version wrote is read by this one."""
    from aura_agent.outbox import database

    old = sqlite3.connect(tmp_path / "outbox.db")
    old.executescript(database._STEPS[0] + "INSERT INTO epochs VALUES (1, 5); PRAGMA user_version=1;")
    old.close()

    connection, aside = database.open_database(str(tmp_path / "outbox.db"))

    assert (tuple(connection.execute("SELECT * FROM epochs").fetchone()), aside) == ((1, 5, None, None, None), "")
    connection.close()


def test_the_file_is_private_and_its_schema_numbered(at: Bench) -> None:
    """0600 as it holds ping URLs; a newer schema is refused with a clear word."""
    path = at.directory / "outbox.db"
    assert {stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) for suffix in ("", "-wal", "-shm")} == {0o600}
    at.outbox.connection.execute("PRAGMA user_version=99")

    with pytest.raises(StoreError, match="newer aura-agent"):
        open_outbox(at.directory, at.clock)


def test_a_corrupt_file_is_set_aside(tmp_path: Path, at: Bench) -> None:
    """A fresh one takes its place; the old one is kept for whoever wants to look."""
    at.outbox.close()
    (at.directory / "outbox.db").write_bytes(b"this is no database" * 100)
    at.outbox = open_outbox(at.directory, at.clock)

    assert at.states() == {}
    assert [name for name in os.listdir(at.directory) if ".corrupt-" in name]


def test_a_store_that_takes_no_more_says_so(at: Bench) -> None:
    """A full disk is a StoreError, and what was there before is untouched."""
    run_id = at.run()
    pages = at.outbox.connection.execute("PRAGMA page_count").fetchone()[0]
    at.outbox.connection.execute(f"PRAGMA max_page_count={pages}")

    with pytest.raises(StoreError, match="full"):
        at.run(change=lambda report: replace(report, body=b"x" * 1_000_000))
    assert run_id in at.states()


def test_accepted_is_on_disk_when_the_process_is_killed(tmp_path: Path) -> None:
    """kill -9 right after an acknowledgement loses nothing."""
    store = tmp_path / "store"
    program = """
import os, signal, sys
from pathlib import Path
from tests.outbox.stores import bench
made = bench(Path(sys.argv[1]))
for _ in range(20):
    made.run()
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=False)

    assert ended.returncode == -9
    with closing(sqlite3.connect(store / "outbox.db")) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (20,)


def test_the_history_is_bounded(at: Bench) -> None:
    """A job that runs every minute for years doesn't fill the disk."""
    for _ in range(405):
        at.run(ref="heartbeat:busy", took_s=0.001)

    assert len(run_rows(at.outbox, limit=10_000)) <= 400


def test_a_spool_alone_is_bounded_too(at: Bench) -> None:
    """Where no daemon runs, each wrapper is a process of its own that brings in one report."""
    for number in range(405):
        now = at.clock.read()
        at.clock.advance(1)
        report = report_of(f"spooled{number}", now, ref="heartbeat:busy", job="")
        spool.write(str(at.directory), report.run_id, wire.encode("run", report.to_fields()))
        if number % 10 == 0:
            at.reopen()
        at.outbox.take_in()

    assert len(run_rows(at.outbox, limit=10_000)) <= 400


def test_a_command_whose_name_is_no_text_is_kept(at: Bench) -> None:
    """Bytes that aren't UTF-8 reach us as surrogates, which SQLite doesn't take."""
    run_id = at.run(ref="auto:b\udcffckup", change=lambda report: replace(report, tail="\udc80", job="\udc81"))

    assert at.states() == {run_id: "waiting"}


def test_a_spooled_report_that_nothing_can_keep_is_set_aside(at: Bench) -> None:
    """A number beyond what SQLite holds blocks no other report."""
    at.know("backup")
    fields = {"run": "toolarge1", "boot": current_boot_id(), "outcome": "succeeded", "ref": "heartbeat:backup"}
    fields |= dict.fromkeys(("start_boot_ns", "start_ns", "end_boot_ns", "end_ns"), str(10**30))
    spool.write(str(at.directory), "toolarge1", wire.encode("run", fields))
    run_id = at.run()

    assert _only(at.outbox.claim(10)).run_id == run_id
    assert os.listdir(at.directory / "spool" / "torn") == ["toolarge1.report"]
    assert at.states() == {run_id: "waiting"}


def test_a_report_whose_history_was_pruned_is_still_known(at: Bench) -> None:
    """Its spool file couldn't be removed, and turns up again much later."""
    run_id = at.run()
    at.outbox.connection.execute("DELETE FROM runs")

    at.run(change=renamed(run_id))

    assert at.states() == {run_id: "waiting"}


def test_a_parked_stream_waits_whatever_is_behind_its_first_entry(at: Bench) -> None:
    """Only a success that arrives during the attempt has a try of its own."""
    at.know("backup")
    for _ in range(3):
        at.run(change=lambda report: replace(report, replay_all=True))
    not_delivered(at.outbox, _only(at.outbox.claim(10)), "403", delay_s=3600, parked=True)
    assert at.outbox.claim(10).attempts == ()

    at.clock.advance(3600)
    attempt = _only(at.outbox.claim(10))
    at.run(change=lambda report: replace(report, replay_all=True))
    not_delivered(at.outbox, attempt, "403", delay_s=3600, parked=True)
    assert _only(at.outbox.claim(10)).entry_id == attempt.entry_id


def test_the_longest_retry_after_of_a_host_holds(at: Bench) -> None:
    """Answers to attempts that were under way together arrive in any order."""
    at.know("one")
    at.know("two")
    at.run(ref="heartbeat:one")
    at.run(ref="heartbeat:two")
    first, second = at.outbox.claim(10).attempts
    not_delivered(at.outbox, first, "429", delay_s=0, host_not_before_s=600)
    not_delivered(at.outbox, second, "429", delay_s=0, host_not_before_s=1)

    at.clock.advance(599)
    assert at.outbox.claim(10).attempts == ()
    at.clock.advance(2)
    assert len(at.outbox.claim(10).attempts) == 2


def test_an_answer_after_the_lease_ran_out_and_the_streams_merged_counts(at: Bench) -> None:
    """The machine slept during the attempt; another process has merged the URL's stream into the heartbeat's."""
    url = "http://127.0.0.1:9/ping/the-id"
    run_id = at.run(ref=f"url:{url}")
    attempt = _only(at.outbox.claim(10))
    at.clock.advance(LEASE_S + 1)
    at.know("backup", "the-id")
    at.run(Outcome.SKIPPED, ref="heartbeat:backup")
    assert at.outbox.claim(10).attempts != ()

    delivered(at.outbox, attempt, "200")

    assert at.states() == {run_id: "delivered"}
    assert at.outbox.claim(10).attempts == ()
    earlier = Reading(START.boot_ns - 1, START.wall_ns)
    late = at.run(ref="heartbeat:backup", change=lambda report: replace(report, started=earlier))
    assert at.states()[late] == "superseded"


def test_what_became_one_stream_during_an_attempt_is_one_after_it(at: Bench) -> None:
    """A failure under the URL withdraws a success under the name, though the listing came at a bad moment."""
    at.run(ref="url:http://127.0.0.1:9/ping/the-id")
    attempt = _only(at.outbox.claim(10))
    waiting = at.run(ref="heartbeat:backup")
    at.know("backup", "the-id")
    at.run(Outcome.FAILED, ref="url:http://127.0.0.1:9/ping/the-id")
    delivered(at.outbox, attempt, "200")

    assert at.outbox.claim(10).attempts == ()
    assert at.states()[waiting] == "invalidated"


def test_a_success_expires_while_its_name_is_unknown(at: Bench) -> None:
    """Waiting for a ping URL keeps nothing fresh: 24 h where the interval isn't known, or the job's own limit."""
    day = at.run(ref="heartbeat:one")
    hour = at.run(ref="heartbeat:two", change=lambda report: replace(report, max_age_s=3600))
    for stream in at.outbox.claim(10).unresolved:
        at.outbox.postpone_unresolved(stream.stream_id, "not found", 3600, parked=True)
    at.clock.advance(3601)
    at.outbox.claim(10)
    assert at.states() == {day: "waiting", hour: "expired"}

    at.clock.advance(86_400)
    at.outbox.claim(10)
    assert at.states()[day] == "expired"


def test_leases_that_were_given_back_are_free_and_say_what_may_have_happened(at: Bench) -> None:
    """An attempt that was given up may have arrived all the same."""
    at.know("backup")
    run_id = at.run()
    _only(at.outbox.claim(10))
    at.outbox.release_leases()
    other = open_outbox(at.directory, at.clock, owner="other")
    assert _only(other.claim(10)).run_id == run_id
    other.release_leases()
    other.close()
    at.run(Outcome.FAILED)

    (row,) = queue_rows(at.outbox, ended=True)
    assert (row.state, row.reason.endswith("(may have arrived)")) == ("invalidated", True)


def test_what_waits_is_sent_from_a_store_that_was_removed(at: Bench) -> None:
    """By what lies in its place, too: a report there counts, and stays for whoever begins a new store."""
    at.know("backup")
    at.know("other")
    waiting, withdrawn = at.run(ref="heartbeat:backup"), at.run(ref="heartbeat:other")
    shutil.rmtree(at.directory)
    at.clock.advance(1)
    failure = report_of("later001", at.clock.read(), Outcome.FAILED, ref="heartbeat:other", job="")
    spool.write(str(at.directory), failure.run_id, wire.encode("run", failure.to_fields()))

    claims = [at.outbox.claim(10) for _ in range(2)]

    assert [[attempt.run_id for attempt in claim.attempts] for claim in claims] == [[waiting], []]
    assert ["was removed" in claim.problem for claim in claims] == [True, True]
    assert at.states() == {waiting: "waiting", withdrawn: "invalidated"}
    assert [os.path.basename(path) for path in spool.waiting(str(at.directory))] == ["later001.report"]


def test_a_damaged_file_is_found_by_who_checks(at: Bench) -> None:
    """The first page is whole, one behind it is not: the daemon sets it aside as it starts."""
    for _ in range(50):
        at.run(change=lambda report: replace(report, body=b"x" * 500))
    at.outbox.close()
    path = at.directory / "outbox.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))

    at.outbox = Outbox(str(at.directory), at.clock, owner="daemon", hostname="host", check=True)

    assert at.states() == {}
    assert [name for name in os.listdir(at.directory) if ".corrupt-" in name]


def test_a_damaged_file_is_evidence_and_never_changed(at: Bench, tmp_path: Path) -> None:
    """What a process that was killed has left in the log isn't written into it: both are set aside as they were."""
    connection = at.outbox.connection
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'hosts'").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    at.run()
    left = {name: (at.directory / name).read_bytes() for name in ("outbox.db", "outbox.db-wal")}
    left["outbox.db"] = _spoilt(left["outbox.db"], page)
    store = tmp_path / "left"
    store.mkdir(mode=0o700)
    for name, content in left.items():
        (store / name).write_bytes(content)

    Outbox(str(store), at.clock, owner="daemon", hostname="host", check=True).close()

    (aside,) = store.glob("outbox.db.corrupt-*Z")
    assert aside.read_bytes() == left["outbox.db"]
    assert Path(f"{aside}-wal").read_bytes() == left["outbox.db-wal"]


def test_a_whole_file_is_not_written_to_by_who_only_looks(at: Bench) -> None:
    """Opening and closing a store leaves its database as it is, byte by byte."""
    at.run()
    at.reopen()
    at.outbox.close()
    before = (at.directory / "outbox.db").read_bytes()

    at.reopen()
    at.outbox.close()

    assert (at.directory / "outbox.db").read_bytes() == before


def _spoilt(database: bytes, page: int) -> bytes:
    """Return *database* with nonsense for *page*, of SQLite's own size."""
    begin = (page - 1) * 4096
    return database[:begin] + b"\xa5" * 4096 + database[begin + 4096 :]


def test_damage_at_run_time_is_a_store_error(at: Bench) -> None:
    """Nothing but StoreError leaves the store: the courier goes on trying, and says so."""
    at.know("backup")
    at.run()
    at.outbox.connection.execute("DROP TABLE streams")

    with pytest.raises(StoreError, match="streams"):
        at.outbox.claim(10)
    with pytest.raises(StoreError, match="streams"):
        at.outbox.hurry()


def test_many_processes_may_create_one_store_at_once(tmp_path: Path) -> None:
    """The first reports of a host arrive together, each from a wrapper of its own."""
    program = """
import sys
from pathlib import Path
from tests.outbox.stores import MovedClock, open_outbox
sys.stdin.read()
open_outbox(Path(sys.argv[1]), MovedClock()).close()
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    racers = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    ends = [(racer.communicate(timeout=60)[1], racer.returncode) for racer in racers]

    assert ends == [("", 0)] * 8


def test_a_failure_under_a_url_counts_for_the_name_while_an_attempt_is_under_way(at: Bench) -> None:
    """A listing says that both are one heartbeat: from then on nothing is sent that either speaks against."""
    early = at.run(ref="heartbeat:backup")
    at.run(ref=_BARE_URL)
    attempt = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED, ref=_BARE_URL)

    at.know("backup")

    assert at.outbox.claim(10).attempts == ()
    assert at.states()[early] == "invalidated"
    delivered(at.outbox, attempt, "200")
    assert at.states()[attempt.run_id] == "delivered"


@pytest.mark.parametrize("named_before", [True, False])
def test_one_attempt_is_under_way_per_heartbeat_also_when_two_streams_become_one(at: Bench, named_before: bool) -> None:
    """The lease is the merged stream's, whichever of the two it was: its end lets the next go, and a failed one waits."""
    if named_before:
        at.run(ref="heartbeat:backup")
    at.run(ref=_BARE_URL)
    attempt = _only(at.outbox.claim(10))
    later = at.run(ref="heartbeat:backup")
    at.know("backup")
    assert at.outbox.claim(10).attempts == ()

    not_delivered(at.outbox, attempt, "503", delay_s=60)

    assert (at.states()[attempt.run_id], at.outbox.claim(10).attempts) == ("superseded", ())
    at.clock.advance(61)
    assert _only(at.outbox.claim(10)).run_id == later


def test_of_two_attempts_under_way_in_what_turns_out_to_be_one_the_first_end_is_not_the_last_word(at: Bench) -> None:
    """The streams can't be one yet; before the heartbeat's next attempt they are."""
    heartbeat_id = at.know("backup")
    early = at.run()
    first = _only(at.outbox.claim(10))
    at.run(ref="url:http://127.0.0.1:9/ping/other")
    second = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED, ref="url:http://127.0.0.1:9/ping/other")
    at.outbox.remember_url(heartbeat_id, Secret("http://127.0.0.1:9/ping/other"), at.clock.read().wall_ns)

    not_delivered(at.outbox, first, "503", delay_s=0)

    assert at.outbox.claim(10).attempts == ()
    assert at.states()[early] == "invalidated"
    delivered(at.outbox, second, "200")
    assert at.states()[second.run_id] == "delivered"


def test_the_second_of_two_attempts_in_one_heartbeat_is_still_waited_for(at: Bench) -> None:
    """Nothing new begins before both have ended."""
    heartbeat_id = at.know("backup")
    at.run()
    first = _only(at.outbox.claim(10))
    at.run(ref="url:http://127.0.0.1:9/ping/other")
    second = _only(at.outbox.claim(10))
    at.outbox.remember_url(heartbeat_id, Secret("http://127.0.0.1:9/ping/other"), at.clock.read().wall_ns)
    later = at.run()

    not_delivered(at.outbox, first, "503", delay_s=0)
    assert at.outbox.claim(10).attempts == ()
    delivered(at.outbox, second, "200")

    assert _only(at.outbox.claim(10)).run_id == later


@pytest.mark.parametrize("known_before", [True, False])
def test_a_name_that_several_heartbeats_have_is_nobodys(at: Bench, known_before: bool) -> None:
    """Nothing is sent to one of them at random: the resolver is asked, and says which there are."""
    url, wall_ns = Secret("http://127.0.0.1:9/ping/x"), at.clock.read().wall_ns
    both = [CachedHeartbeat(id_, "backup", 3600, 600, "up", None, url, wall_ns) for id_ in ("id-1", "id-2")]
    if known_before:
        at.outbox.remember(both)
    at.run()
    at.outbox.remember(both)

    claim = at.outbox.claim(10)

    assert claim.attempts == ()
    assert [stream.heartbeat_id for stream in claim.unresolved] == [None]


def test_a_listing_without_ping_urls_erases_none(at: Bench) -> None:
    """Aura's lists have none: what was fetched before goes on being pinged."""
    at.know("backup")
    at.outbox.remember([CachedHeartbeat("id-backup", "backup", 60, 0, "up", None, None, at.clock.read().wall_ns)])
    run_id = at.run()

    assert _only(at.outbox.claim(10)).run_id == run_id


def test_what_is_parked_is_tried_when_people_have_mended_something_and_not_when_a_host_answers(at: Bench) -> None:
    """An answer to somebody else mends nothing here; a start or a reload may have."""
    at.know("backup")
    at.run()
    attempt = _only(at.outbox.claim(10))
    not_delivered(at.outbox, attempt, "403", delay_s=3600, parked=True)

    assert at.outbox.claim(10, rooms=Rooms(reopened=frozenset({attempt.host}))).attempts == ()
    at.outbox.unpark()
    assert _only(at.outbox.claim(10)).tries == 1


def test_what_backs_off_is_due_when_its_host_answers(at: Bench) -> None:
    """And a delivery ends the trouble: the next success begins without failures behind it."""
    at.know("backup")
    at.run()
    attempt = _only(at.outbox.claim(10))
    not_delivered(at.outbox, attempt, "503", delay_s=300)
    assert at.outbox.claim(10).attempts == ()

    attempt = _only(at.outbox.claim(10, rooms=Rooms(reopened=frozenset({attempt.host}))))

    assert attempt.tries == 1
    later = at.run()
    delivered(at.outbox, attempt, "200")
    attempt = _only(at.outbox.claim(10))
    assert (attempt.run_id, attempt.tries) == (later, 0)


def test_a_lease_of_an_earlier_boot_holds_nothing_up(at: Bench) -> None:
    """Its end is an instant of a clock that has begun anew."""
    at.know("backup")
    run_id = at.run()
    assert _only(at.outbox.claim(10)).run_id == run_id
    at.outbox.close()
    at.clock.reading = Reading(5 * SECOND_NS, at.clock.reading.wall_ns + 60 * SECOND_NS)

    at.outbox = open_outbox(at.directory, at.clock, boot_id="the next")

    assert _only(at.outbox.claim(10)).run_id == run_id


def test_a_stream_that_goes_over_to_a_busy_one_leaves_it_its_lease(at: Bench) -> None:
    """The heartbeat was deleted and created anew, and pings of both are under way: the end of one ends one."""
    at.know("backup", "id-before")
    at.run()
    before = _only(at.outbox.claim(10))
    at.know("backup", "id-after")
    at.run(ref="heartbeat:id-after")
    after = _only(at.outbox.claim(10))

    not_delivered(at.outbox, before, "404", delay_s=0)

    assert at.outbox.claim(10).attempts == ()
    delivered(at.outbox, after, "200")
    assert at.states() == {before.run_id: "superseded", after.run_id: "delivered"}


def _all(report: Report) -> Report:
    return replace(report, replay_all=True)


@pytest.mark.parametrize("end", ["delivered", "dropped", "failed"])
def test_what_two_streams_remember_holds_for_the_one_that_they_become(at: Bench, end: str) -> None:
    """The latest of each kind counts, under whichever name it came, and whatever has become of its row."""
    at.run(Outcome.FAILED, ref="heartbeat:backup")
    early = at.run(ref="heartbeat:backup", change=_all if end == "delivered" else lambda report: report)
    if end == "failed":
        at.run(Outcome.FAILED, ref=_BARE_URL)
    else:
        at.run(ref=_BARE_URL)
        attempt = _only(at.outbox.claim(10))
        if end == "delivered":
            delivered(at.outbox, attempt, "200")
        else:
            at.outbox.release_leases()
            at.outbox.drop([attempt.entry_id], "by hand")

    at.know("backup")

    assert at.outbox.claim(10).attempts == ()
    assert at.states()[early] == ("invalidated" if end == "failed" else "superseded")


def test_a_stream_that_joins_another_takes_none_of_its_marks_back(at: Bench) -> None:
    """The earlier failure comes with the stream that joins: it is no news."""
    at.outbox.stream("heartbeat:backup")  # the one that is joined
    at.run(Outcome.FAILED, ref=_BARE_URL)
    began = at.clock.read()
    at.clock.advance(5)
    at.run(Outcome.FAILED, ref="heartbeat:backup")
    at.know("backup")

    late = at.run(change=lambda report: replace(report, started=began))

    assert at.states()[late] == "invalidated"


@pytest.mark.parametrize("state", ["expired", "dropped"])
def test_no_older_success_is_sent_in_the_place_of_a_newer_one(at: Bench, state: str) -> None:
    """It was under way when the newest came, which is gone by now; without an outage Aura would have heard that last."""
    at.know("backup")
    old = at.run()
    attempt = _only(at.outbox.claim(10))
    newest = at.run(change=lambda report: replace(report, max_age_s=30))
    if state == "expired":
        at.clock.advance(31)
    else:
        at.outbox.drop([row.id for row in queue_rows(at.outbox, ended=False) if row.run_id == newest], "by hand")

    not_delivered(at.outbox, attempt, "503", delay_s=0)

    assert at.outbox.claim(10).attempts == ()
    assert at.states() == {old: "superseded", newest: state}


def test_a_long_queue_is_looked_at_through_its_index(at: Bench) -> None:
    """A claim costs what it claims, not what waits: no statement of it scans the streams."""
    seen: list[str] = []
    at.know("backup")
    at.run()
    at.outbox.connection.set_trace_callback(seen.append)
    at.outbox.claim(1)
    at.outbox.claim(1)
    at.outbox.connection.set_trace_callback(None)

    plans = [
        row["detail"]
        for statement in seen
        if statement.startswith("SELECT") and not statement.endswith("LIMIT 1")
        for row in at.outbox.connection.execute("EXPLAIN QUERY PLAN " + statement)
    ]
    assert plans
    assert [plan for plan in plans if plan.startswith(("SCAN streams", "SCAN entries"))] == []


def test_what_has_just_hung_comes_last_and_has_a_part_of_the_room(at: Bench) -> None:
    """Six urgent URLs that hung, four others of the host: all of these begin, and as many of those as there is room."""
    hung = [at.run(ref=f"url:http://127.0.0.1:9/ping/{number}") for number in range(6)]
    others = [at.run(ref=f"url:http://127.0.0.1:9/ping/{number}") for number in range(6, 10)]
    at.outbox.claim(0)
    ids = {
        row["stream_id"] for row in at.outbox.connection.execute("SELECT stream_id FROM entries ORDER BY id LIMIT 6")
    }
    rooms = Rooms({"127.0.0.1:9": 8}, slow={"127.0.0.1:9": (frozenset(ids), 2)})
    at.outbox.connection.execute("UPDATE streams SET host = '127.0.0.1:9'")

    began = [attempt.run_id for attempt in at.outbox.claim(16, rooms=rooms).attempts]

    assert (began[:4], set(began[4:]) < set(hung), len(began)) == (others, True, 6)


def test_a_probe_goes_to_what_was_tried_least(at: Bench) -> None:
    """Not to the most urgent again and again: no ping URL speaks for all of its host."""
    runs = [at.run(ref=f"url:http://127.0.0.1:9/ping/{number}") for number in range(3)]
    host = "127.0.0.1:9"
    rooms = Rooms({host: 1}, 1, reopened=frozenset({host}), probed=frozenset({host}))
    tried = []
    for _ in range(6):
        (attempt,) = at.outbox.claim(16, rooms=rooms).attempts
        tried.append(attempt.run_id)
        not_delivered(at.outbox, attempt, "HTTP 503", delay_s=300)

    assert (sorted(tried[:3]), sorted(tried[3:])) == (runs, runs)


def test_an_acknowledgement_after_the_lease_makes_no_withdrawn_ping_delivered(at: Bench) -> None:
    """It was withdrawn for a failure meanwhile, by whoever looked after the lease had ended: that stays on record."""
    at.know("backup")
    run_id = at.run()
    attempt = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED)
    at.clock.advance(LEASE_S + 1)
    at.outbox.claim(10)
    assert at.states()[run_id] == "invalidated"

    delivered(at.outbox, attempt, "HTTP 200")

    assert at.states()[run_id] == "invalidated"


def test_a_late_acknowledgement_is_judged_by_what_is_on_record(at: Bench) -> None:
    """Nobody has looked since the lease ended: the failure that was reported meanwhile withdraws the ping all the same."""
    at.know("backup")
    run_id = at.run()
    attempt = _only(at.outbox.claim(10))
    at.run(Outcome.FAILED)
    at.clock.advance(LEASE_S + 1)

    delivered(at.outbox, attempt, "HTTP 200")

    assert at.states()[run_id] == "invalidated"

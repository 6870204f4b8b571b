"""Boot numbers when ``boots`` and the database disagree, and the order of runs of boots that a store never saw."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.clock import Reading
from aura_agent.outbox import boot_numbers
from aura_agent.outbox.handover import to_hand_over
from aura_agent.outbox.store import Outbox
from aura_agent.report import boots, spool, wire
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import SECOND_NS, START, Bench, MovedClock, delivered, not_delivered, open_outbox
from tests.reports import report_of

_BOOT_S = 10_000


def _boot(at: Bench, boot_id: str) -> None:
    """Close the store, and open it in another boot, some hours later."""
    at.outbox.close()
    later_ns = at.clock.reading.wall_ns + _BOOT_S * SECOND_NS
    at.clock.reading = Reading(10 * SECOND_NS, later_ns)
    at.outbox = open_outbox(at.directory, at.clock, boot_id=boot_id)


def _run(at: Bench, boot_id: str, outcome: Outcome = Outcome.SUCCEEDED, ref: str = "heartbeat:backup") -> str:
    return at.run(outcome, ref=ref, change=lambda report: replace(report, boot_id=boot_id))


def _deliver(at: Bench) -> list[str]:
    """Send what may be sent; return the runs."""
    attempts = at.outbox.claim(8).attempts
    for attempt in attempts:
        delivered(at.outbox, attempt, "200")
    return [attempt.run_id for attempt in attempts]


def _three_boots(at: Bench) -> None:
    """Leave a store behind that has pinged and failed in three boots."""
    at.know("backup")
    for boot_id in ("boot-a", "boot-b", "boot-c"):
        _boot(at, boot_id)
        assert _deliver(at) == []
        run_id = _run(at, boot_id)
        assert _deliver(at) == [run_id]
    _run(at, "boot-c", Outcome.FAILED)


def _remove(at: Bench) -> None:
    (at.directory / "boots").unlink()


def _restore_an_older_copy(at: Bench) -> None:
    (at.directory / "boots").write_text("\n".join(boots.lines(str(at.directory))[:2]) + "\n")


def _empty(at: Bench) -> None:
    (at.directory / "boots").write_bytes(b"")


def _fill_with_zeros(at: Bench) -> None:
    (at.directory / "boots").write_bytes(b"\0" * 74)


def _blow_up(at: Bench) -> None:
    (at.directory / "boots").write_bytes(b"\xff" * (3 << 20))


def _put_a_directory_there(at: Bench) -> None:
    _remove(at)
    (at.directory / "boots").mkdir()


@pytest.mark.parametrize(
    "damage", [_remove, _restore_an_older_copy, _empty, _fill_with_zeros, _blow_up, _put_a_directory_there]
)
def test_pings_go_on_when_boots_is_lost_or_damaged(at: Bench, damage: Callable[[Bench], None]) -> None:
    """The database remembers the boots before: no later one gets a lower number, in this boot or the next."""
    _three_boots(at)
    number = at.outbox.now().epoch
    damage(at)
    at.outbox.close()
    at.outbox = open_outbox(at.directory, at.clock, boot_id="boot-c")
    assert at.outbox.now().epoch == number
    for boot_id in ("boot-d", "boot-e"):
        _boot(at, boot_id)
        assert at.outbox.now().epoch > number
        number = at.outbox.now().epoch
        run_id = _run(at, boot_id)
        assert _deliver(at) == [run_id]


def test_pings_go_on_in_a_database_older_than_boots(at: Bench) -> None:
    """A restored copy: it learns of the boots since then, and in what order they were."""
    at.know("backup")
    _boot(at, "boot-b")
    copy = at.directory.parent / "copy.db"
    at.outbox.close()
    shutil.copy(at.directory / "outbox.db", copy)
    at.outbox = open_outbox(at.directory, at.clock, boot_id="boot-b")
    for boot_id in ("boot-c", "boot-d"):
        _boot(at, boot_id)
    at.outbox.close()
    shutil.copy(copy, at.directory / "outbox.db")
    for suffix in ("-wal", "-shm"):
        Path(f"{at.directory / 'outbox.db'}{suffix}").unlink(missing_ok=True)
    at.outbox = open_outbox(at.directory, at.clock, boot_id="boot-d")
    failed_in_c = replace(report_of("failedinc", Reading(10**9, START.wall_ns), Outcome.FAILED), boot_id="boot-c")
    late_of_b = replace(report_of("successofb", Reading(10**12, START.wall_ns)), boot_id="boot-b")

    at.outbox.accept([failed_in_c, late_of_b])
    run_id = _run(at, "boot-d")

    assert at.states()["successofb"] == "invalidated"
    assert _deliver(at) == [run_id]


def test_pings_go_on_when_boots_and_database_are_lost(at: Bench) -> None:
    """A store that begins anew, with an earlier boot's report in its spool."""
    _three_boots(at)
    at.outbox.close()
    for path in at.directory.glob("outbox.db*"):
        path.unlink()
    _remove(at)
    kept = replace(report_of("spooled1", at.clock.reading, Outcome.FAILED), boot_id="boot-c")
    spool.write(str(at.directory), kept.run_id, wire.encode("run", kept.to_fields()))
    at.outbox = open_outbox(at.directory, at.clock)
    at.know("backup")
    _boot(at, "boot-d")
    run_id = _run(at, "boot-d")

    assert _deliver(at) == [run_id]


def test_a_store_of_an_older_version_that_lost_boots_pings_again(at: Bench) -> None:
    """It has numbers without boot ids, and marks of boots that the file no longer names."""
    _three_boots(at)
    at.outbox.connection.execute("UPDATE epochs SET boot_id = NULL, first_wall_ns = NULL")
    _remove(at)
    _boot(at, "boot-d")
    run_id = _run(at, "boot-d")

    assert at.outbox.now().epoch == 5
    assert _deliver(at) == [run_id]


def test_processes_that_meet_a_new_boot_at_once_agree_on_its_number(at: Bench) -> None:
    """Each opens the store without ``boots``; one number, one row."""
    _three_boots(at)
    _remove(at)
    code = (
        "import sys; from aura_agent.clock import SystemClock; from aura_agent.outbox.store import Outbox\n"
        "print(Outbox(sys.argv[1], SystemClock(), owner=sys.argv[2], hostname='h', boot_id='boot-d').now().epoch)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(at.directory), f"o{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]

    assert {process.communicate()[0] for process in started} == {"5\n"}
    rows = at.outbox.connection.execute("SELECT epoch FROM epochs WHERE boot_id = 'boot-d'").fetchall()
    assert [row["epoch"] for row in rows] == [5]


# -- a boot that is numbered anew while others have the store open -----------------------------------------------


def _elsewhere(at: Bench) -> Outbox:
    """Have the store's ``boots`` say that it was on another host; return what a new process opens. Ours stays open."""
    (at.directory / "boots").write_text("boot-elsewhere\n")
    return open_outbox(at.directory, at.clock, "later")


def test_a_success_is_sent_by_a_process_from_before_the_new_number(at: Bench) -> None:
    """It started after what the newer process has received: that doesn't supersede it."""
    at.know("backup")
    newer = _elsewhere(at)
    started = at.clock.read()
    at.clock.advance(5)
    newer.accept([report_of("earlier1", started)])
    run_id = at.run()

    assert _deliver(at) == [run_id]
    assert at.states() == {"earlier1": "superseded", run_id: "delivered"}
    newer.close()


def test_processes_that_see_different_boots_send_each_others_successes(at: Bench) -> None:
    """The kernel names no boot and the clock was stepped, or the store is shared with a container."""
    at.know("backup")
    _boot(at, "boot-a")
    other = open_outbox(at.directory, at.clock, "other", boot_id="boot-b")
    assert other.now().epoch > at.outbox.now().epoch
    with closing(other):
        for _ in range(2):  # the second one finds the marks of the first
            run_id = at.run(change=lambda report: replace(report, boot_id="boot-b"))

            assert _deliver(at) == [run_id]

    marks = at.outbox.connection.execute("SELECT failed_run, delivered_run FROM streams").fetchone()
    assert tuple(marks) == (None, run_id)


def test_a_failure_withdraws_what_a_process_with_the_new_number_received(at: Bench) -> None:
    """The older process receives the failure, of a run that started later."""
    at.know("backup")
    newer = _elsewhere(at)
    started = at.clock.read()
    at.clock.advance(5)
    newer.accept([report_of("earlier1", started)])
    at.run(Outcome.FAILED)

    assert newer.claim(8).attempts == ()
    assert at.states() == {"earlier1": "invalidated"}
    newer.close()


def test_runs_keep_the_order_of_their_starts_over_a_new_number(at: Bench) -> None:
    """One began before a failure and ended after the boot was numbered anew."""
    at.know("backup")
    started = at.clock.read()
    at.clock.advance(5)
    at.run(Outcome.FAILED)
    newer = _elsewhere(at)
    at.clock.advance(60)

    newer.accept([report_of("long0001", started, ended=at.clock.read())])

    assert newer.claim(8).attempts == ()
    assert at.states() == {"long0001": "invalidated"}
    newer.close()


def test_a_run_of_a_gone_daemon_is_lost_where_it_began(at: Bench) -> None:
    """It went on while the boot was numbered anew, and withdraws nothing that started after it."""
    at.know("backup")
    at.clock.advance(5)
    begun = at.clock.read()
    newer = _elsewhere(at)
    at.outbox.begin([("daemons1", "backup", "heartbeat:backup", begun)])
    at.clock.advance(5)
    newer.accept([report_of("success1", at.clock.read())])
    at.outbox.close()

    assert [attempt.run_id for attempt in newer.claim(8).attempts] == ["success1"]
    newer.close()


def test_what_is_being_sent_is_left_alone_over_a_new_number(at: Bench) -> None:
    """Its lease goes on; so do a ping's back-off and a host's Retry-After."""
    at.know("backup")
    run_id = at.run()
    (attempt,) = at.outbox.claim(8).attempts
    newer = _elsewhere(at)

    assert newer.claim(8).attempts == ()

    not_delivered(at.outbox, attempt, "503", delay_s=30, host_not_before_s=60)
    assert newer.claim(8).attempts == ()
    at.clock.advance(61)
    assert [each.run_id for each in newer.claim(8).attempts] == [run_id]
    newer.close()


def test_a_wait_goes_on_over_a_new_number(at: Bench) -> None:
    """What backs off isn't due because the boot has another number."""
    at.know("backup")
    run_id = at.run()
    (attempt,) = at.outbox.claim(8).attempts
    not_delivered(at.outbox, attempt, "503", delay_s=30, host_not_before_s=60)
    newer = _elsewhere(at)

    assert newer.claim(8).attempts == ()
    at.clock.advance(61)
    assert [each.run_id for each in newer.claim(8).attempts] == [run_id]
    newer.close()


# -- boots that a store never saw --------------------------------------------------------------------------------


def _forwarded(run_id: str, boot_s: float, wall_s: float, outcome: Outcome = Outcome.SUCCEEDED) -> Report:
    """Return the report of a run of a boot that only another store knew, *wall_s* after ``START``."""
    started = Reading(int(boot_s * SECOND_NS), START.wall_ns + int(wall_s * SECOND_NS))
    return replace(report_of(run_id, started, outcome), boot_id="boot-of-another-store")


def _two_boots(at: Bench) -> str:
    """Leave a success waiting in one boot, and be in the next; return its run."""
    at.know("backup", interval_s=10 * _BOOT_S)
    waiting = _run(at, open_id := boots.current_boot_id())
    assert open_id
    _boot(at, "boot-z")
    return waiting


def test_a_failure_of_an_unseen_boot_withdraws_what_was_before_it(at: Bench) -> None:
    """It happened between the two boots that the store saw, and not before both."""
    waiting = _two_boots(at)

    at.outbox.accept([_forwarded("failure1", 100, _BOOT_S / 2, Outcome.FAILED)])

    assert at.states() == {waiting: "invalidated"}
    run_id = _run(at, "boot-z")
    assert _deliver(at) == [run_id]


def test_a_success_of_an_unseen_boot_is_sent_after_an_earlier_failure(at: Bench) -> None:
    """It is not older than all that the store remembers."""
    at.know("backup", interval_s=10 * _BOOT_S)
    _run(at, boots.current_boot_id(), Outcome.FAILED)
    _boot(at, "boot-z")

    at.outbox.accept([_forwarded("success1", 100, _BOOT_S / 2)])

    assert _deliver(at) == ["success1"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_runs_of_one_unseen_boot_keep_their_order(at: Bench, order: tuple[int, int]) -> None:
    """Whichever comes in first, and though its wall clock was set back meanwhile."""
    _two_boots(at)
    reports = [
        _forwarded("success1", 100, _BOOT_S / 2),
        _forwarded("failure1", 200, _BOOT_S / 2 - 3600, Outcome.FAILED),
    ]

    for place in order:
        at.outbox.accept([reports[place]])

    assert at.states()["success1"] == "invalidated"


def test_a_failure_of_an_unseen_boot_whose_clock_was_not_set_counts_as_late(at: Bench) -> None:
    """Nobody knows when it was: better silent than wrong."""
    waiting = _two_boots(at)
    unset = Reading(50 * SECOND_NS, 50 * SECOND_NS)

    at.outbox.accept([replace(_forwarded("failure1", 0, 0, Outcome.FAILED), started=unset, ended=unset)])

    assert at.states() == {waiting: "invalidated"}


def test_a_backlog_of_an_unseen_boot_is_forwarded_in_its_order(at: Bench, tmp_path: Path) -> None:
    """From a store that lost ``boots`` to one that never saw it: the daemon's ends up with the same order."""
    _two_boots(at)
    at.outbox.accept(
        [_forwarded("success1", 100, _BOOT_S / 2), _forwarded("failure1", 90, _BOOT_S / 2, Outcome.FAILED)]
    )
    daemon = Outbox(str(tmp_path / "daemon"), at.clock, owner="daemon", hostname="host", boot_id="boot-z")

    given = {report.run_id: report for report in to_hand_over(at.outbox)}
    daemon.accept(list(given.values()))

    assert (given["success1"].boot_id, given["success1"].started.boot_ns) == ("boot-of-another-store", 100 * SECOND_NS)
    assert (given["failure1"].boot_id, given["failure1"].started.boot_ns) == ("boot-of-another-store", 90 * SECOND_NS)
    states = {row["run_id"]: row["state"] for row in daemon.connection.execute("SELECT run_id, state FROM entries")}
    assert states == {"success1": "waiting"}
    daemon.close()


# -- the rules alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "lines", "current"),
    [
        ({}, ["a"], 1),
        ({}, [], 1),
        ({}, ["x", "y", "a"], 3),
        ({1: "x", 2: "a"}, ["x", "a"], 2),
        ({1: "x", 2: "y", 3: "a"}, ["a"], 3),
        ({1: "x", 2: "y"}, ["a"], 3),
        ({1: "x"}, ["x", "y", "a"], 3),
        ({1: "a"}, ["a", "x", "a"], 3),
        ({1: "a", 2: "x"}, ["a", "x", "a"], 3),
        ({1: "a", 2: "x", 3: "a"}, ["a", "x", "a"], 3),
        ({1: None, 2: None}, ["x", "a"], 2),
        ({1: None, 2: None}, ["a"], 3),
        ({2: None}, ["x", "y", "a"], 3),
        ({1: None, 2: None, 3: "a"}, ["a"], 3),
        ({1: "x", 2: "a"}, [], 2),
    ],
)
def test_a_boot_number_is_never_below_what_is_known(
    known: dict[int, str | None], lines: list[str], current: int
) -> None:
    """Known boots keep their numbers; a new one is the highest; asked again, nothing is added."""
    added, number = boot_numbers.number(known, lines, "a")

    assert number == current
    assert all(known.get(at) is None for at in added)
    assert boot_numbers.number({**known, **added}, lines, "a") == ({}, number)


def test_an_unseen_boot_lies_between_its_neighbours() -> None:
    """By the wall clock; where it overlaps with a known one, a success is early and a failure late."""
    known = [boot_numbers.NumberedBoot(1, "x", 1000, 2000), boot_numbers.NumberedBoot(2, "y", 3000, 4000)]

    def place(wall_ns: int) -> tuple[int, int]:
        return boot_numbers.place(known, Reading(0, wall_ns), Reading(100, wall_ns + 100))[:2]

    assert [place(wall_ns) for wall_ns in (2500, 5000, 3500, 500)] == [(1, 1), (2, 2), (1, 2), (0, 2)]


def test_a_clock_moved_far_ahead_still_gives_a_number_that_sqlite_holds() -> None:
    """An instant at the end of what a report may say."""
    boot = boot_numbers.place([], Reading(5, 2**63 - 1), Reading(5, 2**63 - 1))

    assert 2**62 < boot.boot_ns(2**62) < 2**63


def test_boots_of_an_old_schema_are_taken_from_the_file(at: Bench) -> None:
    """After an upgrade the boots before it are known by their ids."""
    _three_boots(at)
    ids = [row["boot_id"] for row in at.outbox.connection.execute("SELECT boot_id FROM epochs ORDER BY epoch")]
    at.outbox.connection.execute("UPDATE epochs SET boot_id = NULL")
    at.outbox.close()
    with closing(sqlite3.connect(at.directory / "outbox.db")) as database:
        assert database.execute("SELECT count(boot_id) FROM epochs").fetchone() == (0,)
    at.outbox = open_outbox(at.directory, MovedClock(at.clock.reading), boot_id="boot-c")

    rows = at.outbox.connection.execute("SELECT boot_id FROM epochs ORDER BY epoch")
    assert [row["boot_id"] for row in rows] == ids == boots.lines(str(at.directory))

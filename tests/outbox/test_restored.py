"""A store that was put back to an earlier state: what waits in it is held, and nothing else is."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.queries import queue_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome
from aura_agent.secret import Secret
from tests.outbox.stores import SECOND_NS, Bench, MovedClock, bench, delivered
from tests.reports import report_of


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose store has a mark outside of it, and in which a success waits."""
    made = bench(tmp_path)
    made.outbox.close()
    _open(made)
    made.know("backup")
    made.know("other")
    yield made
    made.outbox.close()


def _open(at: Bench, boot_id: str | None = None, marks: str | None = "marks") -> None:
    directory = None if marks is None else str(at.directory.parent / marks)
    at.outbox = Outbox(
        str(at.directory), at.clock, owner=f"o{at.runs}", hostname="host", boot_id=boot_id, marks=directory
    )


def _back_up(at: Bench) -> Path:
    """Copy the store as a backup does, and go on."""
    at.outbox.close()
    copy = at.directory.parent / f"backup-{at.runs}"
    shutil.copytree(at.directory, copy)
    _open(at)
    return copy


def _restore(at: Bench, copy: Path, boot_id: str | None = None) -> None:
    at.outbox.close()
    shutil.rmtree(at.directory)
    shutil.copytree(copy, at.directory)
    _open(at, boot_id)


def _send(at: Bench) -> list[str]:
    attempts = at.outbox.claim(8).attempts
    for attempt in attempts:
        delivered(at.outbox, attempt, "200")
    return [attempt.run_id for attempt in attempts]


def _put_back_after_a_failure(at: Bench) -> str:
    """Have a success wait, be delivered, be contradicted, and wait again; return its run."""
    run_id = at.run()
    at.clock.advance(5)
    copy = _back_up(at)
    assert _send(at) == [run_id]
    at.clock.advance(5)
    at.run(Outcome.FAILED)
    _restore(at, copy)
    return run_id


def _put_back_after_a_lease(at: Bench) -> str:
    """Have a success wait, be under way, and wait again; return its run. Nothing has contradicted it."""
    run_id = at.run()
    at.clock.advance(5)
    copy = _back_up(at)
    assert len(at.outbox.claim(8).attempts) == 1
    _restore(at, copy)
    return run_id


def _last_ping(at: Bench, wall_ns: int | None) -> None:
    url = Secret("http://127.0.0.1:9/ping/id-backup")
    listed = CachedHeartbeat("id-backup", "backup", 3600, 600, "up", wall_ns, url, at.clock.read().wall_ns)
    at.outbox.remember([listed], whole=False)


def test_what_was_delivered_before_the_store_was_put_back_is_held(marked: Bench) -> None:
    """It waits, and says why; people are told; opening it once more changes nothing."""
    run_id = _put_back_after_a_failure(marked)

    claim = marked.outbox.claim(8)
    marked.outbox.close()
    _open(marked)

    assert (claim.attempts, _send(marked)) == ((), [])
    assert "put back to an earlier state: 1 pings" in claim.notices[0]
    (row,) = queue_rows(marked.outbox, ended=False)
    assert (row.run_id, row.reason.partition(":")[0]) == (run_id, "held")


@pytest.mark.parametrize("contradict", ["failure", "drop"])
def test_what_was_contradicted_before_the_store_was_put_back_is_held(marked: Bench, contradict: str) -> None:
    """Nothing was sent since the backup; nor does a listing release it: Aura hears of no failure, and of no drop."""
    run_id = marked.run()
    marked.clock.advance(5)
    copy = _back_up(marked)
    if contradict == "failure":
        marked.run(Outcome.FAILED)
    else:
        marked.outbox.drop(None, "dropped")
    _restore(marked, copy)

    assert _send(marked) == []
    _last_ping(marked, marked.clock.read().wall_ns - 3600 * SECOND_NS)
    assert _send(marked) == []
    assert marked.states()[run_id] == "waiting"


def test_what_is_contradicted_after_one_that_is_held_forbids_nothing_later(marked: Bench) -> None:
    """What is held by a later restore is released if nothing was contradicted after that backup."""
    held = _put_back_after_a_failure(marked)
    marked.outbox.drop(None, "dropped")
    run_id = _put_back_after_a_lease(marked)

    _last_ping(marked, marked.clock.read().wall_ns - 3600 * SECOND_NS)

    assert _send(marked) == [run_id]
    assert marked.states()[held] == "dropped"


def test_what_was_under_way_at_the_backup_is_sent_again_if_nothing_was_since(marked: Bench) -> None:
    """As after a kill: the store doesn't know whether it arrived, and nothing has contradicted it."""
    run_id = marked.run()
    (attempt,) = marked.outbox.claim(8).attempts
    copy = _back_up(marked)
    delivered(marked.outbox, attempt, "200")
    _restore(marked, copy)
    marked.clock.advance(100)  # its lease has run out

    assert _send(marked) == [run_id]


def test_a_new_success_is_sent_at_once_from_a_store_that_was_put_back(marked: Bench) -> None:
    """It takes the place of the one that is held; other heartbeats are not kept either."""
    held = _put_back_after_a_failure(marked)
    marked.clock.advance(60)
    new, other = marked.run(), marked.run(ref="heartbeat:other")

    assert set(_send(marked)) == {new, other}
    assert marked.states()[held] == "superseded"


def test_a_run_after_the_mark_is_sent_though_the_boot_has_another_number(marked: Bench) -> None:
    """It began before the store was put back, whose ``boots`` says that it was elsewhere: nothing of it was sent."""
    copy = _back_up(marked)
    (copy / "boots").write_text("boot-elsewhere\n")
    sent = marked.run(ref="heartbeat:other")
    assert _send(marked) == [sent]
    marked.clock.advance(5)
    started = marked.clock.read()
    marked.clock.advance(5)
    _restore(marked, copy)

    marked.outbox.accept([report_of("after001", started, ended=marked.clock.read())])

    assert _send(marked) == ["after001"]


def test_a_held_ping_is_released_if_aura_has_had_none_since(marked: Bench) -> None:
    """The attempt of which nobody knew the end did not arrive."""
    run_id = _put_back_after_a_lease(marked)

    _last_ping(marked, marked.clock.read().wall_ns - 3600 * SECOND_NS)

    assert _send(marked) == [run_id]


def test_a_held_ping_stays_if_auras_last_one_may_be_it(marked: Bench) -> None:
    """Aura tells whole seconds, and its clock isn't ours: its last ping looks older than the run, and is its ping."""
    run_id = _put_back_after_a_lease(marked)
    ((ended_ns,),) = marked.outbox.connection.execute("SELECT ended_wall_ns FROM entries WHERE held").fetchall()

    _last_ping(marked, ended_ns - SECOND_NS)

    assert _send(marked) == []
    assert marked.states()[run_id] == "waiting"


def test_a_held_ping_is_superseded_if_aura_has_had_one_since(marked: Bench) -> None:
    """It would be sent a second time, after what has contradicted it."""
    run_id = _put_back_after_a_failure(marked)

    _last_ping(marked, None)
    assert marked.states()[run_id] == "waiting"
    _last_ping(marked, marked.clock.read().wall_ns)

    assert _send(marked) == []
    assert marked.states()[run_id] == "superseded"


def test_a_person_releases_what_is_held(marked: Bench) -> None:
    """`queue flush` does."""
    run_id = _put_back_after_a_failure(marked)

    marked.outbox.release_held()

    assert _send(marked) == [run_id]


def test_a_held_ping_expires_and_is_withdrawn_like_others(marked: Bench) -> None:
    """It doesn't wait for ever; a failure withdraws it."""
    expired = _put_back_after_a_failure(marked)
    marked.outbox.claim(8)
    marked.clock.advance(5000)
    marked.outbox.claim(8)

    assert marked.states()[expired] == "expired"


def test_a_report_that_was_put_back_with_the_spool_is_held(marked: Bench) -> None:
    """It was taken in, and delivered, before; and so is one that lies in the inbox."""
    report = report_of("spooled1", marked.clock.read())
    spool.write(str(marked.directory), report.run_id, wire.encode("run", report.to_fields()))
    kept = replace(report, run_id="inboxed1", ref="heartbeat:other")
    marked.outbox.keep({wire.encode("run", kept.to_fields()): kept})
    marked.clock.advance(5)
    copy = _back_up(marked)
    assert set(_send(marked)) == {"spooled1", "inboxed1"}
    _restore(marked, copy)

    assert _send(marked) == []
    assert marked.states() == {"spooled1": "waiting", "inboxed1": "waiting"}


def _nothing(at: Bench, copy: Path) -> None:
    at.outbox.close()
    _open(at)


def _reboot(at: Bench, copy: Path) -> None:
    """Copied while it waited: by the next boot the mark is gone, and the store may be any."""
    _restore(at, copy, "another-boot")


def _lose_the_mark(at: Bench, copy: Path) -> None:
    at.outbox.close()
    shutil.rmtree(at.directory.parent / "marks", ignore_errors=True)
    _open(at)


def _set_the_clock_back(at: Bench, copy: Path) -> None:
    at.outbox.close()
    at.clock.reading = at.clock.reading._replace(wall_ns=at.clock.reading.wall_ns - 10**6 * SECOND_NS)
    _open(at)


def _copy_elsewhere(at: Bench, copy: Path) -> None:
    at.outbox.close()
    at.directory = copy
    _open(at)


def _take_the_place_of_the_mark(at: Bench, copy: Path) -> None:
    at.outbox.close()
    shutil.rmtree(at.directory.parent / "marks", ignore_errors=True)
    (at.directory.parent / "marks").symlink_to(at.directory.parent)
    _open(at)


@pytest.mark.parametrize(
    "happen",
    [_nothing, _reboot, _lose_the_mark, _set_the_clock_back, _copy_elsewhere, _take_the_place_of_the_mark],
)
def test_nothing_is_held_without_a_reason(marked: Bench, happen: object) -> None:
    """A restart, a reboot, a lost mark, a clock that was set, a copy of the store: what waits is sent."""
    sent = marked.run(ref="heartbeat:other")
    assert _send(marked) == [sent]
    run_id = marked.run()
    copy = _back_up(marked)

    assert callable(happen)
    happen(marked, copy)

    assert _send(marked) == [run_id]


def test_marks_of_stores_that_are_gone_are_removed(tmp_path: Path) -> None:
    """They would fill the memory that they lie in."""
    for name in ("one", "two"):
        made = bench(tmp_path / name)
        made.outbox.close()
        made.outbox = Outbox(
            str(made.directory), MovedClock(), owner="o", hostname="host", marks=str(tmp_path / "marks")
        )
        made.know("backup")
        made.run()
        assert made.outbox.claim(8).attempts
        made.outbox.close()
        shutil.rmtree(tmp_path / name)

    assert len(list((tmp_path / "marks").iterdir())) == 1

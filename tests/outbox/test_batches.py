"""Long backlogs are taken in by batches: whoever is ended in the middle has made progress, and nothing is sent before."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.errors import StoreError
from aura_agent.outbox.intake import BATCH
from aura_agent.report import spool, started, wire
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import Bench
from tests.reports import report_of
from tests.waiting import wait_until

_FILES = 2 * BATCH + 100


def _reports(at: Bench, count: int) -> list[Report]:
    """Return successes of many heartbeats that have ended one after the other."""
    reports = []
    for number in range(count):
        beat = f"beat{number % 50}"  # of each the newest 200 runs stay on record
        reports.append(report_of(f"run{number:08}", at.clock.read(), ref=f"heartbeat:{beat}", job=beat))
        at.clock.advance(0.001)
    return reports


def _fill_spool(at: Bench, reports: list[Report]) -> list[str]:
    """Put *reports* into the spool, unsynced: this is about no disk. Return the paths in the order of a listing."""
    directory = at.directory / "spool"
    directory.mkdir(mode=0o700, exist_ok=True)
    for report in reports:
        path = directory / f"{report.run_id}.report"
        path.write_bytes(spool.wrap(wire.encode("run", report.to_fields())))
    return spool.waiting(str(at.directory))


def _poison(at: Bench, run_id: str) -> None:
    """Let whatever takes in *run_id* fail."""
    at.outbox.connection.execute(
        f"CREATE TRIGGER poison BEFORE INSERT ON runs WHEN NEW.run_id = '{run_id}'"
        " BEGIN SELECT abs(-9223372036854775808); END"  # integer overflow
    )


def _heal(at: Bench) -> None:
    at.outbox.connection.execute("DROP TRIGGER poison")


def _taken_in(at: Bench) -> int:
    return int(at.outbox.connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def test_a_spool_that_is_too_long_for_one_look_shrinks_with_each(at: Bench) -> None:
    """What was taken in before somebody is ended stays in."""
    paths = _fill_spool(at, _reports(at, _FILES))
    _poison(at, Path(paths[-1]).stem)

    with pytest.raises(StoreError):
        at.outbox.take_in()

    assert _taken_in(at) == 2 * BATCH
    assert set(spool.waiting(str(at.directory))) == set(paths[2 * BATCH :])
    _heal(at)
    assert at.outbox.take_in() == _FILES - 2 * BATCH
    assert spool.waiting(str(at.directory)) == []


def test_nothing_is_sent_before_the_last_batch_is_in(at: Bench) -> None:
    """A failure in it withdraws a success of the first."""
    at.know("backup")
    reports = _reports(at, _FILES)
    names = [Path(path).stem for path in _fill_spool(at, reports)]
    by_run = {report.run_id: report for report in reports}
    first, last = by_run[names[0]], by_run[names[-1]]
    failure = replace(last, ref="heartbeat:backup", outcome=Outcome.FAILED, started=at.clock.read())
    _fill_spool(at, [replace(first, ref="heartbeat:backup"), failure])
    at.clock.advance(5)
    _poison(at, last.run_id)

    with pytest.raises(StoreError):
        at.outbox.claim(10)
    assert at.states()[first.run_id] == "waiting"
    assert at.outbox.connection.execute("SELECT 1 FROM streams WHERE lease_owner IS NOT NULL").fetchone() is None
    _heal(at)

    assert "backup" not in [attempt.heartbeat for attempt in at.outbox.claim(100).attempts]
    assert at.states()[first.run_id] == "invalidated"


def test_large_reports_make_small_batches(at: Bench) -> None:
    """A batch has bytes, too."""
    reports = [replace(report, body=b"x" * 900_000) for report in _reports(at, 12)]
    paths = _fill_spool(at, reports)
    _poison(at, Path(paths[-1]).stem)

    with pytest.raises(StoreError):
        at.outbox.take_in()

    assert _taken_in(at) in range(4, 12)
    _heal(at)


def test_a_long_inbox_is_taken_in_by_batches(at: Bench) -> None:
    """The reports that a daemon had acknowledged before it was killed."""
    reports = _reports(at, _FILES)
    lines = [(wire.encode("run", report.to_fields()),) for report in reports]
    at.outbox.connection.executemany("INSERT INTO inbox (line) VALUES (?)", lines)
    _poison(at, reports[-1].run_id)

    with pytest.raises(StoreError):
        at.outbox.accept([])

    assert _taken_in(at) == 2 * BATCH
    _heal(at)
    at.outbox.accept([])
    assert (_taken_in(at), at.outbox.waiting_count()) == (_FILES, 50)


def test_many_lost_runs_are_judged_by_batches(at: Bench) -> None:
    """Start records that nobody holds: as many wrappers went with the power."""
    directory = at.directory / "runs"
    directory.mkdir(mode=0o700)
    reports = _reports(at, BATCH + 100)
    for report in reports:
        fields = {key: value for key, value in report.to_fields().items() if not key.startswith(("end", "outcome"))}
        (directory / f"{report.run_id}-000001").write_bytes(spool.wrap(wire.encode("start", fields)))
    _poison(at, reports[0].run_id)  # the last in the order of judging

    with pytest.raises(StoreError):
        at.outbox.take_in()

    assert (_taken_in(at), started.count(str(at.directory))) == (BATCH, 100)
    _heal(at)
    assert at.outbox.take_in() == 100
    assert started.count(str(at.directory)) == 0


def test_who_is_killed_while_it_takes_in_a_long_spool_loses_nothing(at: Bench) -> None:
    """A real process, ended between two batches or in one: the next goes on from there."""
    _fill_spool(at, _reports(at, 10 * BATCH))
    at.outbox.close()
    code = "import sys; from aura_agent.outbox.store import open_outbox\nopen_outbox(sys.argv[1], 'run').take_in()"
    with subprocess.Popen([sys.executable, "-c", code, str(at.directory)]) as taking:
        wait_until(lambda: len(spool.waiting(str(at.directory))) < 10 * BATCH, what="a first batch")
        taking.send_signal(signal.SIGKILL)
    at.reopen()

    taken, left = _taken_in(at), len(spool.waiting(str(at.directory)))

    assert taken + left >= 10 * BATCH
    assert at.outbox.take_in() == 10 * BATCH - taken
    assert (_taken_in(at), spool.waiting(str(at.directory))) == (10 * BATCH, [])

"""The outbox's thread: reports that arrive together share a transaction, not their fate."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from aura_agent.errors import StoreBusyError, StoreSilentError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Report
from tests.outbox.stores import START, Bench
from tests.reports import report_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


def _report(number: int) -> Report:
    return report_of(f"worker{number:04}", START, ref=f"heartbeat:beat{number}", job="")


async def test_reports_that_arrive_together_are_all_kept(at: Bench) -> None:
    """Each is told whether its run was new."""
    worker = OutboxWorker(at.outbox)
    reports = [_report(number) for number in range(200)]

    first = await asyncio.gather(*(worker.accept(report) for report in reports))
    again = await asyncio.gather(*(worker.accept(report) for report in reports))

    assert (set(first), set(again)) == ({True}, {False})
    assert await worker.call(lambda outbox: len(outbox.connection.execute("SELECT 1 FROM entries").fetchall())) == 200


async def test_one_report_that_cannot_be_kept_spoils_no_other(at: Bench) -> None:
    """Whoever sent it hears of it; the others in the same transaction are durable."""
    worker = OutboxWorker(at.outbox)
    odd = replace(_report(1), exit_code=10**30)

    ends = await asyncio.gather(
        *(worker.accept(report) for report in (_report(0), odd, _report(2))), return_exceptions=True
    )

    assert (ends[0], ends[2]) == (True, True)
    assert isinstance(ends[1], OverflowError)
    assert list(at.states()) == ["worker0000", "worker0002"]


async def test_reports_wait_for_a_locked_database_together(at: Bench) -> None:
    """Its lock is no report's fault: none of them makes those that come after it wait anew."""
    worker = OutboxWorker(at.outbox)
    statements: list[str] = []
    at.outbox.connection.execute("PRAGMA busy_timeout = 200").fetchone()
    at.outbox.connection.set_trace_callback(statements.append)
    with closing(sqlite3.connect(at.directory / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        ends = await asyncio.gather(*(worker.accept(_report(number)) for number in range(20)), return_exceptions=True)

    assert {type(end) for end in ends} == {StoreBusyError}
    assert statements.count("BEGIN IMMEDIATE") < 20


async def test_who_has_other_work_does_not_wait_for_a_disk_that_hangs(at: Bench) -> None:
    """Those who ask give up; what was begun is done, and so is what was accepted, once the disk answers."""
    worker, release = OutboxWorker(at.outbox, gives_up=True), threading.Event()
    patient = asyncio.ensure_future(worker.call(lambda _: release.wait(), patient=True))
    try:
        await until(lambda: worker.hanging.took_s > 0)
        for _ in range(2):
            with pytest.raises(StoreSilentError, match="has not answered since"):
                await worker.call(lambda outbox: outbox.connection.execute("DROP TABLE runs"))
        accepted = worker.accept(_report(0))
        assert worker.silence
        assert not patient.done()
    finally:
        release.set()

    assert (await patient, await accepted, worker.silence) == (True, True, "")


async def test_at_the_end_nobody_waits_for_a_disk_that_hangs(at: Bench) -> None:
    """The patient neither; the outbox is left as it is."""
    worker, release = OutboxWorker(at.outbox, gives_up=True), threading.Event()
    patient = asyncio.ensure_future(worker.call(lambda _: release.wait(), patient=True))
    try:
        await until(lambda: worker.hanging.took_s > 0)
        worker.leave()
        await worker.close()
        with pytest.raises(StoreSilentError):
            await patient
    finally:
        release.set()

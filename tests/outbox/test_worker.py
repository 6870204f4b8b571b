"""The outbox's thread: reports that arrive together share a transaction, not their fate."""

import asyncio
from dataclasses import replace

import pytest

from aura_agent.clock import Reading
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.outbox.stores import START, Bench

pytestmark = pytest.mark.anyio


def _report(number: int) -> Report:
    return Report(
        run_id=f"worker{number:04}",
        boot_id=current_boot_id(),
        started=START,
        ended=START,
        outcome=Outcome.SUCCEEDED,
        ref=f"heartbeat:beat{number}",
    )


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
    odd = replace(_report(1), started=Reading(10**30, 0))

    ends = await asyncio.gather(
        *(worker.accept(report) for report in (_report(0), odd, _report(2))), return_exceptions=True
    )

    assert (ends[0], ends[2]) == (True, True)
    assert isinstance(ends[1], OverflowError)
    assert list(at.states()) == ["worker0000", "worker0002"]

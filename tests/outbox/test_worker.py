"""The outbox's thread: reports that arrive together share a transaction, not their fate."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from aura_agent.errors import StoreBusyError, StoreSilentError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Report
from tests.outbox.stores import START, Bench
from tests.reports import report_of
from tests.waiting import until, wait_until

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


class _LoopThatIsInterrupted(asyncio.SelectorEventLoop):
    """Calls *interruption* where this loop's own thread tells it of a call's end, as a cancelled call does."""

    interruption: Callable[[], None] | None = None

    def call_soon_threadsafe(  # type: ignore[override]  # its own is generic
        self, callback: Callable[..., object], *args: Any, **more: Any
    ) -> asyncio.Handle:
        if self.interruption is not None and asyncio._get_running_loop() is self:
            self.interruption()
        return super().call_soon_threadsafe(callback, *args, **more)


def test_who_gives_up_as_the_disk_answers_is_told_that_it_was_silent(at: Bench) -> None:
    """Not that it was cancelled, which nobody has done: a background task would end by that."""
    release = threading.Event()

    async def give_up() -> None:
        worker, loop = OutboxWorker(at.outbox, gives_up=True), asyncio.get_running_loop()
        assert isinstance(loop, _LoopThatIsInterrupted)

        def answer() -> None:
            release.set()
            wait_until(lambda: worker.hanging.took_s == 0)

        patient = asyncio.ensure_future(worker.call(lambda _: release.wait(), patient=True))
        await until(lambda: worker.hanging.took_s > 0)
        loop.interruption = answer
        with pytest.raises(StoreSilentError, match="has not answered since"):
            await worker.call(lambda _: None)
        assert await patient

    try:
        with asyncio.Runner(loop_factory=_LoopThatIsInterrupted) as runner:
            runner.run(give_up())
    finally:
        release.set()


async def test_a_call_whose_caller_has_left_fails_quietly(at: Bench) -> None:
    """Nobody reads what the store said then; and one that had not begun never does."""
    worker, release = OutboxWorker(at.outbox, gives_up=True), threading.Event()
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    def fail(_: object) -> None:
        release.wait()
        raise StoreBusyError("locked")

    begun: list[str] = []
    callers = [asyncio.ensure_future(worker.call(fail)), asyncio.ensure_future(worker.call(lambda _: begun.append("")))]
    try:
        await until(lambda: worker.hanging.took_s > 0)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
    finally:
        release.set()
    await worker.call(lambda _: None)
    gc.collect()
    await asyncio.sleep(0)

    assert (said, begun) == ([], [])

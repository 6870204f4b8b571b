"""The daemon's calls of hooks: who waits for whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aura_agent.clock import SystemClock
from aura_agent.config.models import Config, Hook, Job, UndeliverableHook
from aura_agent.hooks.caller import Caller
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Outcome
from tests.daemon.stores import Seen, opened
from tests.reports import report_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def _ends(worker: OutboxWorker, job: str, run_id: str, outcome: Outcome) -> None:
    await worker.accept(report_of(run_id, SystemClock().read(), outcome, ref=f"heartbeat:{job}", job=job))


@asynccontextmanager
async def _calling(caller: Caller) -> AsyncIterator[None]:
    task = asyncio.create_task(caller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await caller.abandon()


async def test_hooks_that_wait_for_their_second_try_hold_up_no_other_job(tmp_path: Path) -> None:
    """Ten fail, and are tried again in an hour; the eleventh is called, and its job's own next one waits behind it."""
    told = tmp_path / "told"
    bad, good = Hook(command=("false",)), Hook(command=("sh", "-c", f'echo "$AURA_HOOK_RUN_ID" >>{told}'))
    jobs = {f"bad{number}": Job(command=("true",), on_failure=bad) for number in range(10)}
    jobs["good"] = Job(command=("true",), on_failure=good)
    config, seen = Config(jobs=jobs), Seen()
    async with opened(tmp_path / "store") as worker:
        caller = Caller(worker, seen, "host", lambda: config, lambda _: None, retry_after_s=3600.0)
        for name in jobs:
            await _ends(worker, name, f"first{name}", Outcome.FAILED)
        await _ends(worker, "bad0", "secondbad0", Outcome.FAILED)
        await _ends(worker, "good", "secondgood", Outcome.FAILED)
        async with _calling(caller):
            await until(lambda: len(seen.named("hook.called")) == 2)
        left = await worker.call(lambda outbox: outbox.take_hook_calls(100))

    assert [facts["run_id"] for facts in seen.named("hook.called")] == ["firstgood", "secondgood"]
    assert told.read_text().split() == ["firstgood", "secondgood"]
    assert sorted(call.run_id for call in left) == sorted(
        [*(f"firstbad{number}" for number in range(10)), "secondbad0"]
    )


async def test_what_is_not_even_tried_is_told_in_time(tmp_path: Path) -> None:
    """A success comes while its heartbeat is left alone for long: nobody waits for the next attempt to tell of it."""
    hook = UndeliverableHook(command=("true",), after=0.1)
    config, seen = Config(jobs={"backup": Job(command=("true",), on_undeliverable=hook)}), Seen()
    asked = []

    def ask_for_config() -> Config:
        asked.append(config)
        return config

    async with opened(tmp_path / "store") as worker:
        caller = Caller(worker, seen, "host", ask_for_config, lambda _: None)
        async with _calling(caller):
            await until(lambda: len(asked) >= 2, what="the look at the start, which finds nothing")
            await _ends(worker, "backup", "run00000001", Outcome.SUCCEEDED)
            (stream,) = (await worker.call(lambda outbox: outbox.claim(1))).unresolved
            await worker.call(lambda outbox: outbox.postpone_unresolved(stream.stream_id, "no such heartbeat", 3600))
            caller.saw(await worker.call(lambda outbox: outbox.claim(1)))
            await until(lambda: seen.named("hook.called"))
            told = seen.named("hook.called")

    assert [(facts["hook"], facts["run_id"]) for facts in told] == [("on_undeliverable", "run00000001")]

"""The daemon's calls of hooks: who waits for whom."""

import asyncio
from pathlib import Path

import pytest

from aura_agent.clock import SystemClock
from aura_agent.config.models import Config, Hook, Job
from aura_agent.hooks.caller import Caller
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import Seen, opened
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def _fails(worker: OutboxWorker, job: str, run_id: str) -> None:
    reading = SystemClock().read()
    await worker.accept(
        Report(
            run_id=run_id,
            boot_id=current_boot_id(),
            started=reading,
            ended=reading,
            outcome=Outcome.FAILED,
            ref=f"heartbeat:{job}",
            job=job,
        )
    )


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
            await _fails(worker, name, f"first{name}")
        await _fails(worker, "bad0", "secondbad0")
        await _fails(worker, "good", "secondgood")
        calling = asyncio.create_task(caller.run())
        await until(lambda: len(seen.named("hook.called")) == 2)
        calling.cancel()
        await caller.abandon()
        left = await worker.call(lambda outbox: outbox.take_hook_calls(100))

    assert [facts["run_id"] for facts in seen.named("hook.called")] == ["firstgood", "secondgood"]
    assert told.read_text().split() == ["firstgood", "secondgood"]
    assert sorted(call.run_id for call in left) == sorted(
        [*(f"firstbad{number}" for number in range(10)), "secondbad0"]
    )

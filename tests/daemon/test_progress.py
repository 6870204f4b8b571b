"""What has come to a stop is seen: by the own heartbeat, by `status`, and where a restart helps by the watchdog."""

import asyncio
import threading
from typing import Any

import pytest

from aura_agent.daemon.agent import Agent
from aura_agent.daemon.progress import Progress
from aura_agent.daemon.vitals import Vitals
from aura_agent.outbox.worker import Hanging
from tests.delivery.conftest import at, aura
from tests.delivery.dispatch import Dispatch, Recorder
from tests.waiting import until

__all__ = ["at", "aura"]


@pytest.mark.parametrize(
    ("measured", "stuck"),
    [
        ({}, ""),
        ({"asleep_s": 119.0, "deaf_s": 59.0, "turn_s": 59.0, "store": Hanging(59.0, computes=True)}, ""),
        ({"asleep_s": 121.0}, "scheduler"),
        ({"deaf_s": 61.0}, "report socket"),
        ({"turn_s": 61.0}, "courier"),
        ({"turn_s": 70.0, "store": Hanging(61.0, computes=True)}, "computed"),
        ({"turn_s": 70.0, "store": Hanging(61.0, computes=False)}, ""),
    ],
)
def test_what_makes_no_progress_is_named(measured: dict[str, Any], stuck: str) -> None:
    """A restart helps where something computes or hangs, not where a disk does: that would end the jobs, too."""
    still: dict[str, Any] = {"asleep_s": 0.0, "deaf_s": 0.0, "turn_s": 0.0, "store": Hanging(0.0, computes=False)}

    progress = Progress(**(still | measured))

    assert (stuck in progress.stuck, bool(progress.stuck)) == (True, bool(stuck))


@pytest.mark.anyio
async def test_a_call_without_an_answer_is_seen_while_it_lasts(at: Dispatch) -> None:
    """And afterwards nothing is."""
    release = threading.Event()
    waiting = asyncio.ensure_future(at.worker.call(lambda _: release.wait()))
    try:
        await until(lambda: at.worker.hanging.took_s > 0)
    finally:
        release.set()
    await waiting

    assert at.worker.hanging == (0.0, False)


@pytest.mark.parametrize(("cpu_s", "computes"), [(0.0, False), (2.9, False), (3.1, True), (60.0, True)])
def test_a_call_that_takes_a_cpu_is_told_from_one_that_waits(cpu_s: float, computes: bool) -> None:
    """On a loaded machine a loop has a small part of a CPU; who waits for a disk has next to nothing."""
    assert Hanging.measured(60.0, cpu_s) == (60.0, computes)


@pytest.mark.anyio
async def test_a_courier_that_waits_for_the_store_is_seen(at: Dispatch) -> None:
    """Its turn has begun and not ended; between turns there is nothing to see."""
    release = threading.Event()
    blocking = asyncio.ensure_future(at.worker.call(lambda _: release.wait()))
    assert at.courier.turn_s == 0.0
    async with at.running():
        try:
            await until(lambda: at.courier.turn_s > 0)
        finally:
            release.set()
        await blocking
        await until(lambda: at.courier.turn_s == 0.0)


@pytest.mark.anyio
@pytest.mark.parametrize("ends", [False, True])
async def test_background_work_that_is_cancelled_ends_the_daemon(ends: bool) -> None:
    """Unless the daemon is what ends it."""
    agent, stop, heard = Agent.__new__(Agent), asyncio.Event(), Recorder()  # of the agent nothing else is needed
    agent.crashed = ""
    vitals = Vitals(agent, heard, stop)
    awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await awaited

    task = vitals.start(work(), "scheduler")
    if ends:
        await vitals.ended(but=None)
    else:
        awaited.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)

    assert (stop.is_set(), bool(agent.crashed), heard.count("agent.crashed")) == (not ends, not ends, int(not ends))

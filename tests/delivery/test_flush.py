"""Delivering now, beside another process that is at it already: nothing is left that may be sent."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aura_agent.delivery.courier import Courier
from aura_agent.delivery.hosts import Hosts
from aura_agent.delivery.inline import flush
from aura_agent.devserver.server import DevServer
from tests.delivery.dispatch import Dispatch, dispatch
from tests.waiting import until

pytestmark = pytest.mark.anyio

_NAMES = [f"beat{number}" for number in range(6)]


@pytest.fixture
async def flusher(tmp_path: Path, aura: DevServer, at: Dispatch) -> AsyncIterator[Dispatch]:
    """Another process beside *at*, on the same store."""
    del at  # which opens it first, and closes it last
    async with dispatch(tmp_path / "store", aura, owner="flusher") as made:
        yield made


class _LongWait(random.Random):
    """Its jitter is five minutes, whatever bounds it."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b, 300.0)


class _Flush:
    """A flush that goes on; ``looks`` is how often it has seen what is left."""

    def __init__(self, at: Dispatch) -> None:
        self._heard = at.heard
        self.looks = 0
        self.task = asyncio.create_task(flush(at.courier, at.worker, self._tried))

    def _tried(self) -> set[str]:
        self.looks += 1
        return {str(facts.get("run_id", "")) for _, facts in self._heard.events}

    async def looked(self) -> None:
        looks = self.looks
        await until(lambda: self.looks > looks or self.task.done(), what="a look at what is left")


async def test_what_another_process_looks_up_is_waited_for(aura: DevServer, at: Dispatch, flusher: Dispatch) -> None:
    """Six ping URLs that the daemon is asking for as the flush comes: nobody asks twice, and none is left."""
    for name in _NAMES:
        aura.create_heartbeat(name)
        await at.run(name)
    aura.set_fault("slow", target="api", delay_s=3600, times=1)
    async with at.running():
        await until(at.api_requests)
        flushing = _Flush(flusher)
        await flushing.looked()
        aura.clear_faults()

        assert await flushing.task == 0
    assert sorted(ping.name for ping in aura.pings()) == _NAMES
    assert at.api_requests().count("list") == 1


async def test_what_another_process_did_not_get_through_has_a_try_of_ours(
    aura: DevServer, at: Dispatch, flusher: Dispatch
) -> None:
    """The daemon's attempts fail while the flush waits for them, and back off: the flush sends them all the same."""
    for name in _NAMES:
        aura.create_heartbeat(name)
        await at.run(name)
    aura.set_fault("hang", target="ping", heartbeat=_NAMES[0])
    courier = Courier(at.worker, at.resolver, at.courier._http, _LongWait(), at.heard, limit=16)
    turn = asyncio.create_task(courier.drain(20.0, retry=False))
    await until(lambda: len(aura.pings()) == 6)
    flushing = _Flush(flusher)
    await flushing.looked()
    aura.clear_faults()
    await turn

    assert await flushing.task == 0
    assert flusher.heard.count("ping.delivered") == 1


async def test_what_fails_by_our_own_hand_is_tried_once(aura: DevServer, at: Dispatch) -> None:
    """It is left, and nobody is flooded; of a heartbeat that doesn't exist the same."""
    for name in _NAMES:
        aura.create_heartbeat(name)
        await at.run(name)
    await at.run("unknown")
    aura.set_fault("status", target="ping", status=403, heartbeat=_NAMES[0])

    assert await _Flush(at).task == 2
    assert [row.tries for row in (await at.rows()).values()] == [1, 1, 1, 1, 1, 1, 0]
    assert at.api_requests().count("list") == 1


async def test_a_look_up_that_was_given_up_holds_up_nobody(aura: DevServer, at: Dispatch, flusher: Dispatch) -> None:
    """Who was asking for a ping URL ends: the next to come asks for it at once."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    aura.set_fault("slow", target="api", delay_s=3600, times=1)
    asking = asyncio.create_task(at.courier.drain(20.0, retry=False))
    await until(at.api_requests)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await flusher.drain()

    assert [ping.name for ping in aura.pings()] == ["backup"]


async def test_a_host_that_failed_a_few_times_in_a_row_is_probed_once_more(aura: DevServer, at: Dispatch) -> None:
    """Four pings under way met a server that was just starting: it answers the probe, and all of them arrive."""
    names = [f"beat{number:02}" for number in range(20)]
    for name in names:
        aura.create_heartbeat(name)
        await at.run(name)
    aura.set_fault("status", target="ping", status=503, times=4)

    assert await _Flush(at).task == 0
    assert sorted(ping.name for ping in aura.pings() if ping.accepted) == names


async def test_a_host_that_is_down_takes_no_more_than_a_probe(aura: DevServer, at: Dispatch) -> None:
    """It fails, and what waits for it is left."""
    for number in range(20):
        name = f"beat{number:02}"
        aura.create_heartbeat(name)
        await at.run(name)
    aura.set_fault("status", target="ping", status=503)
    at.courier._hosts = Hosts(16, _LongWait())

    assert await _Flush(at).task == 20
    assert len(aura.pings()) <= 4 + 1

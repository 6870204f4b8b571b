"""Watches beside the courier: neither is in the other's way, and what one learns of a network the other uses."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aura_agent.clock import SystemClock
from aura_agent.daemon.watcher import Watched, Watcher
from aura_agent.delivery.hosts import Hosts
from aura_agent.delivery.skew import Skew
from aura_agent.devserver.server import DevServer
from aura_agent.watch.condition import Condition
from tests.delivery.conftest import at, aura
from tests.delivery.dispatch import Dispatch
from tests.waiting import until

__all__ = ["at", "aura"]

pytestmark = pytest.mark.anyio


class AnHour(random.Random):
    """Nothing that backs off comes back within a test."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b, 3600.0)


async def _healthy(_: Condition | None) -> Condition:
    return Condition(healthy=True, reason="as always")


@asynccontextmanager
async def watching(at: Dispatch, *heartbeats: str) -> AsyncIterator[Watcher]:
    """Watch for each of *heartbeats* what is always well, beside the courier, as the daemon does."""
    watcher = Watcher(
        at.worker,
        at.resolver,
        at.courier._http,
        SystemClock(),
        AnHour(),
        at.heard,
        allow_insecure=False,
        answered=at.courier.heard_from,
        skew=Skew(),
    )
    watcher.replace({name: Watched(name, _healthy) for name in heartbeats})
    try:
        yield watcher
    finally:
        await watcher.close()


async def test_watches_whose_pings_hang_hold_up_no_ping_of_a_job(aura: DevServer, at: Dispatch) -> None:
    """Forty of them get no answer: a job's ping goes out beside them, at its first try."""
    names = [f"watch{number:02}" for number in range(40)]
    for name in (*names, "job"):
        aura.create_heartbeat(name)
        await at.run(name)
    await at.drain()
    aura.clear_received()
    for name in names:
        aura.set_fault("hang", target="ping", heartbeat=name)
    async with watching(at, *names) as watcher, at.running():
        for name in names:
            watcher.look(name)
        await until(lambda: len(aura.pings()) >= 40)
        run_id = await at.run("job")
        await at.settled(run_id, "delivered")

    assert (await at.rows())[run_id].tries == 1


async def test_a_watch_that_gets_through_tells_the_courier_that_its_host_is_back(aura: DevServer, at: Dispatch) -> None:
    """The host's next probe is an hour away; after the watch's ping what waits for it goes out at once."""
    for name in ("watch", "job"):
        aura.create_heartbeat(name, expected_interval=604_800)
        await at.run(name)
    await at.drain()
    at.courier._hosts = Hosts(16, AnHour())
    aura.set_fault("status", target="ping", status=503)
    async with watching(at, "watch") as watcher, at.running():
        run_id = await at.run("job")
        await at.hears("host.down")
        aura.clear_faults()
        watcher.look("watch")
        await at.settled(run_id, "delivered")

    assert at.heard.count("host.recovered") == 1

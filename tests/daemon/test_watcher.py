"""Watches beside the courier: neither is in the other's way, and what one learns of a network the other uses."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aura_agent.clock import SystemClock
from aura_agent.daemon.watcher import Watched, Watcher
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.hosts import Hosts
from aura_agent.delivery.skew import Skew
from aura_agent.devserver.server import DevServer
from aura_agent.watch.condition import Condition
from tests.delivery.conftest import at, aura
from tests.delivery.dispatch import Dispatch, NoJitter
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
    """Watch for each of *heartbeats* what is always well, beside a courier, as the daemon does."""

    def got_through() -> None:
        watcher.hurry()

    at.courier = Courier(
        at.worker, at.resolver, at.courier._http, NoJitter(), at.heard, limit=16, got_through=got_through
    )
    watcher = Watcher(
        at.worker,
        at.resolver,
        at.courier._http,
        SystemClock(),
        AnHour(),
        at.heard,
        allow_insecure=False,
        courier=at.courier,
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
    for name in ("watch", "one", "two", "three"):
        aura.create_heartbeat(name, expected_interval=604_800)
        await at.run(name)
    await at.drain()
    aura.set_fault("status", target="ping", status=503)
    async with watching(at, "watch") as watcher, at.running():
        at.courier._hosts = Hosts(16, AnHour())
        runs = [await at.run(name) for name in ("one", "two", "three")]
        await at.hears("host.down")
        aura.clear_faults()
        watcher.look("watch")
        for run_id in runs:
            await at.settled(run_id, "delivered")

    assert at.heard.count("host.recovered") == 1


async def _known(aura: DevServer, at: Dispatch, *names: str) -> None:
    """Have the ping URLs of *names* known, and nothing on record of that."""
    for name in names:
        aura.create_heartbeat(name)
        await at.run(name)
    await at.drain()
    aura.clear_received()


async def test_a_ping_that_gets_through_hurries_the_watches_that_back_off(aura: DevServer, at: Dispatch) -> None:
    """Be it a job's or another watch's: the next try is an hour away, and comes at once."""
    await _known(aura, at, "job", "first", "second")
    async with watching(at, "first", "second") as watcher, at.running():
        for speaks in ("job", "first"):
            aura.clear_received()
            aura.set_fault("drop_after", target="ping", heartbeat="second")
            watcher.look("second")
            await at.hears("watch.ping_failed")
            aura.clear_faults()
            if speaks == "job":
                await at.run("job")
            else:
                watcher.look("first")
            await at.hears("watch.ping_recovered")
            at.heard.events.clear()


async def test_a_watch_that_fails_again_is_left_in_peace(aura: DevServer, at: Dispatch) -> None:
    """It alone gets no answer: of many pings that get through one hurries it, and the next not before its back-off."""
    await _known(aura, at, "job", "watch")
    aura.set_fault("status", target="ping", status=503, heartbeat="watch")
    async with watching(at, "watch") as watcher, at.running():
        watcher.look("watch")
        await at.hears("watch.ping_failed")
        for _ in range(5):
            await at.settled(await at.run("job"), "delivered")
            await until(lambda: _tries(aura) == 2)

    assert _tries(aura) == 2


async def test_a_host_that_asks_a_watch_to_wait_is_left_alone_by_all(aura: DevServer, at: Dispatch) -> None:
    """Half an hour: neither the watch nor another one, nor a job's ping goes there before."""
    await _known(aura, at, "job", "watch", "other")
    aura.set_fault("status", target="ping", status=429, retry_after=1800, heartbeat="watch", times=1)
    async with watching(at, "watch", "other") as watcher, at.running():
        watcher.look("watch")
        await at.hears("watch.ping_failed")
        waiting = await at.run("job")
        watcher.look("other")
        watcher.look("watch")
        await at.hears("watch.ping_failed", times=2)

    assert (len(aura.pings()), _tries(aura), await at.state(waiting)) == (1, 1, "waiting")
    assert "asked to be left alone" in str(at.heard.events[-1][1]["reason"])


async def test_a_watch_leaves_a_host_alone_that_has_asked_a_jobs_ping(aura: DevServer, at: Dispatch) -> None:
    """It is on record, also for the next daemon."""
    await _known(aura, at, "job", "watch")
    aura.set_fault("status", target="ping", status=503, retry_after=1800, heartbeat="job", times=1)
    await at.run("job")
    await at.drain()
    async with watching(at, "watch") as watcher:
        watcher.look("watch")
        await at.hears("watch.ping_failed")

    assert _tries(aura) == 0


def _tries(aura: DevServer) -> int:
    return len(aura.pings("watch"))

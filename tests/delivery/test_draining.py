"""How an outbox is drained: most urgent first, at a pace, whatever a dead host does, and soon after a network is back."""

import asyncio
import random
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from aura_agent.delivery.courier import Courier
from aura_agent.delivery.hosts import Hosts
from aura_agent.devserver.server import DevServer
from tests.api.raw_server import closed_port, hang, serving
from tests.delivery.dispatch import Dispatch, dispatch
from tests.faults.proxy import fault_proxy
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_what_expires_first_is_sent_first(tmp_path: Path, aura: DevServer) -> None:
    """One at a time, in the order of interval + grace, not of the runs."""
    lifetimes_s = {"daily": 86_400, "minutely": 120, "hourly": 3600, "monthly": 2_678_400}
    for name, interval_s in lifetimes_s.items():
        aura.create_heartbeat(name, expected_interval=interval_s, grace_period=60)
    async with dispatch(tmp_path / "store", aura, limit=1) as at:
        for name in lifetimes_s:
            await at.run(name)
        await at.drain()
        aura.clear_received()
        for name in lifetimes_s:
            await at.run(name)
        await at.drain()

    assert [ping.name for ping in aura.pings()] == ["minutely", "hourly", "daily", "monthly"]


async def test_a_host_that_hangs_does_not_hold_up_the_others(aura: DevServer, at: Dispatch) -> None:
    """Thirty ping URLs of a host that takes connections and says nothing: another one's pings go through meanwhile."""
    for number in range(8):
        aura.create_heartbeat(f"beat{number}")
    async with serving(hang) as dead, at.running():
        for number in range(30):
            await at.run("dead", ref=f"url:{dead.url}/ping/{number}")
        await until(lambda: dead.requests)
        for number in range(8):
            await at.settled(await at.run(f"beat{number}"), "delivered")

        assert 1 <= len(dead.requests) <= 4


async def test_a_dead_host_is_probed_by_one_and_the_rest_follows_its_answer(aura: DevServer, at: Dispatch) -> None:
    """Twenty wait; a handful of requests in all until it answers, then all of them arrive, once each."""
    names = [f"beat{number:02}" for number in range(20)]
    for name in names:
        aura.create_heartbeat(name)
        await at.run(name)
    await at.drain()
    aura.clear_received()
    at.courier._hosts = Hosts(16, random.Random(1))  # with real waits between the probes
    aura.set_fault("status", target="ping", status=503)
    async with at.running():
        for name in names:
            last = await at.run(name)
        await at.hears("host.down")
        tried = len(aura.pings())
        aura.clear_faults()
        await at.settled(last, "delivered")
        await at.hears("ping.delivered", 40)

    assert tried < 20
    assert at.heard.count("host.down") == at.heard.count("host.recovered") == 1
    assert sorted(ping.name for ping in aura.pings() if ping.accepted) == names


async def test_a_flush_gives_up_on_a_host_that_is_down(at: Dispatch) -> None:
    """Nobody listens there: a few attempts tell, the other entries stay without a try, and say why."""
    port = closed_port()
    for number in range(50):
        await at.run("dead", ref=f"url:http://127.0.0.1:{port}/ping/{number}")
    at.courier._hosts = Hosts(16, random.Random(1))
    await at.drain()

    rows = (await at.rows()).values()
    assert {row.state for row in rows} == {"waiting"}
    assert 3 <= sum(row.tries for row in rows) < 10
    assert "doesn't answer" in at.courier.host_problem
    assert {"connection refused" in row.reason for row in rows} == {True}
    assert {row.next_try_s is None for row in rows if row.tries == 0} == {True}


async def test_no_more_pings_begin_than_the_pace_allows(aura: DevServer, at: Dispatch) -> None:
    """Two a second: the first two at once, and no seventh within two seconds; all arrive."""
    names = [f"beat{number}" for number in range(6)]
    for name in names:
        aura.create_heartbeat(name)
    courier = Courier(at.worker, at.resolver, at.courier._http, random.Random(), at.heard, limit=16, max_rate_per_s=2)
    for name in names:
        await at.run(name)
    began_s = asyncio.get_running_loop().time()
    await courier.drain(30, retry=False)
    took_s = asyncio.get_running_loop().time() - began_s

    assert await at.states() == ["delivered"] * 6
    assert took_s >= 2.0  # never earlier; how much later is the machine's affair


async def test_answers_that_the_store_cannot_take_are_kept(aura: DevServer, at: Dispatch) -> None:
    """The database is locked while an answer comes: it is on record once that is over, and nothing is sent twice."""
    aura.create_heartbeat("backup")
    aura.set_fault("slow", target="ping", delay_s=3600, times=1)
    async with at.running():
        run_id = await at.run("backup")
        await until(aura.pings)
        await at.worker.call(lambda outbox: outbox.connection.execute("PRAGMA busy_timeout = 0").fetchone())
        with at.locked():
            aura.clear_faults()
            await at.hears("store.failed")
        await at.settled(run_id, "delivered")

    assert len(aura.pings()) == 1
    assert at.heard.count("store.recovered") == 1


async def test_connections_are_used_again(aura: DevServer, at: Dispatch) -> None:
    """Forty pings, one after the other: one connection carries them all."""
    url = aura.create_heartbeat("backup").ping_url
    async with fault_proxy(urlsplit(url).port or 0, 1) as proxy:
        for number in range(40):
            ref = f"url:http://127.0.0.1:{proxy.port}{urlsplit(url).path}"
            await at.run("backup", ref=ref, body=b"%d" % number, replay_all=True)
        await at.drain()

        assert proxy.connections == 1
    assert [ping.body for ping in aura.pings()] == [str(number) for number in range(40)]

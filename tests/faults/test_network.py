"""The courier behind a bad network: nothing is lost, nothing is told that isn't so, and it notices when all is well."""

import os
import time
from urllib.parse import urlsplit

import pytest

from aura_agent.delivery.inline import Service
from aura_agent.devserver.server import DevServer
from aura_agent.secret import Secret
from tests.api.raw_server import answer, serving
from tests.delivery.conftest import at, aura
from tests.delivery.dispatch import Dispatch
from tests.faults.proxy import Fault, fault_proxy
from tests.waiting import until

__all__ = ["at", "aura"]

pytestmark = pytest.mark.anyio

# The request has arrived in each of these, though nobody could know: at least once is what is promised.
_ARRIVES = {Fault.RESET_MIDWAY, Fault.SWALLOWED}


def _ref(url: str, port: int) -> str:
    return f"url:http://127.0.0.1:{port}{urlsplit(url).path}"


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RESET_MIDWAY, Fault.HALF_OPEN, Fault.SWALLOWED, Fault.SLOW_LORIS])
async def test_a_ping_outlives_what_a_network_does_to_it(aura: DevServer, at: Dispatch, fault: Fault) -> None:
    """It waits while the fault lasts, and is acknowledged once that is over; a second time only if it may have arrived."""
    url = aura.create_heartbeat("backup").ping_url
    async with fault_proxy(urlsplit(url).port or 0, 1) as proxy, at.running():
        proxy.fault = fault
        run_id = await at.run("backup", ref=_ref(url, proxy.port), body=b"nightly")
        await until(lambda: proxy.connections >= 1 and (fault not in _ARRIVES or aura.pings()))
        assert await at.state(run_id) == "waiting"
        proxy.heal()
        await at.settled(run_id, "delivered")

    bodies = [ping.body for ping in aura.pings()]
    assert set(bodies) == {"nightly"}
    assert len(bodies) == 1 or fault in _ARRIVES


async def test_a_slow_network_delays_and_nothing_more(aura: DevServer, at: Dispatch) -> None:
    """Each is sent once, however long its answer takes."""
    url = aura.create_heartbeat("backup").ping_url
    async with fault_proxy(urlsplit(url).port or 0, 1) as proxy, at.running():
        proxy.fault = Fault.DELAY
        run_id = await at.run("backup", ref=_ref(url, proxy.port))
        await at.settled(run_id, "delivered")

    assert len(aura.pings()) == 1


async def test_through_a_network_that_loses_half_everything_arrives_in_order(aura: DevServer, at: Dispatch) -> None:
    """Connections die at random while forty pings of four heartbeats go out; each arrives, in the order of its runs."""
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    urls = [aura.create_heartbeat(f"beat{number}").ping_url for number in range(4)]
    async with fault_proxy(urlsplit(urls[0]).port or 0, seed) as proxy, at.running():
        proxy.fault = Fault.LOSS
        for number in range(10):
            for beat, url in enumerate(urls):
                run = await at.run(f"beat{beat}", ref=_ref(url, proxy.port), body=b"%d" % number, replay_all=True)
        # With luck the first few connections are good ones, and carry everything.
        await until(lambda: proxy.spoilt > 2 or at.heard.count("ping.delivered") == 40)
        proxy.heal()
        await at.settled(run, "delivered")
        await until(lambda: at.heard.count("ping.delivered") == 40)

    for beat in range(4):
        told = [ping.body for ping in aura.pings(f"beat{beat}")]
        assert list(dict.fromkeys(told)) == [str(number) for number in range(10)]


async def test_a_login_page_in_place_of_the_api_is_no_answer(aura: DevServer, at: Dispatch) -> None:
    """A captive portal answers everything with 200 and HTML: nothing is learnt from it, nothing lost, and all said."""
    aura.create_heartbeat("known")
    await at.run("known")
    await at.drain()
    aura.create_heartbeat("new")
    page = answer(200, b"<html><title>Welcome to the Hotel</title></html>", "Content-Type: text/html")
    async with serving(page) as portal, at.running():
        at.resolver.use(Service(base_url=portal.url, token=Secret("token")).client_factory())
        waits = await at.run("new")
        await at.hears("api.failed")
        known = await at.run("known")
        await at.settled(known, "delivered")
        row = (await at.rows())[waits]
        assert row.state == "waiting"
        assert "Aura API" in row.reason
        at.resolver.use(Service(base_url=aura.base_url, token=Secret(aura.token)).client_factory())
        await at.settled(waits, "delivered")

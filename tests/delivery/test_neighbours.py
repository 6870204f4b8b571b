"""One ping URL that fails delays the pings of no other one, whether they share its host or not."""

import random
from typing import Literal

import pytest

from aura_agent.delivery.hosts import Hosts
from aura_agent.devserver.server import DevServer
from tests.delivery.dispatch import Dispatch
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fault", "status"),
    [("status", 503), ("status", 429), ("status", 500), ("hang", 500), ("drop_after", 500)],
)
async def test_a_heartbeat_that_fails_keeps_no_neighbour_waiting(
    aura: DevServer, at: Dispatch, fault: Literal["status", "hang", "drop_after"], status: int
) -> None:
    """Whatever its URL answers, and though it is the most urgent: the others of the host are pinged at once."""
    at.courier._hosts = Hosts(16, random.Random(1))
    for name in ("sick", "well", "new"):
        aura.create_heartbeat(name)
    aura.set_fault(fault, target="ping", heartbeat="sick", status=status)
    async with at.running():
        sick = await at.run("sick")
        await until(lambda: len(aura.pings("sick")) >= (1 if fault == "hang" else 5))
        for name in ("well", "new"):
            await at.settled(await at.run(name), "delivered")
        assert await at.state(sick) == "waiting"

    assert at.courier.host_problem == ""
    assert at.heard.count("host.down") == 0


async def test_probes_go_round_the_urls_of_a_host_that_is_down(aura: DevServer, at: Dispatch) -> None:
    """Three that are most urgent fail for ever, the fourth works: it is probed before one of them is again."""
    for name in ("a", "b", "c", "well"):
        aura.create_heartbeat(name)
    for name in ("a", "b", "c"):
        aura.set_fault("status", target="ping", heartbeat=name, status=503)
    async with at.running():
        for name in ("a", "b", "c"):
            await at.run(name)
        await at.hears("host.down")
        await at.settled(await at.run("well"), "delivered")
        await at.hears("host.recovered")

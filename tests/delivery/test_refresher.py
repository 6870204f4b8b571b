"""The cache is filled and kept good in the background: few requests, within the token's limits, on a clock of its own."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from aura_agent.api import AuraClient, Limiter, Purpose
from aura_agent.delivery.refresher import Refresher
from aura_agent.delivery.resolver import Resolver
from aura_agent.devserver.server import DevServer
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.secret import Secret
from tests.api.raw_server import json_answer, serving
from tests.delivery.dispatch import Recorder
from tests.devserver.clocks import PassingClock

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0


@dataclass
class Keeper:
    """One agent's refresher over its store."""

    refresher: Refresher
    resolver: Resolver
    worker: OutboxWorker
    clock: PassingClock

    async def resolved(self) -> dict[str, str]:
        """Return the ping URL of each heartbeat that the cache has one for, by name."""
        cached = await self.worker.call(lambda outbox: outbox.heartbeats.all())
        return {heartbeat.name: heartbeat.ping_url.reveal() for heartbeat in cached if heartbeat.ping_url}

    async def settle(self) -> float:
        """Let it work until nothing is due for an hour; return how much time that took (s)."""
        began_ns = self.clock.read().boot_ns
        while (wait_s := await self.refresher.round()) < 3500:
            self.clock.advance(max(1.0, wait_s))
        return (self.clock.read().boot_ns - began_ns) / 1e9


@asynccontextmanager
async def keeper(
    directory: Path, aura: DevServer, clock: PassingClock, wanted: list[str], *, hostname: str = "host"
) -> AsyncIterator[Keeper]:
    """Open *directory* as an agent does that was started just now."""
    worker = OutboxWorker(Outbox(str(directory), clock, owner="test", hostname=hostname))
    token, rng = Secret(aura.token), random.Random(1)
    limiter = Limiter(token, aura.base_url, clock, rng, directory=str(directory), boot_id="b", sleep=clock.sleep)

    def open_client(purpose: Purpose, patience_s: float) -> AuraClient:
        return AuraClient(aura.base_url, token, limiter=limiter, purpose=purpose, patience_s=patience_s)

    resolver = Resolver(worker, open_client, clock, rng, Recorder())
    refresher = Refresher(worker, resolver, clock, rng, hostname)
    refresher.replace(wanted)
    try:
        yield Keeper(refresher, resolver, worker, clock)
    finally:
        await worker.close()


@pytest.fixture
def clock() -> PassingClock:
    return PassingClock()


@pytest.mark.parametrize(("carried", "most_requests", "most_s"), [(True, 10, 1), (False, 505, 11 * 60)])
async def test_five_hundred_heartbeats_are_found_within_the_limits(
    tmp_path: Path, clock: PassingClock, *, carried: bool, most_requests: int, most_s: float
) -> None:
    """From nothing: by listings alone where they carry ping URLs, else within the budget; never with a 429.

    And a restart asks nothing at all.
    """
    names = [f"beat{number}" for number in range(500)]
    async with DevServer(rate_limit=True, list_ping_urls=carried, clock=clock) as aura:
        urls = {name: aura.create_heartbeat(name).ping_url for name in names}
        async with keeper(tmp_path / "store", aura, clock, names) as first:
            took_s = await first.settle()
            assert await first.resolved() == urls
        statuses = {request.status for request in aura.requests()}
        assert (statuses, took_s <= most_s) == ({200}, True)
        assert len(aura.requests()) <= most_requests
        aura.clear_received()
        async with keeper(tmp_path / "store", aura, clock, names) as second:
            await second.settle()
            assert await second.resolved() == urls

        assert aura.requests() == []


async def test_what_a_heartbeat_expects_is_looked_at_about_once_a_day(tmp_path: Path, clock: PassingClock) -> None:
    """One request for one heartbeat, however many the organization has; its ping URL about once a week."""
    async with DevServer(clock=clock) as aura:
        for number in range(150):
            aura.create_heartbeat(f"other{number}")
        mine = aura.create_heartbeat("mine")
        async with keeper(tmp_path / "store", aura, clock, ["mine"]) as at:
            await at.settle()
            aura.update_heartbeat("mine", expected_interval=1234)
            aura.clear_received()
            for _ in range(24 * 28):
                clock.advance(3600)
                await at.refresher.round()
            asked = [request.path.removeprefix("/api-v1/heartbeats/") for request in aura.requests()]
            assert set(asked) == {mine.id, f"{mine.id}/ping-url"}
            assert 22 <= asked.count(mine.id) <= 38
            assert 3 <= asked.count(f"{mine.id}/ping-url") <= 6
            cached = {each.name: each for each in await at.worker.call(lambda outbox: outbox.heartbeats.all())}

            assert cached["mine"].interval_s == 1234


async def test_a_heartbeat_named_by_its_id_costs_no_listing(tmp_path: Path, clock: PassingClock) -> None:
    """Two requests, however many heartbeats the organization has; an id that nobody has is told."""
    async with DevServer(clock=clock) as aura:
        for number in range(150):
            aura.create_heartbeat(f"other{number}")
        mine = aura.create_heartbeat("mine")
        async with keeper(tmp_path / "store", aura, clock, [mine.id]) as at:
            await at.settle()
            asked = [request.path.removeprefix("/api-v1/heartbeats/") for request in aura.requests()]
            assert asked == [mine.id, f"{mine.id}/ping-url"]
            nobodys = "11111111-1111-4111-8111-111111111111"
            at.refresher.replace([mine.id, nobodys])
            await at.settle()

            assert set(at.refresher.problems) == {nobodys}


async def test_an_answer_about_another_heartbeat_is_not_believed(tmp_path: Path, clock: PassingClock) -> None:
    """Whatever mixes them up in between: nothing is learnt, and it isn't asked again at once."""
    async with (
        DevServer(clock=clock) as aura,
        serving(json_answer(200, {"id": "another", "name": "backup"})) as mixed_up,
    ):
        backup = aura.create_heartbeat("backup")
        async with keeper(tmp_path / "store", aura, clock, ["backup"]) as at:
            await at.settle()
            known = await at.resolved()
            at.resolver.use(lambda *_: AuraClient(mixed_up.url, Secret(aura.token)))
            clock.advance(1.3 * DAY_S)
            async with asyncio.timeout(30):
                assert await at.refresher.round() > 0
            assert len(mixed_up.requests) == 1
            assert f"another heartbeat than {backup.id}" in at.resolver.problem
            assert await at.resolved() == known


async def test_two_hosts_look_at_different_times(tmp_path: Path, clock: PassingClock) -> None:
    """Agents that were started together don't ask together the next day."""
    async with DevServer(clock=clock) as aura:
        aura.create_heartbeat("shared")
        waits = []
        for hostname in ("this", "that", "third"):
            async with keeper(tmp_path / hostname, aura, clock, ["shared"], hostname=hostname) as at:
                waits.append(await at.refresher.round())

        assert len(set(waits)) == 3
        assert all(0.75 * DAY_S - 1 <= wait_s <= 1.25 * DAY_S for wait_s in waits)


async def test_what_cannot_be_found_is_told_and_left_alone_for_an_hour(tmp_path: Path, clock: PassingClock) -> None:
    """An unknown name and one that two heartbeats have: with both ids. The rest is found all the same."""
    async with DevServer(clock=clock) as aura:
        twins = [aura.create_heartbeat("twin"), aura.create_heartbeat("twin")]
        aura.create_heartbeat("known")
        async with keeper(tmp_path / "store", aura, clock, ["known", "twin", "unknown"]) as at:
            wait_s = await at.refresher.round()
            assert set(await at.resolved()) == {"known"}
            assert 3500 <= wait_s <= 1.2 * 3600
            assert "no heartbeat named 'unknown'" in at.refresher.problems["unknown"]
            assert all(twin.id in at.refresher.problems["twin"] for twin in twins)
            before = len(aura.requests())
            await at.refresher.round()
            assert len(aura.requests()) == before
            aura.create_heartbeat("unknown")
            aura.delete_heartbeat(twins[0].id)
            clock.advance(1.2 * 3600)
            await at.refresher.round()

            assert set(await at.resolved()) == {"known", "twin", "unknown"}
            assert at.refresher.problems == {}


async def test_a_deleted_heartbeat_gives_way_to_the_one_with_its_name(tmp_path: Path, clock: PassingClock) -> None:
    """People delete and create anew: the refresh finds the new ping URL before a ping meets a 404."""
    async with DevServer(clock=clock) as aura:
        old = aura.create_heartbeat("backup")
        async with keeper(tmp_path / "store", aura, clock, ["backup"]) as at:
            await at.settle()
            aura.delete_heartbeat(old.id)
            new = aura.create_heartbeat("backup")
            clock.advance(1.3 * DAY_S)
            await at.settle()

            assert (await at.resolved())["backup"] == new.ping_url


async def test_a_heartbeat_that_is_gone_costs_one_listing_an_hour(tmp_path: Path, clock: PassingClock) -> None:
    """Its cached ping URL stays, somebody is told, and what else is due is asked for all the same."""
    async with DevServer(clock=clock) as aura:
        gone, kept = aura.create_heartbeat("gone"), aura.create_heartbeat("kept")
        async with keeper(tmp_path / "store", aura, clock, ["gone", "kept"]) as at:
            await at.settle()
            known = await at.resolved()
            aura.delete_heartbeat(gone.id)
            clock.advance(9 * DAY_S)
            aura.clear_received()
            async with asyncio.timeout(30):
                wait_s = await at.refresher.round()
            asked = Counter(request.path.removeprefix("/api-v1/heartbeats") for request in aura.requests())
            assert asked == {"": 1, f"/{kept.id}/ping-url": 1}
            assert 3500 <= wait_s <= 1.2 * 3600
            assert "no heartbeat named 'gone'" in at.refresher.problems["gone"]

            assert await at.resolved() == known


@pytest.mark.parametrize(
    ("status", "retry_after", "kind", "apart_s"),
    [
        (401, None, "auth", 0),
        (403, None, "auth", 0),
        (404, None, "api", 0),  # also for the list of all, which an Aura always has
        (500, None, "api", 0),
        (429, 120, "api", 120),
        (429, 0, "api", 0),
    ],
)
async def test_an_api_that_fails_drops_nothing_and_is_asked_slowly(
    tmp_path: Path, clock: PassingClock, status: int, retry_after: int | None, kind: str, apart_s: float
) -> None:
    """The agent is degraded, says why, and recovers by itself."""
    async with DevServer(clock=clock) as aura:
        aura.create_heartbeat("backup")
        async with keeper(tmp_path / "store", aura, clock, ["backup"]) as at:
            await at.settle()
            known = await at.resolved()
            aura.set_fault("status", target="api", status=status, retry_after=retry_after)
            clock.advance(1.3 * DAY_S)
            aura.clear_received()
            for _ in range(30):
                clock.advance(max(1.0, await at.refresher.round()))
            assert at.resolver.standing.degraded == kind
            assert at.resolver.problem.startswith(f"degraded: {kind}: the Aura API")
            asked = sorted({request.at.timestamp() for request in aura.requests()})  # a round may take two
            assert all(later - earlier >= apart_s for earlier, later in pairwise(asked))
            assert (asked[-1] - asked[0]) / len(asked) > 60
            assert await at.resolved() == known
            aura.clear_faults()
            await at.settle()

            assert at.resolver.problem == ""


async def test_one_heartbeat_that_is_answered_with_errors_holds_up_no_other(
    tmp_path: Path, clock: PassingClock
) -> None:
    """It is told and left alone for an hour; the API as a whole isn't ill."""
    async with DevServer(clock=clock) as aura:
        first, second = (aura.create_heartbeat(name) for name in ("first", "second"))
        aura.set_fault("status", target="api", heartbeat="first", status=500)
        async with keeper(tmp_path / "store", aura, clock, ["first", "second"]) as at:
            wait_s = await at.refresher.round()
            assert set(await at.resolved()) == {"second"}
            assert at.resolver.problem == ""
            assert "500" in at.refresher.problems["first"]
            assert 3500 <= wait_s <= 1.2 * 3600
            aura.clear_faults()
            clock.advance(1.2 * 3600)
            await at.refresher.round()

            assert await at.resolved() == {"first": first.ping_url, "second": second.ping_url}


async def test_a_listing_that_comes_back_empty_is_not_believed(tmp_path: Path, clock: PassingClock) -> None:
    """All heartbeats gone at once is more likely the service's fault: what is known stays, and so do its pings."""
    async with DevServer(clock=clock) as aura:
        beat = aura.create_heartbeat("backup")
        async with keeper(tmp_path / "store", aura, clock, ["backup"]) as at:
            await at.settle()
            known = await at.resolved()
            aura.delete_heartbeat(beat.id)
            at.refresher.replace(["backup", "another"])
            await at.refresher.round()

            assert at.resolver.standing.degraded == "api"
            assert "lists no heartbeat any more" in at.resolver.problem
            assert await at.resolved() == known

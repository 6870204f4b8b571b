"""From names to ping URLs against an embedded Aura: few requests, and a cache that nothing erases."""

import random
from pathlib import Path

import pytest

from aura_agent.clock import SystemClock
from aura_agent.delivery.standing import Standing
from aura_agent.devserver.server import DevServer
from tests.delivery.dispatch import Dispatch, dispatch
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_one_listing_serves_many_names(aura: DevServer, at: Dispatch) -> None:
    """And afterwards the API isn't asked at all."""
    names = [f"beat{number}" for number in range(5)]
    for name in names:
        aura.create_heartbeat(name)
        await at.run(name)
    await at.drain()
    assert sorted(at.api_requests()) == ["list"] + ["url"] * 5
    for name in names:
        await at.run(name)
    await at.drain()

    assert len(at.api_requests()) == 6
    assert len(aura.pings()) == 10


async def test_the_cache_serves_another_process_without_a_token(tmp_path: Path, aura: DevServer, at: Dispatch) -> None:
    """It is in the store, and works when the API doesn't."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.set_fault("status", target="api", status=500)
    run_id = await at.run("backup")
    async with dispatch(tmp_path / "store", aura, owner="next", token="") as following:
        await following.drain()

    assert await at.state(run_id) == "delivered"


async def test_a_failed_or_an_empty_listing_erases_nothing(aura: DevServer, at: Dispatch) -> None:
    """The ping URL that worked goes on working."""
    backup = aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    await at.worker.call(lambda outbox: outbox.remember([]))
    aura.set_fault("status", target="api", status=500, times=1)
    await at.run("nobody knows")
    run_id = await at.run("backup")
    by_id = await at.run(backup.id)
    await at.drain()

    assert await at.state(run_id) == "superseded"
    assert await at.state(by_id) == "delivered"


async def test_an_unknown_name_is_parked_and_lists_once_a_minute(aura: DevServer, at: Dispatch) -> None:
    """However many successes of however many unknown names come."""
    for _ in range(3):
        for name in ("this", "that"):
            run_id = await at.run(name)
        await at.drain()

    assert at.api_requests() == ["list"]
    row = (await at.rows())[run_id]
    assert row.state == "parked"
    assert "no heartbeat named 'that'" in row.reason


async def test_a_heartbeat_created_after_a_listing_is_not_left_for_an_hour(aura: DevServer, at: Dispatch) -> None:
    """A listing of some seconds ago answers for its name, too: the ping is tried again when that is a minute old."""
    await at.run("other")
    await at.drain()
    aura.create_heartbeat("backup")

    run_id = await at.run("backup")
    await at.drain()

    rows = await at.rows()
    next_try_s = rows[run_id].next_try_s
    assert next_try_s is not None
    assert next_try_s <= 60
    assert all((row.next_try_s or 0) > 3000 for row in rows.values() if row.heartbeat == "other")
    assert at.api_requests() == ["list"]


async def test_a_heartbeat_that_is_created_later_is_found(aura: DevServer, at: Dispatch) -> None:
    """The name's next success, a minute later, asks again."""
    await at.run("backup")
    await at.drain()
    aura.create_heartbeat("backup")
    at.resolver._listed_boot_ns = None  # the listing is older than a minute
    run_id = await at.run("backup")
    await at.drain()

    assert await at.state(run_id) == "delivered"


async def test_while_the_api_asks_for_patience_nobody_asks_it(aura: DevServer, at: Dispatch) -> None:
    """One 429 with a Retry-After holds for every name; a heartbeat that is known is pinged all the same."""
    aura.create_heartbeat("known")
    await at.run("known")
    await at.drain()
    aura.create_heartbeat("new")
    aura.clear_received()
    at.resolver._listed_boot_ns = None  # the listing is older than a minute
    aura.set_fault("status", target="api", status=429, retry_after=1800)
    for name in ("new", "newer", "known"):
        await at.run(name)
        await at.drain()

    assert at.api_requests() == ["list"]
    assert [ping.name for ping in aura.pings()] == ["known"]
    rows = [row for row in (await at.rows()).values() if row.heartbeat != "known"]
    assert all(row.state == "waiting" and (row.next_try_s or 0) > 1700 for row in rows)
    assert at.heard.count("api.failed") == 1


async def test_a_base_url_that_is_not_an_auras_is_told(aura: DevServer, at: Dispatch) -> None:
    """There is no list of heartbeats: that is no answer about one of them."""
    aura.set_fault("status", target="api", status=404)
    run_id = await at.run("backup")
    await at.courier.drain(0.5, retry=False)

    row = (await at.rows())[run_id]
    assert "degraded: api" in row.reason
    assert "is the base URL right?" in row.reason


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_one_heartbeat_that_is_refused_holds_up_no_other(aura: DevServer, at: Dispatch, status: int) -> None:
    """The error is that heartbeat's: the others get their URLs and their pings."""
    for name in ("a", "b", "c"):
        aura.create_heartbeat(name)
    aura.set_fault("status", target="api", heartbeat="a", status=status, times=1)
    for name in ("a", "b", "c"):
        await at.run(name)

    async with at.running():
        await until(lambda: {ping.name for ping in aura.pings()} >= {"b", "c"}, what="the pings of the others")


async def test_what_was_resolved_before_the_api_failed_is_sent(aura: DevServer, at: Dispatch) -> None:
    """The limit is reached in the middle: the streams that have their URL don't wait with the rest."""
    for name in ("a", "b", "c"):
        aura.create_heartbeat(name)
        await at.run(name)
    aura.set_fault("status", target="api", heartbeat="c", status=429, retry_after=1800)
    await at.drain()

    assert sorted(ping.name for ping in aura.pings()) == ["a", "b"]


async def test_hundreds_of_new_heartbeats_do_not_use_up_the_tokens_minute(aura: DevServer, at: Dispatch) -> None:
    """The rest waits for the next minute; the API is shared with a fleet."""
    for number in range(70):
        aura.create_heartbeat(f"beat{number}")
        await at.run(f"beat{number}")
    await at.drain()

    assert at.api_requests().count("url") == 59
    assert len(aura.pings()) == 59
    waiting = [row for row in (await at.rows()).values() if row.state == "waiting"]
    assert len(waiting) == 11
    assert all(0 < (row.next_try_s or 0) <= 60 for row in waiting)
    assert all("60 requests a minute" in row.reason for row in waiting)


async def test_without_a_token_names_wait_and_say_why(tmp_path: Path, aura: DevServer) -> None:
    """And a ping URL needs none."""
    beat = aura.create_heartbeat("beat")
    async with dispatch(tmp_path / "store", aura, token="") as at:
        named = await at.run("beat")
        by_url = await at.run("", ref=f"url:{beat.ping_url}")
        await at.drain()

        row = (await at.rows())[named]
        assert (row.state, "no API token" in row.reason) == ("parked", True)
        assert await at.state(by_url) == "delivered"


async def test_a_url_and_a_name_of_one_heartbeat_become_one_stream(aura: DevServer, at: Dispatch) -> None:
    """Once the API has told which it is, what was delivered under the URL counts for the name."""
    beat = aura.create_heartbeat("beat")
    early = await at.run("", ref=f"url:{beat.ping_url}")
    await at.drain()
    await at.run("beat")
    late = await at.run("", ref=f"url:{beat.ping_url}")
    await at.drain()
    third = await at.run("beat")
    fourth = await at.run("", ref=f"url:{beat.ping_url}")
    await at.drain()

    states = [await at.state(run) for run in (early, late, third, fourth)]
    assert states == ["delivered", "delivered", "superseded", "delivered"]


async def test_what_the_store_could_not_be_told_of_is_looked_up_again(aura: DevServer, at: Dispatch) -> None:
    """The disk was full as the ping URL came: its ping goes out some seconds after there is room, at the latest."""
    aura.create_heartbeat("backup")
    full = "CREATE TRIGGER full BEFORE UPDATE OF heartbeat_id ON streams BEGIN SELECT RAISE(ABORT, 'no space'); END"
    await at.worker.call(lambda outbox: outbox.connection.execute(full).fetchone())
    async with at.running():
        run_id = await at.run("backup")
        await at.hears("store.failed")
        await at.worker.call(lambda outbox: outbox.connection.execute("DROP TRIGGER full").fetchone())
        await at.settled(run_id, "delivered")

    assert at.heard.count("store.recovered") == 1


class _LongAfterFailures(random.Random):
    """An hour where it jitters over more than a second, else nothing."""

    def uniform(self, a: float, b: float) -> float:
        return 3600.0 if b > 1.0 else a


async def _known_beside(aura: DevServer, at: Dispatch) -> str:
    """Return the ref of a heartbeat for which nothing is to be asked; whatever else fails is left alone for long."""
    at.resolver.standing = Standing(SystemClock(), _LongAfterFailures(), at.heard)
    return f"url:{aura.create_heartbeat('known').ping_url}"


async def test_a_name_is_asked_for_soon_once_the_network_is_back(aura: DevServer, at: Dispatch) -> None:
    """The API couldn't be reached, and is left alone for an hour; another heartbeat's ping gets through: ask again."""
    known = await _known_beside(aura, at)
    aura.create_heartbeat("unknown")
    aura.set_fault("drop_after", target="api")
    async with at.running():
        waiting = await at.run("unknown")
        await at.hears("api.failed")
        aura.clear_faults()
        await at.run("known", ref=known)
        await at.settled(waiting, "delivered")


async def test_an_api_that_alone_gives_no_answer_is_not_asked_at_each_ping(aura: DevServer, at: Dispatch) -> None:
    """Pings get through all the time: one of them has it asked once more, the others don't."""
    known = await _known_beside(aura, at)
    aura.set_fault("drop_after", target="api")
    async with at.running():
        await at.run("unknown")
        await at.hears("api.failed")
        for _ in range(5):
            await at.settled(await at.run("known", ref=known), "delivered")
            await at.hears("api.failed", times=2)

    assert at.heard.count("api.failed") == 2


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_an_api_that_answers_is_left_alone_as_long_as_it_says(aura: DevServer, at: Dispatch, status: int) -> None:
    """It is there, and doesn't know us, or has too much to do, or is ill: a ping that gets through says nothing of it."""
    known = await _known_beside(aura, at)
    aura.set_fault("status", target="api", status=status)
    async with at.running():
        await at.run("unknown")
        await at.hears("api.failed")
        for _ in range(3):
            await at.settled(await at.run("known", ref=known), "delivered")

    assert at.heard.count("api.failed") == 1

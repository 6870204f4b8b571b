"""Pings, the judge and the incidents that it opens."""

import asyncio

import httpx
import pytest

from aura_agent.devserver.instants import from_us
from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import START_NS, StillClock
from tests.devserver.conftest import client
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_pings_are_told_in_order_of_arrival_with_what_they_carried(
    aura: DevServer, anyone: httpx.AsyncClient
) -> None:
    """Which heartbeat, when, which body, which run."""
    first, second = aura.create_heartbeat("first"), aura.create_heartbeat("second")

    await anyone.post(first.ping_url, content="ok in 3s", headers={"X-Aura-Run": "r-1"})
    await anyone.post(second.ping_url, content=b"\xff")
    await anyone.post(first.ping_url)

    pings = aura.pings()
    assert [(ping.name, ping.body, ping.run, ping.accepted) for ping in pings] == [
        ("first", "ok in 3s", "r-1", True),
        ("second", "\ufffd", None, True),
        ("first", "", None, True),
    ]
    assert pings == sorted(pings, key=lambda ping: ping.at)
    assert aura.pings("first") == aura.pings(first.id) == [pings[0], pings[2]]
    assert aura.status("first").last_ping_at == pings[2].at


async def test_a_body_over_the_limit_is_413_and_the_ping_does_not_count(anyone: httpx.AsyncClient) -> None:
    """The ping is listed as not accepted; without its body it counts."""
    async with DevServer(max_ping_body_bytes=10) as aura:
        heartbeat = aura.create_heartbeat("backup")

        answers = [await anyone.post(heartbeat.ping_url, content=body) for body in (b"x" * 11, b"x" * 10, b"")]

        assert [answer.status_code for answer in answers] == [413, 200, 200]
        assert [ping.accepted for ping in aura.pings()] == [False, True, True]


async def test_a_missing_ping_opens_an_incident_and_the_next_one_resolves_it(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """The incident begins at the deadline, however late anyone looks, and ends with the ping."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=30)
    await anyone.post(heartbeat.ping_url)
    clock.advance(90)
    assert timed.status("backup").status == "up"
    assert timed.incidents() == []

    clock.advance(1000)

    assert timed.status("backup").status == "down"
    [incident] = timed.incidents("backup")
    assert (incident.status, incident.heartbeat_id, incident.resolved_at) == ("open", heartbeat.id, None)
    assert incident.started_at == from_us(START_NS // 1000 + 90_000_000)
    clock.advance(10)
    await anyone.post(heartbeat.ping_url)
    assert timed.status("backup").status == "up"
    [resolved] = timed.incidents()
    assert (resolved.id, resolved.status) == (incident.id, "resolved")
    assert resolved.resolved_at == from_us(START_NS // 1000 + 1_100_000_000)


async def test_a_late_ping_leaves_an_incident_even_if_nobody_looked_meanwhile(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """The ping itself is what finds the deadline missed: the incident was open, and is resolved at once."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=0)
    await anyone.post(heartbeat.ping_url)
    clock.advance(3600)

    await anyone.post(heartbeat.ping_url)

    assert [incident.status for incident in timed.incidents()] == ["resolved"]
    assert timed.status("backup").status == "up"


async def test_each_missed_deadline_is_one_incident(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """Looking often doesn't multiply incidents; a second outage is a second one."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=0)
    for _ in range(2):
        await anyone.post(heartbeat.ping_url)
        for _ in range(5):
            clock.advance(100)
            assert timed.status("backup").status == "down"

    assert [incident.status for incident in timed.incidents()] == ["resolved", "open"]


async def test_a_heartbeat_that_was_never_pinged_stays_pending(timed: DevServer, clock: StillClock) -> None:
    """Nobody is alerted about a job that has yet to run for the first time."""
    timed.create_heartbeat("backup", expected_interval=1, grace_period=0)

    clock.advance(1_000_000)

    assert timed.status("backup").status == "pending"
    assert timed.incidents() == []


async def test_a_pause_ends_the_waiting_and_its_end_starts_it_anew(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """Paused: no incident, an open one is resolved; resumed: a whole interval and grace to ping."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=0)
    await anyone.post(heartbeat.ping_url)
    clock.advance(61)
    assert timed.status("backup").status == "down"
    async with client(timed, timed.token) as api:
        path = f"/heartbeats/{heartbeat.id}"
        assert (await api.patch(path, json={"paused": True})).json()["status"] == "paused"
        assert [incident.status for incident in timed.incidents()] == ["resolved"]
        clock.advance(10_000)
        assert (await api.patch(path, json={"paused": False})).json()["status"] == "up"
        clock.advance(60)
        assert (await api.get(path)).json()["status"] == "up"
        clock.advance(1)
        assert (await api.get(path)).json()["status"] == "down"
        assert [row["status"] for row in (await api.get("/incidents")).json()["data"]] == ["open", "resolved"]


async def test_a_change_of_the_interval_is_judged_at_once(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """A shorter interval makes it late now, a longer one ends that."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=600, grace_period=0)
    await anyone.post(heartbeat.ping_url)
    clock.advance(300)

    timed.update_heartbeat("backup", expected_interval=60)
    assert timed.status("backup").status == "down"
    assert [incident.status for incident in timed.incidents()] == ["open"]

    timed.update_heartbeat("backup", expected_interval=900)
    assert timed.status("backup").status == "up"
    assert [incident.status for incident in timed.incidents()] == ["resolved"]


async def test_the_timer_opens_incidents_without_anyone_asking(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """Straight from the table, past every read that would settle first."""
    slow, quick = aura.create_heartbeat("slow", 3600, 0), aura.create_heartbeat("quick", 1, 0)
    await anyone.post(slow.ping_url)
    await anyone.post(quick.ping_url)

    def opened() -> list[str]:
        return [row[0] for row in aura.service.db.execute("SELECT heartbeat_id FROM incidents")]

    await until(opened, what="the incident of the quick heartbeat")

    assert opened() == [quick.id]


async def test_incidents_are_listed_by_page_and_belong_to_their_organization(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """Newest first; another organization finds none of them."""
    for number in range(3):
        heartbeat = timed.create_heartbeat(f"job-{number}", expected_interval=10 * (number + 1), grace_period=0)
        await anyone.post(heartbeat.ping_url)
    for _ in range(3):
        clock.advance(10.5)
        timed.incidents()
    async with client(timed, timed.token) as api, client(timed, timed.create_token("write", "another")) as other:
        first = (await api.get("/incidents", params={"limit": 2})).json()
        second = (await api.get("/incidents", params={"limit": 2, "cursor": first["next_cursor"]})).json()
        one = await api.get(f"/incidents/{first['data'][0]['id']}")
        assert one.json() == first["data"][0]
        assert (await other.get("/incidents")).json()["data"] == []
        assert (await other.get(f"/incidents/{first['data'][0]['id']}")).status_code == 404

    listed = first["data"] + second["data"]
    assert second["next_cursor"] is None
    assert [row["heartbeat_id"] for row in listed] == [timed.heartbeat(f"job-{number}").id for number in (2, 1, 0)]


async def test_hundreds_of_pings_at_once_all_count(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """None is lost, none counted twice."""
    heartbeats = [aura.create_heartbeat(f"job-{number}") for number in range(10)]

    answers = await asyncio.gather(
        *(anyone.post(heartbeats[number % 10].ping_url, content=str(number), timeout=60) for number in range(300))
    )

    assert all(answer.is_success for answer in answers)
    assert sorted(int(ping.body) for ping in aura.pings()) == list(range(300))
    assert {aura.status(heartbeat.id).status for heartbeat in heartbeats} == {"up"}

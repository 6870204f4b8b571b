"""Incidents, resolved by hand."""

import httpx
import pytest

from aura_agent.devserver.instants import from_us
from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import START_NS, StillClock
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio


async def _late(timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient) -> str:
    """Return the id of the open incident of a heartbeat that is down."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=0)
    await anyone.post(heartbeat.ping_url)
    clock.advance(100)
    [incident] = timed.incidents()
    return incident.id


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"resolution_notes": null}', None),
        (b'{"resolution_notes": "Restart fixed it"}', "Restart fixed it"),
    ],
)
async def test_an_incident_is_resolved_with_or_without_notes(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient, content: bytes, notes: str | None
) -> None:
    """The answer is the incident as it is from then on; without a body there are no notes."""
    path = f"/incidents/{await _late(timed, clock, anyone)}"
    async with client(timed, timed.token) as api:
        before = (await api.get(path)).json()
        resolved = await api.post(path + "/resolve", content=content)
        assert resolved.status_code == 200
        assert (await api.get(path)).json() == resolved.json()

    assert resolved.json() == {
        **before,
        "status": "resolved",
        "resolved_at": from_us(START_NS // 1000 + 100_000_000).isoformat().replace("+00:00", "Z"),
        "resolution_notes": notes,
    }


async def test_resolving_twice_is_a_conflict(timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient) -> None:
    """409, and the first notes stay; also if it was the recovery that resolved it."""
    path = f"/incidents/{await _late(timed, clock, anyone)}"
    async with client(timed, timed.token) as api:
        await api.post(path + "/resolve", json={"resolution_notes": "first"})
        again = await api.post(path + "/resolve", json={"resolution_notes": "second"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
        assert (await api.get(path)).json()["resolution_notes"] == "first"


async def test_a_heartbeat_still_down_opens_no_second_incident_after_the_hand(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """The missed deadline had its incident; the next one that is missed gets one of its own."""
    incident = await _late(timed, clock, anyone)
    async with client(timed, timed.token) as api:
        await api.post(f"/incidents/{incident}/resolve")
    clock.advance(10_000)
    assert timed.status("backup").status == "down"
    assert [each.status for each in timed.incidents()] == ["resolved"]

    await anyone.post(timed.heartbeat("backup").ping_url)
    clock.advance(61)

    assert [each.status for each in timed.incidents()] == ["resolved", "open"]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"resolution_notes": 5}', 400), (b'{"notes": "x"}', 400), (b"[]", 400), (b"{", 400)],
)
async def test_a_bad_resolution_resolves_nothing(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient, content: bytes, status: int
) -> None:
    """Wrong types and unknown fields are 400."""
    incident = await _late(timed, clock, anyone)
    async with client(timed, timed.token) as api:
        assert (await api.post(f"/incidents/{incident}/resolve", content=content)).status_code == status

    assert [each.status for each in timed.incidents()] == ["open"]

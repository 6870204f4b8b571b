"""What the client writes: exactly the fields that were given, once, and what it makes of the answer."""

import json

import pytest
from msgspec import UNSET

from aura_agent.api import ApiUnreachable, AuraClient, BadRequest, NotFound
from aura_agent.secret import Secret
from tests.api.raw_server import RawServer, answer, closed_port, json_answer, reset, serving

pytestmark = pytest.mark.anyio

HEARTBEAT = json_answer(201, {"id": "hb1", "name": "nightly", "expected_interval": 86400})


def client(base_url: str) -> AuraClient:
    return AuraClient(base_url, Secret("aura_live_0123456789abcdef"))


def sent(server: RawServer) -> tuple[str, str, object]:
    """Return method, target and decoded body of the one request."""
    [request] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    if body:
        assert b"content-type: application/json" in head.lower()
    method, target, _ = head.decode().split(" ", 2)
    return method, target, json.loads(body) if body else None


async def test_create_sends_what_was_given_and_reads_what_came_of_it() -> None:
    """What is unset is the service's choice; lengths go in whole seconds; unknown fields go along."""
    async with serving(HEARTBEAT) as server, client(server.url) as aura:
        heartbeat = await aura.create_heartbeat(name="nightly", expected_interval_s=86400.0, extra={"tags": ["db"]})

    assert sent(server) == ("POST", "/heartbeats", {"name": "nightly", "expected_interval": 86400, "tags": ["db"]})
    assert b"86400.0" not in server.requests[0]
    assert (heartbeat.id, heartbeat.expected_interval_s, heartbeat.grace_period_s) == ("hb1", 86400.0, None)


@pytest.mark.parametrize(
    ("team_id", "expected"),
    [
        (UNSET, {"grace_period": 1.5}),
        (None, {"grace_period": 1.5, "team_id": None}),
        ("t1", {"team_id": "t1", "grace_period": 1.5}),
    ],
)
async def test_update_tells_no_team_from_no_change(team_id: object, expected: object) -> None:
    """Null leaves the team, an absent field leaves the heartbeat where it is."""
    async with serving(HEARTBEAT) as server, client(server.url) as aura:
        await aura.update_heartbeat("a/b", grace_period_s=1.5, team_id=team_id)  # type: ignore[arg-type]

    assert sent(server) == ("PATCH", "/heartbeats/a%2Fb", expected)


@pytest.mark.parametrize(
    ("status", "may_write"), [(403, False), (404, True), (200, None), (400, None), (401, None), (500, None)]
)
async def test_whether_the_token_may_write_is_asked_of_nobody(status: int, may_write: bool | None) -> None:
    """An empty change of a heartbeat that can't exist; an answer that says neither is no answer."""
    async with serving(json_answer(status, {})) as server, client(server.url) as aura:
        assert await aura.may_write() is may_write

    assert sent(server) == ("PATCH", "/heartbeats/00000000-0000-0000-0000-000000000000", {})


@pytest.mark.parametrize("reply", [answer(204), answer(200), json_answer(200, {"deleted": True})])
async def test_delete_needs_no_body_in_the_answer(reply: bytes) -> None:
    """Any 2xx means that it is gone, whatever comes with it."""
    async with serving(reply) as server, client(server.url) as aura:
        await aura.delete_heartbeat("hb1")

    assert sent(server) == ("DELETE", "/heartbeats/hb1", None)


async def test_a_write_that_may_have_been_done_is_not_repeated() -> None:
    """A connection that breaks after the request is told, once: doing it again could do it twice."""
    async with serving(reset, HEARTBEAT) as server, client(server.url) as aura:
        with pytest.raises(ApiUnreachable, match="POST /heartbeats may have been done all the same"):
            await aura.create_heartbeat(name="nightly")

    assert len(server.requests) == 1


async def test_a_write_that_was_never_sent_is_told_from_one_that_may_have_been() -> None:
    """A refused connection leaves nothing in doubt, and neither does a read."""
    async with client(f"http://127.0.0.1:{closed_port()}") as aura:
        with pytest.raises(ApiUnreachable) as refused:
            await aura.create_heartbeat(name="nightly")
    async with serving(reset) as server, client(server.url) as aura:
        with pytest.raises(ApiUnreachable) as unread:
            await aura.get_heartbeat("hb1")

    assert refused.value.undecided == unread.value.undecided == ""
    assert "may have been done" not in f"{refused.value}{unread.value}"


async def test_monitors_are_written_and_incidents_resolved_as_the_reference_shows() -> None:
    """The bodies of its examples; notes are left out if there are none."""
    async with serving(json_answer(201, {"id": "m1"})) as server, client(server.url) as aura:
        await aura.create_monitor(name="api.example.com", url="https://api.example.com/health", check_interval_s=60)
    async with serving(json_answer(200, {"id": "m1"})) as other, client(other.url) as aura:
        await aura.update_monitor("m1", url="https://api.example.com/")
    async with serving(json_answer(200, {"id": "i1", "status": "resolved"})) as third, client(third.url) as aura:
        incident = await aura.resolve_incident("i1", resolution_notes="Restart fixed it")
    async with serving(json_answer(200, {"id": "i1"})) as fourth, client(fourth.url) as aura:
        await aura.resolve_incident("i1")

    monitor = {"name": "api.example.com", "url": "https://api.example.com/health", "check_interval": 60}
    assert sent(server) == ("POST", "/monitors", monitor)
    assert sent(other) == ("PATCH", "/monitors/m1", {"url": "https://api.example.com/"})
    assert sent(third) == ("POST", "/incidents/i1/resolve", {"resolution_notes": "Restart fixed it"})
    assert sent(fourth) == ("POST", "/incidents/i1/resolve", {})
    assert incident.status == "resolved"


async def test_both_ways_to_a_monitors_checks() -> None:
    """Below the monitor and as a filter, which every page keeps."""
    first, last = ({"data": [{"id": name}], "next_cursor": cursor} for name, cursor in (("1", "x&y"), ("2", None)))
    async with (
        serving(*[json_answer(200, page) for page in (first, last, first, last)]) as server,
        client(server.url) as aura,
    ):
        below = [check.id async for check in aura.list_monitor_checks("m/1", limit=1)]
        filtered = [check.id async for check in aura.list_checks("m/1", limit=1)]

    assert below == filtered == ["1", "2"]
    assert server.targets == [
        "/monitors/m%2F1/checks?limit=1",
        "/monitors/m%2F1/checks?limit=1&cursor=x%26y",
        "/checks?limit=1&monitor_id=m%2F1",
        "/checks?limit=1&monitor_id=m%2F1&cursor=x%26y",
    ]


@pytest.mark.parametrize("nonsense", ["", ".", "..", "a\nb"])
async def test_what_can_be_no_id_is_not_asked_for(nonsense: str) -> None:
    """DELETE /heartbeats/ of all things must never be sent."""
    async with serving(answer(204)) as server, client(server.url) as aura:
        with pytest.raises(NotFound):
            await aura.delete_heartbeat(nonsense)
        with pytest.raises(NotFound):
            await aura.update_heartbeat(nonsense, name="x")
        with pytest.raises(NotFound):
            _ = [check async for check in aura.list_checks(nonsense)]

    assert server.requests == []


@pytest.mark.parametrize(
    "extra", [{"odd": float("nan")}, {"odd": float("inf")}, {"odd": ["\udcff"]}, {"odd": {1, 2}}], ids=repr
)
async def test_what_json_does_not_have_is_refused_before_it_is_sent(extra: dict[str, object]) -> None:
    """NaN never becomes null on the way; the error says so in one line."""
    async with serving(HEARTBEAT) as server, client(server.url) as aura:
        with pytest.raises(BadRequest, match="can't be sent as JSON") as caught:
            await aura.create_heartbeat(name="nightly", extra=extra)

    assert "\n" not in str(caught.value)
    assert server.requests == []

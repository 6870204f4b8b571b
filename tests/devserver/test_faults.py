"""Each fault, as a real client meets it."""

import asyncio
import os
import socket
from collections.abc import Awaitable
from typing import Any

import httpx
import psutil
import pytest

from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import StillClock
from tests.devserver.conftest import client
from tests.waiting import until

pytestmark = pytest.mark.anyio

_SHORT = httpx.Timeout(20, read=0.2)


@pytest.mark.parametrize("status", [500, 503, 429, 404, 410, 413, 302, 204])
async def test_status_answers_as_ordered_and_the_ping_does_not_count(
    aura: DevServer, anyone: httpx.AsyncClient, status: int
) -> None:
    """The status with its headers, as often as ordered, then the truth again."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("status", target="ping", status=status, times=2, retry_after=7, location="/elsewhere")

    answers = [await anyone.post(heartbeat.ping_url, content="hello") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[0].headers["location"] == "/elsewhere"
    assert [(ping.accepted, ping.body) for ping in aura.pings()] == [(False, "hello")] * 2 + [(True, "hello")]
    assert [request.status for request in aura.requests()] == [status, status, 200]
    assert [request.fault for request in aura.requests()] == ["status", "status", None]


async def test_hang_takes_the_request_and_never_answers(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """The client's own timeout ends it; nothing counted."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("hang", target="ping")

    with pytest.raises(httpx.ReadTimeout):
        await anyone.post(heartbeat.ping_url, content="x", timeout=_SHORT)

    assert [(ping.accepted, ping.body) for ping in aura.pings()] == [(False, "x")]
    assert aura.requests()[-1].status is None
    aura.clear_faults()
    assert (await anyone.post(heartbeat.ping_url)).is_success


async def test_clearing_the_faults_frees_a_client_that_hangs(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """Its connection ends, without an answer."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("hang", times=1)
    hanging = asyncio.create_task(_outcome(anyone.post(heartbeat.ping_url)))
    await until(aura.pings)

    aura.clear_faults()

    assert isinstance(await hanging, httpx.TransportError)


async def test_drop_breaks_the_connection_in_mid_body(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """The server acted, the status line came, the body is shorter than its Content-Length."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("drop", times=2)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await anyone.post(heartbeat.ping_url)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await api.get("/heartbeats")

    assert [ping.accepted for ping in aura.pings()] == [True]
    assert [request.status for request in aura.requests()] == [200, 200]
    assert (await api.get("/heartbeats")).status_code == 200


async def test_drop_after_counts_the_ping_and_answers_nothing(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """Delivered without the client's knowing: the heartbeat is up."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("drop_after", target="ping", times=1)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await anyone.post(heartbeat.ping_url)

    assert aura.status("backup").status == "up"
    assert [ping.accepted for ping in aura.pings()] == [True]
    assert aura.requests()[-1].status is None


async def test_slow_answers_late_and_drips(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """The ping counts at its arrival; the answer starts after the delay, and its body comes byte by byte."""
    heartbeat = aura.create_heartbeat("backup")
    aura.set_fault("slow", target="ping", delay_s=3600, times=1)
    waiting = asyncio.create_task(anyone.post(heartbeat.ping_url, timeout=60))
    await until(aura.pings)
    assert aura.status("backup").status == "up"
    assert not waiting.done()
    aura.clear_faults()
    assert (await waiting).json() == {"status": "ok"}

    aura.set_fault("slow", target="ping", drip_s=3600, times=1)
    async with anyone.stream("POST", heartbeat.ping_url, timeout=60) as dripping:
        body = dripping.aiter_raw()
        assert await anext(body) == b"{"
        aura.clear_faults()
        assert b"".join([piece async for piece in body]) == b'"status":"ok"}'


async def test_refuse_closes_the_port_and_accept_opens_the_same_one(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """The kernel refuses, also who was connected; meanwhile nobody else can have the port; then all is as before."""
    heartbeat = aura.create_heartbeat("backup")
    assert (await anyone.post(heartbeat.ping_url)).is_success
    port = aura.port

    await aura.refuse()

    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            await anyone.post(heartbeat.ping_url)
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", port))
    await aura.accept()
    assert aura.port == port
    assert (await anyone.post(heartbeat.ping_url)).is_success
    assert len(aura.pings()) == 2


async def test_a_child_that_was_just_forked_keeps_no_port_open(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """It has a copy of every descriptor until it becomes another program: here a copy of our own stands for it."""
    heartbeat = aura.create_heartbeat("backup")
    connections = psutil.Process().net_connections("tcp4")
    [listening] = [each.fd for each in connections if each.status == "LISTEN" and each.laddr.port == aura.port]
    copy = os.dup(listening)
    try:
        await aura.refuse()
        with pytest.raises(httpx.ConnectError):
            await anyone.post(heartbeat.ping_url)
        await aura.accept()
        assert (await anyone.post(heartbeat.ping_url)).is_success
    finally:
        os.close(copy)


async def test_opening_twice_at_once_opens_once(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """As when a refusal ends by itself while somebody ends it; closing in between closes."""
    heartbeat = aura.create_heartbeat("backup")
    await aura.refuse()
    await asyncio.gather(aura.accept(), aura.accept())
    assert (await anyone.post(heartbeat.ping_url)).is_success
    await aura.refuse()
    await asyncio.gather(aura.accept(), aura.refuse())
    with pytest.raises(httpx.ConnectError):
        await anyone.post(heartbeat.ping_url)


async def test_refuse_for_a_while_ends_by_itself(aura: DevServer, api: httpx.AsyncClient) -> None:
    """Ordered over the control path, whose own answer still comes."""
    answer = await api.post(aura.control_url + "/faults", json={"kind": "refuse", "for_s": 0.3})
    assert answer.status_code == 201
    with pytest.raises(httpx.ConnectError):
        await api.get("/heartbeats")

    await until(lambda: aura._listener.listening, what="the port being open again")

    assert (await api.get("/heartbeats")).status_code == 200


async def test_a_fault_keeps_to_its_target_and_its_heartbeat(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """Pings of one heartbeat fail, others and the API don't; and the other way round."""
    first, second = aura.create_heartbeat("first"), aura.create_heartbeat("second")

    async def statuses() -> list[int]:
        answers = [
            await anyone.post(first.ping_url),
            await anyone.post(second.ping_url),
            await api.get(f"/heartbeats/{first.id}"),
            await api.get(f"/heartbeats/{second.id}"),
            await api.get("/heartbeats"),
        ]
        return [answer.status_code for answer in answers]

    aura.set_fault("status", target="ping", heartbeat="first")
    assert await statuses() == [500, 200, 200, 200, 200]
    aura.clear_faults()
    aura.set_fault("status", target="api", heartbeat="second")
    assert await statuses() == [200, 200, 200, 500, 200]
    aura.clear_faults()
    aura.set_fault("status", target="api")
    assert await statuses() == [200, 200, 500, 500, 500]
    aura.clear_faults()
    aura.set_fault("status", target="all")
    assert await statuses() == [500] * 5


async def test_a_fault_ends_after_its_time(timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient) -> None:
    """For as long as ordered, and no request longer."""
    heartbeat = timed.create_heartbeat("backup")
    timed.set_fault("status", for_s=60)
    clock.advance(59.9)
    assert (await anyone.post(heartbeat.ping_url)).status_code == 500

    clock.advance(0.1)

    assert (await anyone.post(heartbeat.ping_url)).status_code == 200


async def test_the_control_path_orders_lists_and_clears_faults(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """All over HTTP, as the demo and foreign clients use it; the control path itself has no faults."""
    heartbeat = aura.create_heartbeat("backup")
    faults = aura.control_url + "/faults"
    first = (await api.post(faults, json={"kind": "status", "status": 503, "times": 2})).json()["id"]
    second = (await api.post(faults, json={"kind": "hang", "target": "ping"})).json()["id"]
    assert (await anyone.post(heartbeat.ping_url)).status_code == 503
    listed = (await api.get(faults)).json()["data"]
    assert [(each["id"], each["kind"], each["left"]) for each in listed] == [
        (first, "status", 1),
        (second, "hang", None),
    ]

    assert (await api.delete(f"{faults}/{first}")).status_code == 204
    assert (await api.delete(f"{faults}/{first}")).status_code == 404
    assert [each["id"] for each in (await api.get(faults)).json()["data"]] == [second]
    assert (await api.delete(faults)).status_code == 204

    assert (await anyone.post(heartbeat.ping_url, content="hello")).status_code == 200
    pings = (await api.get(aura.control_url + "/pings", params={"heartbeat": "backup"})).json()["data"]
    assert [(ping["heartbeat_id"], ping["body"], ping["accepted"]) for ping in pings] == [
        (heartbeat.id, "", False),
        (heartbeat.id, "hello", True),
    ]
    requests = (await api.get(aura.control_url + "/requests")).text
    assert '"/ping/{key}"' in requests
    assert heartbeat.ping_url.rpartition("/")[2] not in requests
    assert aura.token not in requests
    assert (await api.delete(aura.control_url + "/received")).status_code == 204
    assert (aura.pings(), aura.requests()) == ([], [])


async def test_the_control_path_needs_a_token_that_may_write(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """Other users of the machine can't look on or make trouble."""
    async with client(aura, aura.create_token("read")) as reader:
        for http, expected in ((anyone, 401), (reader, 403)):
            assert (await http.get(aura.control_url + "/pings")).status_code == expected
            assert (await http.post(aura.control_url + "/faults", json={"kind": "hang"})).status_code == expected


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"kind": "explode"},
        {"kind": "refuse"},
        {"kind": "refuse", "for_s": 1, "times": 2},
        {"kind": "refuse", "for_s": 1, "target": "ping"},
        {"kind": "hang", "times": 0},
        {"kind": "hang", "for_s": 0},
        {"kind": "status", "status": 99},
        {"kind": "status", "location": "a\r\nb: c"},
        {"kind": "status", "unknown": 1},
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(
    aura: DevServer, api: httpx.AsyncClient, order: dict[str, Any]
) -> None:
    """400 in the envelope, and no fault is active."""
    answer = await api.post(aura.control_url + "/faults", json=order)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert (await api.get("/heartbeats")).status_code == 200


async def test_a_new_ping_url_makes_the_old_one_unknown(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """404 at the old one, in process and over the control path; the API gives out the new one."""
    old = aura.create_heartbeat("backup")
    await anyone.post(old.ping_url)

    new = aura.change_ping_url("backup")

    assert (await anyone.post(old.ping_url)).status_code == 404
    assert (await anyone.post(new.ping_url)).status_code == 200
    newer = (await api.post(f"{aura.control_url}/heartbeats/{old.id}/new-key")).json()["url"]
    assert newer == (await api.get(f"/heartbeats/{old.id}/ping-url")).json()["url"]
    assert (await anyone.post(new.ping_url)).status_code == 404
    assert aura.status("backup").status == "up"


@pytest.mark.parametrize("kind", ["hang", "slow"])
async def test_stopping_does_not_wait_for_held_requests(kind: str, anyone: httpx.AsyncClient) -> None:
    """A server with a hung or slow client stops, and the client sees the end."""
    async with DevServer() as aura:
        heartbeat = aura.create_heartbeat("backup")
        aura.set_fault(kind, delay_s=3600)  # type: ignore[arg-type]
        held = asyncio.create_task(_outcome(anyone.post(heartbeat.ping_url, timeout=60)))
        await until(aura.pings)

    outcome = await asyncio.wait_for(held, 20)

    assert isinstance(outcome, httpx.TransportError if kind == "hang" else httpx.Response)


@pytest.mark.parametrize("kind", [None, "slow", "drop", "hang", "status"])
async def test_a_client_that_leaves_in_mid_body_has_not_pinged(
    aura: DevServer, anyone: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    """Half a ping is none, with and without a fault, and no error of the server either."""
    heartbeat = aura.create_heartbeat("backup")
    if kind is not None:
        aura.set_fault(kind, times=1)
    path = httpx.URL(heartbeat.ping_url).path
    _, leaving = await asyncio.open_connection("127.0.0.1", aura.port)
    leaving.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf".encode())
    await until(aura.requests)
    leaving.close()
    await leaving.wait_closed()
    await until(lambda: not aura._listener._state.tasks, what="the end of the request")

    assert aura.pings() == []
    assert (await anyone.post(heartbeat.ping_url)).is_success
    assert caplog.records == [record for record in caplog.records if record.name.startswith("httpx")]


async def test_requests_tell_whether_a_token_came(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """So that a test can see that no ping carries one; the token itself is not kept."""
    heartbeat = aura.create_heartbeat("backup")
    await api.get("/heartbeats", params={"limit": "5"})
    await api.get(f"/heartbeats/{heartbeat.id}/ping-url")
    await anyone.post(heartbeat.ping_url, headers={"User-Agent": "tester"})

    listing, call, ping = aura.requests()

    assert (listing.method, listing.path, listing.query) == ("GET", "/api-v1/heartbeats", "limit=5")
    assert (call.path, call.query) == (f"/api-v1/heartbeats/{heartbeat.id}/ping-url", "")
    assert (call.authorized, call.status, call.heartbeat_id) == (True, 200, heartbeat.id)
    assert (ping.method, ping.path, ping.authorized) == ("POST", "/ping/{key}", False)
    assert ping.headers["user-agent"] == "tester"
    assert aura.token not in repr([call.headers, ping.headers])


async def _outcome(answer: Awaitable[httpx.Response]) -> httpx.Response | Exception:
    try:
        return await answer
    except httpx.HTTPError as exc:
        return exc

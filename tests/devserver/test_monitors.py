"""Monitors, and the probes that they are for: real requests to real servers."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from aura_agent.clock import SystemClock
from aura_agent.devserver import probes
from aura_agent.devserver.database import open_database
from aura_agent.devserver.prober import Prober
from aura_agent.devserver.server import DevServer
from aura_agent.devserver.tables import monitors, organizations
from aura_agent.devserver.tables.checks import KEPT, Check, add, all_of
from tests.api.raw_server import Conversation, RawServer, answer, closed_port, hang, reset, serving
from tests.devserver.clocks import StillClock
from tests.devserver.conftest import client
from tests.waiting import until

pytestmark = pytest.mark.anyio

_S = 1_000_000


class Target:
    """A server that answers with *says*, whatever that is at the time."""

    def __init__(self) -> None:
        self.says: bytes | Conversation = answer(200)
        self.raw = RawServer()

    @property
    def url(self) -> str:
        return self.raw.url + "/health"

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.says, bytes):
            writer.write(self.says)
            await writer.drain()
        else:
            await self.says(reader, writer)


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    wanted = Target()
    async with serving(wanted.converse) as wanted.raw:
        yield wanted


async def checked(aura: DevServer, name: str, count: int) -> None:
    """Wait until the monitor has *count* checks."""
    await until(lambda: len(aura.checks(name)) >= count, what=f"{count} checks of {name}")


@pytest.mark.parametrize(
    ("status_code", "expected"),
    [
        (200, "up"),
        (204, "up"),
        (301, "up"),
        (399, "up"),
        (199, "down"),
        (400, "down"),
        (404, "down"),
        (500, "down"),
        (None, "down"),
    ],
)
def test_an_answer_means_up_below_400(status_code: int | None, expected: str) -> None:
    """And down from there on, or if there was none."""
    assert probes.verdict(status_code) == expected


@pytest.mark.parametrize(
    ("due_s", "now_s", "expected_s"),
    [(0, 0, 60), (0, 3, 60), (0, 59, 60), (0, 60, 120), (0, 100_000, 100_060)],
)
def test_probes_keep_to_their_rate(due_s: int, now_s: int, expected_s: int) -> None:
    """The next is due an interval after the last was, and those that were missed are not made up for."""
    assert probes.next_due_us(due_s * _S, 60, now_s * _S) == expected_s * _S


async def test_a_created_monitor_is_listed_shown_changed_and_deleted(
    aura: DevServer, target: Target, api: httpx.AsyncClient
) -> None:
    """The whole life of a monitor; what hangs on it goes with it."""
    created = await api.post("/monitors", json={"name": "web", "url": target.url, "check_interval": 600})
    assert created.status_code == 201
    monitor = created.json()
    assert monitor["status"] == "pending"
    assert set(monitor) == {"id", "name", "url", "check_interval", "status", "team_id", "created_at", "updated_at"}
    one = f"/monitors/{monitor['id']}"

    await checked(aura, "web", 1)
    assert (await api.get("/monitors")).json() == {"data": [{**monitor, "status": "up"}], "next_cursor": None}

    changed = await api.patch(one, json={"name": "site"})

    assert changed.json()["name"] == "site"
    assert (await api.delete(one)).status_code == 204
    for path in (one, one + "/checks", f"/checks?monitor_id={monitor['id']}"):
        assert (await api.get(path)).status_code == 404
    assert (await api.get("/incidents")).json()["data"] == []
    assert len(target.raw.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "", "url": "http://a/"},
        {"name": "x", "url": "a.example"},
        {"name": "x", "url": "ftp://a/"},
        {"name": "x", "url": "http://"},
        {"name": "x", "url": "http://user:password@a/"},
        {"name": "x", "url": "http://a/\n"},
        {"name": "x", "url": "http://a b/"},
        {"name": "x", "url": "http://a:65536/"},
        {"name": "x", "url": "http://a/" + "a" * 2048},
        {"name": "x", "url": "http://a/", "check_interval": 0},
        {"name": "x", "url": "http://a/", "check_interval": 86_401},
        {"name": "x", "url": "http://a/", "check_interval": "60"},
        {"name": "x", "url": "http://a/", "organization_id": "y"},
        [],
    ],
)
async def test_a_bad_monitor_is_refused_and_not_created(api: httpx.AsyncClient, body: object) -> None:
    """URLs that nobody could ask, lengths out of bounds, unknown fields: 400."""
    refused = await api.post("/monitors", json=body)

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")
    assert (await api.get("/monitors")).json()["data"] == []


async def test_a_monitor_is_probed_at_its_interval_by_the_servers_clock(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """At once, then every check_interval; nothing in between."""
    timed.create_monitor("web", target.url, check_interval=60)
    await checked(timed, "web", 1)
    for number in range(2, 5):
        clock.advance(59.999)
        assert len(timed.checks("web")) == number - 1
        clock.advance(0.001)
        await checked(timed, "web", number)

    checks = timed.checks("web")
    assert [(check.status, check.status_code) for check in checks] == [("up", 200)] * 4
    assert [(after.checked_at - before.checked_at).total_seconds() for before, after in pairwise(checks)] == [60] * 3
    assert len(target.raw.requests) == 4
    assert target.raw.requests[0].startswith(b"GET /health HTTP/1.1\r\n")


async def test_the_timer_probes_without_anyone_asking(aura: DevServer, target: Target) -> None:
    """A second later there is the next check, seen by the server that is probed."""
    aura.create_monitor("web", target.url, check_interval=1)

    await until(lambda: len(target.raw.requests) >= 2, what="the second probe")


def test_a_probe_needs_no_certificate_variable_that_can_be_used() -> None:
    """Nor does the server end over one."""
    program = """
import asyncio, os
from aura_agent.devserver.server import DevServer

async def main() -> None:
    async with DevServer() as aura:
        aura.create_monitor("web", aura.base_url + "/health")
        while not aura.checks("web"):
            await asyncio.sleep(0.01)
        print(aura.checks("web")[0].status_code is not None)

asyncio.run(main())
"""
    environment = os.environ | {"SSLKEYLOGFILE": "/nonexistent/keys", "SSL_CERT_FILE": "/nonexistent/ca.pem"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "True\n"


def test_the_client_is_loaded_by_the_first_probe_alone() -> None:
    """Who has no monitor doesn't pay for it."""
    program = """
import asyncio, sys
from aura_agent.devserver.server import DevServer

async def main() -> None:
    async with DevServer() as aura:
        aura.create_heartbeat("backup")
        before = "httpx" in sys.modules
        aura.create_monitor("web", "http://127.0.0.1:1/")
        while not aura.checks("web"):
            await asyncio.sleep(0.01)
        print(before, "httpx" in sys.modules)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "False True\n"


async def test_down_opens_an_incident_and_recovery_resolves_it(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """One incident for one outage, however many checks find it; a second outage is a second one."""
    monitor = timed.create_monitor("web", target.url, check_interval=60)
    await checked(timed, "web", 1)
    assert timed.monitor("web").status == "up"
    count = 1
    for says, status, incidents in (
        (answer(503), "down", ["open"]),
        (answer(500), "down", ["open"]),
        (answer(302, b"", "Location: http://127.0.0.1:1/"), "up", ["resolved"]),
        (answer(404), "down", ["resolved", "open"]),
    ):
        target.says = says
        clock.advance(60)
        count += 1
        await checked(timed, "web", count)
        assert timed.monitor("web").status == status
        assert [incident.status for incident in timed.incidents("web")] == incidents

    first, second = timed.incidents("web")
    checks = timed.checks("web")
    assert (first.monitor_id, first.heartbeat_id) == (monitor.id, None)
    assert (first.started_at, first.resolved_at) == (checks[1].checked_at, checks[3].checked_at)
    assert second.started_at == checks[4].checked_at


async def test_a_monitor_still_down_opens_no_second_incident_after_the_hand(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """Resolved by hand stays resolved; after a recovery the next outage counts again."""
    target.says = answer(500)
    timed.create_monitor("web", target.url, check_interval=60)
    await checked(timed, "web", 1)
    [incident] = timed.incidents("web")
    async with client(timed, timed.token) as api:
        assert (await api.post(f"/incidents/{incident.id}/resolve")).json()["monitor_id"] == incident.monitor_id

    clock.advance(60)
    await checked(timed, "web", 2)
    assert [each.status for each in timed.incidents("web")] == ["resolved"]
    for count, says in ((3, answer(200)), (4, answer(500))):
        target.says = says
        clock.advance(60)
        await checked(timed, "web", count)

    assert [each.status for each in timed.incidents("web")] == ["resolved", "open"]


@pytest.mark.parametrize("trouble", [reset, b"not http\r\n\r\n", b""])
async def test_no_answer_is_down_without_code_and_time(
    aura: DevServer, target: Target, trouble: bytes | Conversation
) -> None:
    """A connection that breaks, what isn't HTTP, nothing at all."""
    target.says = trouble
    aura.create_monitor("web", target.url)
    await checked(aura, "web", 1)

    [check] = aura.checks("web")
    assert (check.status, check.status_code, check.response_time_ms) == ("down", None, None)
    assert aura.monitor("web").status == "down"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{closed}/", "http://127.0.0.1:99999/", "http://[::1::]/"])
async def test_what_cannot_be_reached_is_down(aura: DevServer, url: str) -> None:
    """A port that nobody listens on, one that can't be, an address that is none: whatever goes wrong with asking."""
    aura.create_monitor("web", url.format(closed=closed_port()))
    await checked(aura, "web", 1)

    assert aura.checks("web")[0].status == "down"
    assert [incident.status for incident in aura.incidents("web")] == ["open"]


async def test_a_server_that_hangs_holds_up_no_other_monitor(aura: DevServer, target: Target) -> None:
    """Its check is under way, the others are made; stopping the server doesn't wait for it."""
    async with serving(hang) as hanging:
        for number in range(5):
            aura.create_monitor(f"slow-{number}", hanging.url)
        aura.create_monitor("web", target.url)
        await checked(aura, "web", 1)
        assert aura.checks("slow-0") == []
        assert aura.monitor("slow-0").status == "pending"


async def test_a_probe_brings_nothing_along_from_the_one_before(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """No cookie that the server gave out, and a connection of its own; it says who asks."""
    target.says = answer(200, b"", "Set-Cookie: session=1; Path=/")
    timed.create_monitor("web", target.url, check_interval=60)
    await checked(timed, "web", 1)
    clock.advance(60)
    await checked(timed, "web", 2)

    first, second = target.raw.requests
    assert first == second
    assert b"user-agent: aura-agent/" in first.lower()
    assert b"cookie" not in first.lower()


async def test_each_probe_has_a_connection_of_its_own(timed: DevServer, clock: StillClock) -> None:
    """One that the server keeps open isn't used again: it might be dead by then."""

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")

    async with serving(stay) as target:
        timed.create_monitor("web", target.url, check_interval=60)
        await checked(timed, "web", 1)
        clock.advance(60)
        await checked(timed, "web", 2)

        assert len(target.requests) == 2, "a request on a connection that was there already"


async def test_an_answer_that_takes_too_long_is_none() -> None:
    """The monitor is down once the time-out has passed."""
    db, clock = open_database(None), SystemClock()
    prober = Prober(db, clock, timeout_s=0.05)
    async with serving(hang) as hanging:
        organization_id = organizations.ensure(db, "dev", 1)
        row = monitors.create(
            db, organization_id, name="web", url=hanging.url, check_interval=60, now_us=clock.read().wall_ns // 1000
        )
        prober.start()
        await until(lambda: all_of(db, row.id), what="the check")
    await prober.stop()

    [check] = all_of(db, row.id)
    db.close()
    assert (check.status, check.status_code) == ("down", None)


@pytest.mark.parametrize("change", [{"paused": True}, {"url": "http://127.0.0.1:1/"}])
async def test_a_check_that_was_under_way_says_nothing_of_what_changed_meanwhile(
    timed: DevServer, target: Target, change: dict[str, object]
) -> None:
    """A pause, or another URL: the old one's answer is not recorded."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def wait(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        writer.write(answer(201))
        await writer.drain()
        writer.close()

    target.says = wait
    monitor = timed.create_monitor("web", target.url)
    await asked.wait()
    async with client(timed, timed.token) as api:
        await api.patch(f"/monitors/{monitor.id}", json=change)
    may_answer.set()
    timed.create_monitor("later", target.url)
    await checked(timed, "later", 1)

    assert 201 not in [check.status_code for check in timed.checks("web")]


async def test_the_incidents_of_a_deleted_monitor_go_with_it(aura: DevServer, api: httpx.AsyncClient) -> None:
    """As those of a heartbeat do."""
    monitor = aura.create_monitor("web", f"http://127.0.0.1:{closed_port()}/")
    await checked(aura, "web", 1)
    [incident] = aura.incidents("web")

    await api.delete(f"/monitors/{monitor.id}")

    assert (await api.get(f"/incidents/{incident.id}")).status_code == 404


async def test_many_monitors_due_at_once_are_all_probed(aura: DevServer, target: Target) -> None:
    """More than may be under way together."""
    for number in range(60):
        aura.create_monitor(f"web-{number}", target.url, check_interval=3600)

    await until(lambda: all(aura.checks(f"web-{number}") for number in range(60)), what="a check of each")

    assert len(target.raw.requests) == 60


async def test_a_pause_ends_probing_and_its_end_begins_it_anew(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """Paused: no check, an open incident is resolved; resumed: checked at once."""
    target.says = answer(500)
    one = f"/monitors/{timed.create_monitor('web', target.url, check_interval=60).id}"
    await checked(timed, "web", 1)
    async with client(timed, timed.token) as api:
        assert (await api.patch(one, json={"paused": True})).json()["status"] == "paused"
        assert [incident.status for incident in timed.incidents("web")] == ["resolved"]
        clock.advance(600)
        assert (await api.get(one)).json()["status"] == "paused"
        assert (await api.patch(one, json={"paused": False})).json()["status"] == "pending"
    await checked(timed, "web", 2)

    assert timed.monitor("web").status == "down"
    assert [incident.status for incident in timed.incidents("web")] == ["resolved", "open"]
    assert len(target.raw.requests) == 2


async def test_another_url_is_checked_at_once(timed: DevServer, clock: StillClock, target: Target) -> None:
    """Without waiting for the interval to pass."""
    one = f"/monitors/{timed.create_monitor('web', f'http://127.0.0.1:{closed_port()}/').id}"
    await checked(timed, "web", 1)
    clock.advance(1)
    async with client(timed, timed.token) as api:
        await api.patch(one, json={"url": target.url})
    await checked(timed, "web", 2)

    assert [check.status for check in timed.checks("web")] == ["down", "up"]
    assert [incident.status for incident in timed.incidents("web")] == ["resolved"]


async def test_checks_are_listed_newest_first_by_page_in_both_places(
    timed: DevServer, clock: StillClock, target: Target
) -> None:
    """The same rows below the monitor and by its id; without the id it is 400."""
    monitor = timed.create_monitor("web", target.url, check_interval=1)
    for count in range(1, 6):
        await checked(timed, "web", count)
        clock.advance(1)
    await checked(timed, "web", 6)
    async with client(timed, timed.token) as api:
        for path, query in ((f"/monitors/{monitor.id}/checks", {}), ("/checks", {"monitor_id": monitor.id})):
            first = (await api.get(path, params={**query, "limit": 4})).json()
            second = (await api.get(path, params={**query, "limit": 4, "cursor": first["next_cursor"]})).json()
            listed = first["data"] + second["data"]
            assert (len(first["data"]), len(second["data"]), second["next_cursor"]) == (4, 2, None)
            assert [row["id"] for row in listed] == [check.id for check in reversed(timed.checks("web"))]
            assert set(listed[0]) == {"id", "monitor_id", "status", "status_code", "response_time_ms", "checked_at"}
            assert {row["monitor_id"] for row in listed} == {monitor.id}
        missing = await api.get("/checks")
        assert (missing.status_code, missing.json()["error"]["code"]) == (400, "bad_request")
        assert "monitor_id" in missing.json()["error"]["message"]
        assert (await api.get("/checks", params={"monitor_id": ""})).status_code == 404


async def test_the_newest_thousand_checks_are_kept(timed: DevServer) -> None:
    """Of each monitor: another's are not touched."""
    busy, quiet = (
        timed.create_monitor(name, f"http://127.0.0.1:{closed_port()}/", 86_400) for name in ("busy", "quiet")
    )
    await checked(timed, "busy", 1)
    await checked(timed, "quiet", 1)
    start_us = timed.service.now_us()
    for number in range(KEPT + 5):
        add(timed.service.db, Check(str(number), busy.id, "up", 200, 1, start_us + number + 1))

    assert [check.id for check in timed.checks("busy")] == [str(number) for number in range(5, KEPT + 5)]
    assert len(timed.checks(quiet.id)) == 1


async def test_a_check_that_a_stop_cut_short_is_made_at_the_next_start(tmp_path: Path, target: Target) -> None:
    """Nothing is recorded of the one that was under way, and the monitor isn't forgotten."""
    path = str(tmp_path / "aura.db")
    async with AsyncExitStack() as stack:
        hanging = await stack.enter_async_context(serving(hang))
        async with DevServer(db=path) as aura:
            monitor = aura.create_monitor("web", hanging.url)
            await until(lambda: hanging.requests, what="the probe")
    async with DevServer(db=path) as aura:
        await checked(aura, "web", 1)

        assert aura.monitor(monitor.id).status == "down"
        assert len(aura.checks("web")) == 1

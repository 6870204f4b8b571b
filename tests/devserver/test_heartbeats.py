"""The heartbeats of the API, over real sockets."""

from typing import Any

import httpx
import pytest

from aura_agent.devserver.server import DevServer
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio


async def test_a_created_heartbeat_is_listed_shown_changed_and_deleted(aura: DevServer, api: httpx.AsyncClient) -> None:
    """The whole life of a heartbeat, with the fields that the client expects."""
    aura.set_teams(aura.token, ["ops"])
    wanted = {"expected_interval": 86400, "grace_period": 1800, "team_id": aura.create_team("ops")}
    created = await api.post("/heartbeats", json={"name": "nightly", **wanted})
    assert created.status_code == 201
    heartbeat = created.json()
    assert heartbeat["status"] == "pending"
    assert heartbeat["last_ping_at"] is None
    assert (await api.get("/heartbeats")).json() == {"data": [heartbeat], "next_cursor": None}
    assert (await api.get(f"/heartbeats/{heartbeat['id']}")).json() == heartbeat

    changed = await api.patch(f"/heartbeats/{heartbeat['id']}", json={"grace_period": 60, "team_id": None})

    assert changed.status_code == 200
    kept = {"id", "name", "status", "expected_interval", "last_ping_at", "created_at"}
    assert {key: changed.json()[key] for key in kept} == {key: heartbeat[key] for key in kept}
    assert (changed.json()["grace_period"], changed.json()["team_id"]) == (60, None)
    gone = await api.delete(f"/heartbeats/{heartbeat['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.get(f"/heartbeats/{heartbeat['id']}")).status_code == 404
    assert (await api.get("/heartbeats")).json()["data"] == []


async def test_names_need_not_be_unique(api: httpx.AsyncClient) -> None:
    """The reference forbids no second heartbeat of one name."""
    first = await api.post("/heartbeats", json={"name": "twin"})
    second = await api.post("/heartbeats", json={"name": "twin"})

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": None},
        {"name": 5},
        {"name": "n" * 256},
        {"name": "x", "expected_interval": 0},
        {"name": "x", "expected_interval": "60"},
        {"name": "x", "expected_interval": True},
        {"name": "x", "expected_interval": 1.5},
        {"name": "x", "expected_interval": 10**12},
        {"name": "x", "grace_period": -1},
        {"name": "x", "grace_period": None},
        {"name": "x", "interval": 60},
        {"name": "x", "id": "mine"},
        [],
        "x",
        None,
    ],
)
async def test_a_bad_heartbeat_is_refused_and_not_created(api: httpx.AsyncClient, body: Any) -> None:
    """Wrong types, values out of bounds and unknown fields are 400 bad_request."""
    answer = await api.post("/heartbeats", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert (await api.get("/heartbeats")).json()["data"] == []


@pytest.mark.parametrize("body", [{"name": ""}, {"name": None}, {"expected_interval": 0}, {"status": "up"}, []])
async def test_a_bad_change_is_refused_and_changes_nothing(aura: DevServer, api: httpx.AsyncClient, body: Any) -> None:
    """A PATCH is checked as a whole before anything is written."""
    heartbeat = aura.create_heartbeat("backup")
    before = (await api.get(f"/heartbeats/{heartbeat.id}")).json()

    answer = await api.patch(f"/heartbeats/{heartbeat.id}", json=body)

    assert answer.status_code == 400
    assert (await api.get(f"/heartbeats/{heartbeat.id}")).json() == before


async def test_the_ping_url_is_where_pings_count(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    """The URL from the API takes a POST without a token, and the heartbeat is up."""
    heartbeat = aura.create_heartbeat("backup")
    url = (await api.get(f"/heartbeats/{heartbeat.id}/ping-url")).json()["url"]

    answer = await anyone.post(url, content="hello")

    assert answer.is_success
    assert (await api.get(f"/heartbeats/{heartbeat.id}")).json()["status"] == "up"
    assert url == heartbeat.ping_url
    assert url not in (await api.get("/heartbeats")).text


async def test_another_organization_sees_and_changes_nothing_of_ours(aura: DevServer) -> None:
    """A token is bound to its organization: what others own is not found, by any method."""
    ours = aura.create_heartbeat("ours")
    async with client(aura, aura.create_token("write", "another")) as other:
        answers = [
            await other.get(f"/heartbeats/{ours.id}"),
            await other.get(f"/heartbeats/{ours.id}/ping-url"),
            await other.patch(f"/heartbeats/{ours.id}", json={"name": "theirs"}),
            await other.delete(f"/heartbeats/{ours.id}"),
        ]
        listed = (await other.get("/heartbeats")).json()["data"]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert listed == []
    assert aura.heartbeat(ours.id) == ours


async def test_a_read_token_reads_and_writes_nothing(aura: DevServer) -> None:
    """Any mutation with a read-only token is 403, whatever its body."""
    ours = aura.create_heartbeat("ours")
    async with client(aura, aura.create_token("read")) as reader:
        assert (await reader.get(f"/heartbeats/{ours.id}/ping-url")).status_code == 200
        refused = [
            await reader.post("/heartbeats", json={"name": "x"}),
            await reader.patch(f"/heartbeats/{ours.id}", content=b"{"),
            await reader.delete(f"/heartbeats/{ours.id}"),
        ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [(403, "forbidden")] * 3
    assert aura.heartbeat(ours.id) == ours


async def test_listings_carry_the_ping_urls_if_told_so(anyone: httpx.AsyncClient) -> None:
    """As a service might: one listing then stands for many single calls. Changes and single ones show it as well."""
    async with DevServer(list_ping_urls=True) as aura, client(aura, aura.create_token("write")) as api:
        created = (await api.post("/heartbeats", json={"name": "backup"})).json()
        path = f"/heartbeats/{created['id']}"

        [listed] = (await api.get("/heartbeats")).json()["data"]

        assert listed == created == (await api.get(path)).json()
        assert listed["ping_url"] == (await api.get(path + "/ping-url")).json()["url"]
        assert (await anyone.post(listed["ping_url"])).is_success
        assert (await api.patch(path, json={"name": "new"})).json()["ping_url"] == listed["ping_url"]

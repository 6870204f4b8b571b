"""Who may do what, by the reference's table, at each request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import get_args

import httpx
import pytest

from aura_agent.api.errors import likely_cause
from aura_agent.devserver.permissions import ALLOWED, Action, Role, role_objection
from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import StillClock
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio

_MONITOR = {"name": "web", "url": "http://127.0.0.1:1/"}


@asynccontextmanager
async def caller(aura: DevServer, role: Role, *teams: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a read & write token whose owner has *role* and is in *teams*."""
    token = aura.create_token("read" if role == "viewer" else "write", role=role, teams=teams)
    async with client(aura, token) as http:
        yield http


def assert_forbidden(answer: httpx.Response, by: str) -> None:
    """403, with a message that says which of scope, role and team it is, to people and to the agent's client."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    message = answer.json()["error"]["message"]
    assert [word for word in ("scope", "role", "team") if word in message] == [by]
    assert likely_cause(403, answer.request.method, message).startswith(by)


def test_the_table_is_the_references() -> None:
    """Row by row; whoever has no role may do nothing."""
    allowed = {action: {role for role in get_args(Role) if role_objection(role, action) is None} for action in Action}

    assert allowed == {
        Action.READ: {"owner", "admin", "member", "viewer"},
        Action.CHANGE: {"owner", "admin", "member"},
        Action.DELETE: {"owner", "admin"},
        Action.RESOLVE: {"owner", "admin", "member"},
    }
    assert all(role_objection(None, action) for action in ALLOWED)


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
async def test_a_role_may_do_what_the_table_says(aura: DevServer, role: Role) -> None:
    """Every role that can write creates and changes; a member deletes nothing."""
    async with caller(aura, role) as http:
        for path, body in (("/heartbeats", {"name": "backup"}), ("/monitors", _MONITOR)):
            created = await http.post(path, json=body)
            assert created.status_code == 201
            one = f"{path}/{created.json()['id']}"
            assert (await http.patch(one, json={"name": "new"})).json()["name"] == "new"
            gone = await http.delete(one)
            if role == "member":
                assert_forbidden(gone, "role")
                assert (await http.get(one)).status_code == 200
            else:
                assert gone.status_code == 204


async def test_a_read_only_token_writes_nothing_whoever_owns_it(aura: DevServer) -> None:
    """Its scope is what forbids it, also where there is nothing to change."""
    async with client(aura, aura.create_token("read", role="owner")) as http:
        assert (await http.get("/monitors")).status_code == 200
        assert_forbidden(await http.post("/monitors", json=_MONITOR), "scope")
        assert_forbidden(await http.patch("/monitors/unknown", json={}), "scope")
        assert_forbidden(await http.delete("/heartbeats/unknown"), "scope")
        assert_forbidden(await http.post("/incidents/unknown/resolve"), "scope")


def test_a_viewers_token_cannot_be_read_and_write() -> None:
    """There is no way to make one."""
    with pytest.raises(ValueError, match="viewer"):
        DevServer().create_token("write", role="viewer")


async def test_a_downgrade_takes_effect_at_the_next_request(aura: DevServer) -> None:
    """Owner to member, to viewer, out of the organization, and back."""
    token = aura.create_token("write", role="owner")
    one = f"/heartbeats/{aura.create_heartbeat('backup').id}"
    async with client(aura, token) as http:
        aura.set_role(token, "member")
        assert_forbidden(await http.delete(one), "role")
        assert (await http.patch(one, json={"grace_period": 5})).status_code == 200
        aura.set_role(token, "viewer")
        assert_forbidden(await http.patch(one, json={"grace_period": 6}), "role")
        assert (await http.get(one)).json()["grace_period"] == 5
        aura.set_role(token, None)
        assert_forbidden(await http.get(one), "role")
        aura.set_role(token, "admin")
        assert (await http.delete(one)).status_code == 204


async def test_what_belongs_to_a_team_is_changed_by_its_members_alone(aura: DevServer) -> None:
    """Everybody reads it; owners and admins of the organization aren't members by that."""
    team_id = aura.create_team("ops")
    async with caller(aura, "member", "ops") as inside, caller(aura, "owner", "other") as outside:
        for path, body in (("/heartbeats", {"name": "backup"}), ("/monitors", _MONITOR)):
            assert_forbidden(await outside.post(path, json={**body, "team_id": team_id}), "team")
            created = await inside.post(path, json={**body, "team_id": team_id})
            assert created.json()["team_id"] == team_id
            one = f"{path}/{created.json()['id']}"
            assert_forbidden(await outside.patch(one, json={"name": "mine"}), "team")
            assert_forbidden(await outside.patch(one, json={"team_id": None}), "team")
            assert_forbidden(await outside.delete(one), "team")
            kept = (await outside.get(one)).json()
            assert (kept["name"], kept["team_id"]) == (body["name"], team_id)
            assert (await inside.patch(one, json={"name": "ours"})).status_code == 200


async def test_moving_into_a_team_asks_for_membership_there(aura: DevServer) -> None:
    """Of the team that it leaves, and of the one that it goes to."""
    ops, web = aura.create_team("ops"), aura.create_team("web")
    token = aura.create_token("write", role="admin", teams=["ops"])
    one = f"/heartbeats/{aura.create_heartbeat('backup', team='ops').id}"
    async with client(aura, token) as http:
        assert_forbidden(await http.patch(one, json={"team_id": web}), "team")
        aura.set_teams(token, ["ops", "web"])
        assert (await http.patch(one, json={"team_id": web})).json()["team_id"] == web
        aura.set_teams(token, ["ops"])
        assert_forbidden(await http.patch(one, json={"team_id": ops}), "team")
        assert (await http.get(one)).json()["team_id"] == web


async def test_a_team_that_is_not_the_organizations_is_a_conflict(aura: DevServer) -> None:
    """One that doesn't exist, and another organization's: 409, and nothing is created."""
    theirs = aura.create_team("ops", "another")
    async with caller(aura, "owner") as http:
        heartbeat = (await http.post("/heartbeats", json={"name": "backup"})).json()
        for team_id in ("unknown", theirs):
            answers = [
                await http.post("/heartbeats", json={"name": "x", "team_id": team_id}),
                await http.post("/monitors", json={**_MONITOR, "team_id": team_id}),
                await http.patch(f"/heartbeats/{heartbeat['id']}", json={"team_id": team_id}),
            ]
            assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
                (409, "conflict")
            ] * 3
        assert (await http.get("/heartbeats")).json()["data"] == [heartbeat]
        assert (await http.get("/monitors")).json()["data"] == []


async def test_a_role_is_the_organizations(aura: DevServer) -> None:
    """What an owner of one organization may do there says nothing about another's resources: they are not found."""
    one = aura.create_monitor("web", "http://127.0.0.1:1/").id
    async with client(aura, aura.create_token("write", "another", role="owner")) as http:
        answers = [
            await http.get(f"/monitors/{one}"),
            await http.get(f"/monitors/{one}/checks"),
            await http.get("/checks", params={"monitor_id": one}),
            await http.patch(f"/monitors/{one}", json={"name": "mine"}),
            await http.delete(f"/monitors/{one}"),
        ]
        assert (await http.get("/monitors")).json()["data"] == []

    assert [answer.status_code for answer in answers] == [404] * 5
    assert aura.monitor("web").id == one


async def test_a_revoked_token_is_unauthorized_at_once(aura: DevServer) -> None:
    """The service allows itself 30 s; nobody else's token is touched."""
    token = aura.create_token("write")
    async with client(aura, token) as revoked, client(aura, aura.token) as other:
        assert (await revoked.get("/heartbeats")).status_code == 200
        aura.revoke_token(token)
        assert (await revoked.get("/heartbeats")).status_code == 401
        assert (await other.get("/heartbeats")).status_code == 200
    with pytest.raises(LookupError):
        aura.revoke_token(token)


async def test_the_plan_limits_what_may_be_created(aura: DevServer) -> None:
    """409 once the organization is full; deleting makes room; another organization has its own plan."""
    aura.set_plan(max_heartbeats=1, max_monitors=0)
    async with caller(aura, "owner") as http, client(aura, aura.create_token("write", "another")) as other:
        first = await http.post("/heartbeats", json={"name": "first"})
        refused = [await http.post("/heartbeats", json={"name": "x"}), await http.post("/monitors", json=_MONITOR)]
        assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [(409, "conflict")] * 2
        assert "plan limit" in refused[0].json()["error"]["message"]
        assert (await other.post("/heartbeats", json={"name": "x"})).status_code == 201
        await http.delete(f"/heartbeats/{first.json()['id']}")
        assert (await http.post("/heartbeats", json={"name": "second"})).status_code == 201


async def test_an_incident_is_resolved_by_whoever_may_write(
    timed: DevServer, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """A member resolves it, a viewer doesn't."""
    heartbeat = timed.create_heartbeat("backup", expected_interval=60, grace_period=0)
    await anyone.post(heartbeat.ping_url)
    clock.advance(61)
    [incident] = timed.incidents()
    token = timed.create_token("write", role="member")
    async with client(timed, token) as http:
        timed.set_role(token, "viewer")
        assert_forbidden(await http.post(f"/incidents/{incident.id}/resolve"), "role")
        timed.set_role(token, "member")
        assert (await http.post(f"/incidents/{incident.id}/resolve")).status_code == 200

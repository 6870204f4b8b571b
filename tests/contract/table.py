"""The contract, a row per endpoint and way to end: what leads to it, or why it can't come to that.

Source of the endpoints, codes and permissions: the service's API page.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aura_agent.api import AuraClient, Check, Heartbeat, Incident, Integration, Monitor
from aura_agent.devserver.permissions import Role
from tests.contract.world import Given, Kind, World

SUCCESS, BAD, NO_TOKEN = "success", "400", "401"
SCOPE, ROLE, TEAM = "403 by scope", "403 by role", "403 by team"
MISSING, FOREIGN, CONFLICT, LIMITED = "404", "404 of another organization", "409", "429"
OUTCOMES = (SUCCESS, BAD, NO_TOKEN, SCOPE, ROLE, TEAM, MISSING, FOREIGN, CONFLICT, LIMITED)

Model = type[Monitor] | type[Check] | type[Heartbeat] | type[Incident] | type[Integration]
Situation = Callable[["Endpoint", World], Given]


@dataclass(frozen=True, slots=True)
class Ends:
    """It ends so, whoever asks."""

    given: Situation


@dataclass(frozen=True, slots=True)
class Harmless:
    """What leads to this elsewhere succeeds here, for a reason."""

    given: Situation
    reason: str


@dataclass(frozen=True, slots=True)
class Prevented:
    """The server says so to *query*, which the client and the command never send."""

    query: Mapping[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Impossible:
    """It can't come to that, for a reason."""

    reason: str


Row = Ends | Harmless | Prevented | Impossible


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint, and who asks it: the client's method and the command's words."""

    method: str
    path: str
    kind: Kind
    rows: Mapping[str, Row]
    ask: Callable[[AuraClient, Given], Awaitable[object]]
    command: Callable[[Given], list[str]]
    model: Model | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _theirs(endpoint: Endpoint, world: World) -> Given:
    """Everything is right: a read & write token of the owner."""
    organization = world.organization()
    return Given(world.token(organization), world.make(endpoint.kind, organization), endpoint.fields)


def _wrong_field(endpoint: Endpoint, world: World) -> Given:
    right = _theirs(endpoint, world)
    return Given(right.token, right.id, {**endpoint.fields, **endpoint.wrong})


def _no_token(endpoint: Endpoint, _: World) -> Given:
    return Given("aura_live_nobody_has_this_one", "some-id", endpoint.fields)


def _read_only(endpoint: Endpoint, world: World) -> Given:
    organization = world.organization()
    return Given(world.token(organization, "read"), world.make(endpoint.kind, organization), endpoint.fields)


def _as(role: Role) -> Situation:
    def given(endpoint: Endpoint, world: World) -> Given:
        organization = world.organization()
        token = world.token(organization, role=role)
        return Given(token, world.make(endpoint.kind, organization), endpoint.fields)

    return given


def _foreign_team(endpoint: Endpoint, world: World) -> Given:
    """The object belongs to a team that not even the organization's owner is in."""
    organization = world.organization()
    token = world.token(organization, teams=("mine",))
    return Given(token, world.make(endpoint.kind, organization, team="theirs"), endpoint.fields)


def _into_foreign_team(endpoint: Endpoint, world: World) -> Given:
    organization = world.organization()
    token = world.token(organization, teams=("mine",))
    team_id = world.server.create_team("theirs", organization)
    return Given(token, "", {**endpoint.fields, "team_id": team_id})


def _missing(endpoint: Endpoint, world: World) -> Given:
    return Given(world.token(world.organization()), "11111111-1111-4111-8111-111111111111", endpoint.fields)


def _foreign(endpoint: Endpoint, world: World) -> Given:
    return Given(world.token(world.organization()), world.make(endpoint.kind, world.organization()), endpoint.fields)


def _limited(endpoint: Endpoint, world: World) -> Given:
    """The token's one request of this hour is used up."""
    token = world.token(world.organization())
    world.ask(token, "GET", "/integrations")
    return Given(token, "some-id", endpoint.fields)


def _plan_is_full(endpoint: Endpoint, world: World) -> Given:
    organization = world.organization()
    token = world.token(organization)
    world.server.set_plan(organization, max_monitors=0, max_heartbeats=0)
    return Given(token, "", endpoint.fields)


def _no_such_team(endpoint: Endpoint, world: World) -> Given:
    right = _theirs(endpoint, world)
    return Given(right.token, right.id, {**endpoint.fields, "team_id": "no-team"})


def _resolved_already(endpoint: Endpoint, world: World) -> Given:
    right = _theirs(endpoint, world)
    world.ask(right.token, "POST", f"/incidents/{right.id}/resolve")
    return right


_NO_WRITE = Impossible("nothing is written, so nothing can be in the way")
_ANY_TOKEN = Harmless(_read_only, "any token may read")
_ANY_ROLE = Harmless(_as("viewer"), "every role may read")
_ANY_TEAM = Harmless(_foreign_team, "a team restricts who writes, not who reads")
_NO_TEAM_OF_ITS_OWN = Impossible("it has no team: the page's team rule is for monitors and heartbeats")
_COMMON: dict[str, Row] = {SUCCESS: Ends(_theirs), NO_TOKEN: Ends(_no_token), LIMITED: Ends(_limited)}
_BY_ID: dict[str, Row] = {**_COMMON, MISSING: Ends(_missing), FOREIGN: Ends(_foreign)}
_READ: dict[str, Row] = {SCOPE: _ANY_TOKEN, ROLE: _ANY_ROLE, TEAM: _ANY_TEAM, CONFLICT: _NO_WRITE}

LIST: dict[str, Row] = {
    **_COMMON,
    **_READ,
    BAD: Prevented({"limit": "0"}, "the client brings limits into 1 to 100, and cursors are the server's own"),
    MISSING: Impossible("a whole collection is always there"),
    FOREIGN: Impossible("there is no id: the token's organization alone is listed"),
}
LIST_BELOW: dict[str, Row] = {**LIST, **_BY_ID}
GET: dict[str, Row] = {
    **_BY_ID,
    **_READ,
    BAD: Impossible("there is nothing to validate: what is no id is not found"),
}
CREATE: dict[str, Row] = {
    **_COMMON,
    BAD: Ends(_wrong_field),
    SCOPE: Ends(_read_only),
    ROLE: Ends(_as("viewer")),
    TEAM: Ends(_into_foreign_team),
    MISSING: Impossible("there is no id; a team that isn't there is a conflict"),
    FOREIGN: Impossible("there is no id; another organization's team is a conflict"),
    CONFLICT: Ends(_plan_is_full),
}
UPDATE: dict[str, Row] = {
    **_BY_ID,
    BAD: Ends(_wrong_field),
    SCOPE: Ends(_read_only),
    ROLE: Ends(_as("viewer")),
    TEAM: Ends(_foreign_team),
    CONFLICT: Ends(_no_such_team),
}
DELETE: dict[str, Row] = {
    **_BY_ID,
    BAD: Impossible("there is no body"),
    SCOPE: Ends(_read_only),
    ROLE: Ends(_as("member")),
    TEAM: Ends(_foreign_team),
    CONFLICT: Impossible("no plan and no constraint forbids to have less"),
}
RESOLVE: dict[str, Row] = {
    **_BY_ID,
    BAD: Ends(_wrong_field),
    SCOPE: Ends(_read_only),
    ROLE: Ends(_as("viewer")),
    TEAM: _NO_TEAM_OF_ITS_OWN,
    CONFLICT: Ends(_resolved_already),
}


async def _all(things: AsyncIterator[object]) -> list[object]:
    return [thing async for thing in things]


_FLAGS = {"name": "--name", "url": "--url", "team_id": "--team", "resolution_notes": "--notes"}


def _flags(given: Given) -> list[str]:
    return [word for name, value in given.fields.items() for word in (_FLAGS[name], value)]


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/monitors",
        kind="monitor",
        rows=LIST,
        model=Monitor,
        ask=lambda aura, _: _all(aura.list_monitors()),
        command=lambda _: ["monitors", "list"],
    ),
    Endpoint(
        method="POST",
        path="/monitors",
        kind="integration",  # nothing that a new monitor depends on
        rows=CREATE,
        model=Monitor,
        fields={"name": "new", "url": "http://127.0.0.1:9/health"},
        wrong={"url": "no URL"},
        ask=lambda aura, given: aura.create_monitor(**given.fields),
        command=lambda given: ["monitors", "create", *_flags(given)],
    ),
    Endpoint(
        method="GET",
        path="/monitors/{id}",
        kind="monitor",
        rows=GET,
        model=Monitor,
        ask=lambda aura, given: aura.get_monitor(given.id),
        command=lambda given: ["monitors", "get", given.id],
    ),
    Endpoint(
        method="PATCH",
        path="/monitors/{id}",
        kind="monitor",
        rows=UPDATE,
        model=Monitor,
        fields={"name": "changed"},
        wrong={"name": ""},
        ask=lambda aura, given: aura.update_monitor(given.id, **given.fields),
        command=lambda given: ["monitors", "update", given.id, *_flags(given)],
    ),
    Endpoint(
        method="DELETE",
        path="/monitors/{id}",
        kind="monitor",
        rows=DELETE,
        ask=lambda aura, given: aura.delete_monitor(given.id),
        command=lambda given: ["monitors", "delete", given.id, "--yes"],
    ),
    Endpoint(
        method="GET",
        path="/monitors/{id}/checks",
        kind="monitor",
        rows=LIST_BELOW,
        model=Check,
        ask=lambda aura, given: _all(aura.list_monitor_checks(given.id)),
        command=lambda given: ["monitors", "checks", given.id],
    ),
    Endpoint(
        method="GET",
        path="/checks",
        kind="monitor",
        rows=LIST_BELOW,
        model=Check,
        query={"monitor_id": "{id}"},
        ask=lambda aura, given: _all(aura.list_checks(given.id)),
        command=lambda given: ["checks", "list", "--monitor", given.id],
    ),
    Endpoint(
        method="GET",
        path="/heartbeats",
        kind="heartbeat",
        rows=LIST,
        model=Heartbeat,
        ask=lambda aura, _: _all(aura.list_heartbeats()),
        command=lambda _: ["heartbeats", "list"],
    ),
    Endpoint(
        method="POST",
        path="/heartbeats",
        kind="integration",
        rows=CREATE,
        model=Heartbeat,
        fields={"name": "new"},
        wrong={"name": ""},
        ask=lambda aura, given: aura.create_heartbeat(**given.fields),
        command=lambda given: ["heartbeats", "create", *_flags(given)],
    ),
    Endpoint(
        method="GET",
        path="/heartbeats/{id}",
        kind="heartbeat",
        rows=GET,
        model=Heartbeat,
        ask=lambda aura, given: aura.get_heartbeat(given.id),
        command=lambda given: ["heartbeats", "get", given.id],
    ),
    Endpoint(
        method="PATCH",
        path="/heartbeats/{id}",
        kind="heartbeat",
        rows=UPDATE,
        model=Heartbeat,
        fields={"name": "changed"},
        wrong={"name": ""},
        ask=lambda aura, given: aura.update_heartbeat(given.id, **given.fields),
        command=lambda given: ["heartbeats", "update", given.id, *_flags(given)],
    ),
    Endpoint(
        method="DELETE",
        path="/heartbeats/{id}",
        kind="heartbeat",
        rows=DELETE,
        ask=lambda aura, given: aura.delete_heartbeat(given.id),
        command=lambda given: ["heartbeats", "delete", given.id, "--yes"],
    ),
    Endpoint(
        method="GET",
        path="/heartbeats/{id}/ping-url",
        kind="heartbeat",
        rows=GET,
        ask=lambda aura, given: aura.ping_url(given.id),
        command=lambda given: ["heartbeats", "ping-url", given.id],
    ),
    Endpoint(
        method="GET",
        path="/incidents",
        kind="incident",
        rows=LIST,
        model=Incident,
        ask=lambda aura, _: _all(aura.list_incidents()),
        command=lambda _: ["incidents", "list"],
    ),
    Endpoint(
        method="GET",
        path="/incidents/{id}",
        kind="incident",
        rows=GET,
        model=Incident,
        ask=lambda aura, given: aura.get_incident(given.id),
        command=lambda given: ["incidents", "get", given.id],
    ),
    Endpoint(
        method="POST",
        path="/incidents/{id}/resolve",
        kind="incident",
        rows=RESOLVE,
        model=Incident,
        fields={"resolution_notes": "Restart fixed it"},
        wrong={"resolution_notes": "x" * 20_000},
        ask=lambda aura, given: aura.resolve_incident(given.id, **given.fields),
        command=lambda given: ["incidents", "resolve", given.id, *_flags(given)],
    ),
    Endpoint(
        method="GET",
        path="/integrations",
        kind="integration",
        rows=LIST,
        model=Integration,
        ask=lambda aura, _: _all(aura.list_integrations()),
        command=lambda _: ["integrations", "list"],
    ),
)

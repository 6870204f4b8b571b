"""``/heartbeats``: list, create, get, update, delete, ping URL."""

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from aura_agent.devserver import rules
from aura_agent.devserver.database import transaction
from aura_agent.devserver.instants import from_us, maybe_from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.permissions import Action
from aura_agent.devserver.refusal import not_found
from aura_agent.devserver.routes.call import Call, Reply
from aura_agent.devserver.routes.operation import Listing, Operation, Resource, listing, taking
from aura_agent.devserver.routes.ownership import require_room, require_team
from aura_agent.devserver.routes.shapes import Instant, Name, TeamId
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import heartbeats
from aura_agent.devserver.tables.heartbeats import HeartbeatRow

_YEAR_S = 31_536_000
IntervalS = Annotated[int, msgspec.Meta(ge=1, le=_YEAR_S)]
GraceS = Annotated[int, msgspec.Meta(ge=0, le=_YEAR_S)]


class HeartbeatOut(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat as the API shows it; lengths in seconds. *ping_url* only where the server lists them."""

    id: str
    name: str
    status: rules.Status
    expected_interval: int
    grace_period: int
    team_id: str | None
    last_ping_at: Instant | None
    created_at: Instant
    updated_at: Instant
    ping_url: str | UnsetType = UNSET


class HeartbeatCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new heartbeat; lengths in seconds."""

    name: Name
    expected_interval: IntervalS = 3600
    grace_period: GraceS = 300
    team_id: TeamId | None = None


class HeartbeatUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; lengths in seconds."""

    name: Name | UnsetType = UNSET
    expected_interval: IntervalS | UnsetType = UNSET
    grace_period: GraceS | UnsetType = UNSET
    team_id: TeamId | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


class PingUrl(msgspec.Struct, frozen=True):
    """Where the pings of a heartbeat go. Whoever knows it can ping."""

    url: str


def shown(service: Service, row: HeartbeatRow, now_us: int) -> HeartbeatOut:
    """Return *row* as the API shows it at *now_us*."""
    return HeartbeatOut(
        id=row.id,
        name=row.name,
        status=rules.status(row.facts, now_us),
        expected_interval=row.expected_interval,
        grace_period=row.grace_period,
        team_id=row.team_id,
        last_ping_at=maybe_from_us(row.last_ping_us),
        created_at=from_us(row.created_us),
        updated_at=from_us(row.updated_us),
        ping_url=service.ping_url(row.ping_key) if service.lists_ping_urls else UNSET,
    )


def _list(call: Call) -> Reply:
    page = parse_page(call.query)
    rows = heartbeats.page_of(call.service.db, call.caller.organization_id, page)
    data = [shown(call.service, row, call.now_us) for row in rows[: page.limit]]
    return Reply(Listing(data, next_cursor(page, rows)))


def _create(call: Call, wanted: HeartbeatCreate) -> Reply:
    require_team(call, wanted.team_id)
    require_room(call, "heartbeats")
    row = heartbeats.create(
        call.service.db,
        call.caller.organization_id,
        name=wanted.name,
        expected_interval=wanted.expected_interval,
        grace_period=wanted.grace_period,
        team_id=wanted.team_id,
        now_us=call.now_us,
    )
    return Reply(shown(call.service, row, call.now_us), 201)


def _get(call: Call) -> Reply:
    return Reply(shown(call.service, _found(call), call.now_us))


def _update(call: Call, wanted: HeartbeatUpdate) -> Reply:
    row = _found(call)
    require_team(call, row.team_id)
    changes = {field: value for field, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    require_team(call, changes.get("team_id"))
    if row.paused and wanted.paused is False:
        changes["resumed_us"] = call.now_us
    with transaction(call.service.db):
        row = heartbeats.update(call.service.db, replace(row, **changes), call.now_us)
    call.service.judge.expect(row.deadline_us)
    return Reply(shown(call.service, row, call.now_us))


def _delete(call: Call) -> Reply:
    row = _found(call)
    require_team(call, row.team_id)
    heartbeats.delete(call.service.db, row)
    return Reply()


def _ping_url(call: Call) -> Reply:
    return Reply(PingUrl(call.service.ping_url(_found(call).ping_key)))


def _found(call: Call) -> HeartbeatRow:
    row = heartbeats.find(call.service.db, call.caller.organization_id, call.path["id"])
    if row is None:
        raise not_found("Heartbeat")
    return row


RESOURCES = (
    Resource(
        "/heartbeats",
        {
            "GET": listing("List the heartbeats", HeartbeatOut, _list),
            "POST": taking(
                HeartbeatCreate,
                _create,
                summary="Create a heartbeat",
                action=Action.CHANGE,
                reply=HeartbeatOut,
                status=201,
                conflicts=True,
            ),
        },
    ),
    Resource(
        "/heartbeats/{id}",
        {
            "GET": Operation(summary="Get a heartbeat", action=Action.READ, handler=_get, reply=HeartbeatOut),
            "PATCH": taking(
                HeartbeatUpdate,
                _update,
                summary="Change a heartbeat",
                action=Action.CHANGE,
                reply=HeartbeatOut,
                conflicts=True,
            ),
            "DELETE": Operation(summary="Delete a heartbeat", action=Action.DELETE, handler=_delete, status=204),
        },
    ),
    Resource(
        "/heartbeats/{id}/ping-url",
        {
            "GET": Operation(
                summary="Get a heartbeat's ping URL", action=Action.READ, handler=_ping_url, reply=PingUrl
            ),
        },
    ),
)

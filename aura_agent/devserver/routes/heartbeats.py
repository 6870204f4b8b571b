"""``/heartbeats``: list, create, get, update, delete, ping URL."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from starlette.routing import Route

from aura_agent.devserver import rules
from aura_agent.devserver.database import transaction
from aura_agent.devserver.instants import from_us, maybe_from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.refusal import not_found
from aura_agent.devserver.routes.call import Call, Reply, resource
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import heartbeats
from aura_agent.devserver.tables.heartbeats import HeartbeatRow

_YEAR_S = 31_536_000
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\S")]
IntervalS = Annotated[int, msgspec.Meta(ge=1, le=_YEAR_S)]
GraceS = Annotated[int, msgspec.Meta(ge=0, le=_YEAR_S)]
TeamId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class HeartbeatOut(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat as the API shows it."""

    id: str
    name: str
    status: rules.Status
    expected_interval: int
    grace_period: int
    team_id: str | None
    last_ping_at: datetime | None
    created_at: datetime
    updated_at: datetime


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    expected_interval: IntervalS = 3600
    grace_period: GraceS = 300
    team_id: TeamId | None = None


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    expected_interval: IntervalS | UnsetType = UNSET
    grace_period: GraceS | UnsetType = UNSET
    team_id: TeamId | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


def routes(service: Service) -> list[Route]:
    return [
        resource(service, "/heartbeats", GET=_list, POST=_create),
        resource(service, "/heartbeats/{id}", GET=_get, PATCH=_update, DELETE=_delete),
        resource(service, "/heartbeats/{id}/ping-url", GET=_ping_url),
    ]


def shown(row: HeartbeatRow, now_us: int) -> HeartbeatOut:
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
    )


def _list(call: Call) -> Reply:
    page = parse_page(call.query)
    rows = heartbeats.page_of(call.service.db, call.caller.organization_id, page)
    data = [shown(row, call.now_us) for row in rows[: page.limit]]
    return Reply({"data": data, "next_cursor": next_cursor(page, rows)})


def _create(call: Call) -> Reply:
    wanted = call.decode(_Create)
    row = heartbeats.create(
        call.service.db,
        call.caller.organization_id,
        name=wanted.name,
        expected_interval=wanted.expected_interval,
        grace_period=wanted.grace_period,
        team_id=wanted.team_id,
        now_us=call.now_us,
    )
    return Reply(shown(row, call.now_us), 201)


def _get(call: Call) -> Reply:
    return Reply(shown(_found(call), call.now_us))


def _update(call: Call) -> Reply:
    wanted = call.decode(_Update)
    row = _found(call)
    changes = {field: value for field, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    if row.paused and wanted.paused is False:
        changes["resumed_us"] = call.now_us
    with transaction(call.service.db):
        row = heartbeats.update(call.service.db, replace(row, **changes), call.now_us)
    call.service.judge.expect(row.deadline_us)
    return Reply(shown(row, call.now_us))


def _delete(call: Call) -> Reply:
    if not heartbeats.delete(call.service.db, call.caller.organization_id, call.path["id"]):
        raise not_found("Heartbeat")
    return Reply()


def _ping_url(call: Call) -> Reply:
    return Reply({"url": call.service.ping_url(_found(call).ping_key)})


def _found(call: Call) -> HeartbeatRow:
    row = heartbeats.find(call.service.db, call.caller.organization_id, call.path["id"])
    if row is None:
        raise not_found("Heartbeat")
    return row

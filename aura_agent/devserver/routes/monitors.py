"""``/monitors``: list, create, get, update, delete."""

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from aura_agent.devserver.database import transaction
from aura_agent.devserver.instants import from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.permissions import Action
from aura_agent.devserver.probes import MonitorStatus
from aura_agent.devserver.refusal import not_found
from aura_agent.devserver.routes.call import Call, Reply
from aura_agent.devserver.routes.operation import Listing, Operation, Resource, listing, taking
from aura_agent.devserver.routes.ownership import require_room, require_team
from aura_agent.devserver.routes.shapes import Instant, Name, TeamId
from aura_agent.devserver.tables import monitors
from aura_agent.devserver.tables.monitors import MonitorRow

CheckIntervalS = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
_HOST = r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
_PORT = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
# No user and password: everybody in the organization reads the URL. The end is one for Python and ECMAScript alike.
Url = Annotated[str, msgspec.Meta(max_length=2048, pattern=rf"^https?://{_HOST}(:{_PORT})?([/?#][!-~]*)?(?!\n)$")]


class MonitorOut(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor as the API shows it; *check_interval* in seconds."""

    id: str
    name: str
    url: str
    check_interval: int
    status: MonitorStatus
    team_id: str | None
    created_at: Instant
    updated_at: Instant


class MonitorCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new monitor; *check_interval* in seconds."""

    name: Name
    url: Url
    check_interval: CheckIntervalS = 60
    team_id: TeamId | None = None


class MonitorUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; *check_interval* in seconds."""

    name: Name | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    check_interval: CheckIntervalS | UnsetType = UNSET
    team_id: TeamId | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


def shown(row: MonitorRow) -> MonitorOut:
    return MonitorOut(
        id=row.id,
        name=row.name,
        url=row.url,
        check_interval=row.check_interval,
        status=row.status,
        team_id=row.team_id,
        created_at=from_us(row.created_us),
        updated_at=from_us(row.updated_us),
    )


def found(call: Call, monitor_id: str) -> MonitorRow:
    """Return the monitor; Refusal 404: the caller's organization has none with this id."""
    row = monitors.find(call.service.db, call.caller.organization_id, monitor_id)
    if row is None:
        raise not_found("Monitor")
    return row


def _list(call: Call) -> Reply:
    page = parse_page(call.query)
    rows = monitors.page_of(call.service.db, call.caller.organization_id, page)
    return Reply(Listing([shown(row) for row in rows[: page.limit]], next_cursor(page, rows)))


def _create(call: Call, wanted: MonitorCreate) -> Reply:
    require_team(call, wanted.team_id)
    require_room(call, "monitors")
    row = monitors.create(
        call.service.db,
        call.caller.organization_id,
        name=wanted.name,
        url=wanted.url,
        check_interval=wanted.check_interval,
        team_id=wanted.team_id,
        now_us=call.now_us,
    )
    call.service.prober.expect(row.due_us)
    return Reply(shown(row), 201)


def _get(call: Call) -> Reply:
    return Reply(shown(found(call, call.path["id"])))


def _update(call: Call, wanted: MonitorUpdate) -> Reply:
    row = found(call, call.path["id"])
    require_team(call, row.team_id)
    changes = {field: value for field, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    require_team(call, changes.get("team_id"))
    with transaction(call.service.db):
        row = monitors.update(call.service.db, row, replace(row, **changes), call.now_us)
    call.service.prober.expect(row.due_us)
    return Reply(shown(row))


def _delete(call: Call) -> Reply:
    row = found(call, call.path["id"])
    require_team(call, row.team_id)
    with transaction(call.service.db):
        monitors.delete(call.service.db, row)
    return Reply()


RESOURCES = (
    Resource(
        "/monitors",
        {
            "GET": listing("List the monitors", MonitorOut, _list),
            "POST": taking(
                MonitorCreate,
                _create,
                summary="Create a monitor",
                action=Action.CHANGE,
                reply=MonitorOut,
                status=201,
                conflicts=True,
            ),
        },
    ),
    Resource(
        "/monitors/{id}",
        {
            "GET": Operation(summary="Get a monitor", action=Action.READ, handler=_get, reply=MonitorOut),
            "PATCH": taking(
                MonitorUpdate,
                _update,
                summary="Change a monitor",
                action=Action.CHANGE,
                reply=MonitorOut,
                conflicts=True,
            ),
            "DELETE": Operation(summary="Delete a monitor", action=Action.DELETE, handler=_delete, status=204),
        },
    ),
)

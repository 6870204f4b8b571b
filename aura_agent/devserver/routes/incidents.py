"""``/incidents``: list, get, resolve."""

from typing import Annotated, Literal

import msgspec

from aura_agent.devserver.instants import from_us, maybe_from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.permissions import Action
from aura_agent.devserver.refusal import Refusal, not_found
from aura_agent.devserver.routes.call import Call, Reply
from aura_agent.devserver.routes.operation import Listing, Operation, Resource, listing, taking
from aura_agent.devserver.routes.shapes import Instant
from aura_agent.devserver.tables import incidents
from aura_agent.devserver.tables.incidents import Incident


class IncidentOut(msgspec.Struct, frozen=True, kw_only=True):
    """An incident as the API shows it: of a heartbeat or of a monitor."""

    id: str
    heartbeat_id: str | None
    monitor_id: str | None
    status: Literal["open", "resolved"]
    started_at: Instant
    resolved_at: Instant | None
    resolution_notes: str | None


# Fits into a body however its characters are escaped, so that a length is refused for what it is.
_Notes = Annotated[str, msgspec.Meta(max_length=5_000)]


class IncidentResolve(msgspec.Struct, forbid_unknown_fields=True):
    """What to note down as an incident is resolved."""

    resolution_notes: _Notes | None = None


def shown(incident: Incident) -> IncidentOut:
    return IncidentOut(
        id=incident.id,
        heartbeat_id=incident.heartbeat_id,
        monitor_id=incident.monitor_id,
        status=incident.status,
        started_at=from_us(incident.started_us),
        resolved_at=maybe_from_us(incident.resolved_us),
        resolution_notes=incident.resolution_notes,
    )


def _list(call: Call) -> Reply:
    page = parse_page(call.query)
    rows = incidents.page_of(call.service.db, call.caller.organization_id, page)
    return Reply(Listing([shown(row) for row in rows[: page.limit]], next_cursor(page, rows)))


def _get(call: Call) -> Reply:
    return Reply(shown(_found(call)))


def _resolve(call: Call, wanted: IncidentResolve) -> Reply:
    incident = _found(call)
    if incident.status == "resolved":
        raise Refusal(409, "the incident is resolved already")
    return Reply(shown(incidents.resolve(call.service.db, incident, wanted.resolution_notes, call.now_us)))


def _found(call: Call) -> Incident:
    incident = incidents.find(call.service.db, call.caller.organization_id, call.path["id"])
    if incident is None:
        raise not_found("Incident")
    return incident


RESOURCES = (
    Resource("/incidents", {"GET": listing("List the incidents", IncidentOut, _list)}),
    Resource(
        "/incidents/{id}",
        {"GET": Operation(summary="Get an incident", action=Action.READ, handler=_get, reply=IncidentOut)},
    ),
    Resource(
        "/incidents/{id}/resolve",
        {
            "POST": taking(
                IncidentResolve,
                _resolve,
                summary="Resolve an incident",
                action=Action.RESOLVE,
                reply=IncidentOut,
                conflicts=True,
                empty=IncidentResolve(),
            ),
        },
    ),
)

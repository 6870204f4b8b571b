"""``/incidents``: list and get."""

from datetime import datetime
from typing import Literal

import msgspec
from starlette.routing import Route

from aura_agent.devserver.instants import from_us, maybe_from_us
from aura_agent.devserver.paging import next_cursor, parse_page
from aura_agent.devserver.refusal import not_found
from aura_agent.devserver.routes.call import Call, Reply, resource
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import incidents
from aura_agent.devserver.tables.incidents import Incident


class IncidentOut(msgspec.Struct, frozen=True, kw_only=True):
    """An incident as the API shows it."""

    id: str
    heartbeat_id: str | None
    monitor_id: str | None
    status: Literal["open", "resolved"]
    started_at: datetime
    resolved_at: datetime | None
    resolution_notes: str | None


def routes(service: Service) -> list[Route]:
    return [
        resource(service, "/incidents", GET=_list),
        resource(service, "/incidents/{id}", GET=_get),
    ]


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
    return Reply({"data": [shown(row) for row in rows[: page.limit]], "next_cursor": next_cursor(page, rows)})


def _get(call: Call) -> Reply:
    incident = incidents.find(call.service.db, call.caller.organization_id, call.path["id"])
    if incident is None:
        raise not_found("Incident")
    return Reply(shown(incident))

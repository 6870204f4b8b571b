"""The resource ``/incidents``: what Aura alerts people of, and resolving it. Pure."""

from datetime import datetime

import msgspec

from aura_agent.api.wire import Request, action_request

RESOURCE = "incidents"


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident, of a monitor or of a heartbeat. None: the answer didn't say, or it hasn't come to that yet.

    *status* is ``open`` or ``resolved``, or what a newer service says.
    """

    id: str
    monitor_id: str | None = None
    heartbeat_id: str | None = None
    status: str | None = None
    started_at: datetime | None = None
    resolved_at: datetime | None = None
    resolution_notes: str | None = None


def resolve_request(incident_id: str, resolution_notes: str | None) -> Request:
    """Ask for an incident to be resolved. Raises NotFound for what no id can be."""
    fields = {} if resolution_notes is None else {"resolution_notes": resolution_notes}
    return action_request(RESOURCE, incident_id, "resolve", fields)

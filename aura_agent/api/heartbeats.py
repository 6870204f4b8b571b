"""The resource ``/heartbeats``: its model, what may be written of it, and its ping URL. Pure.

Each resource of the API has a module like this one beside it; ``models`` reads and writes them, the client carries.
"""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aura_agent.api import assumptions
from aura_agent.api.errors import ApiGarbled
from aura_agent.api.wire import Request, below
from aura_agent.secret import Secret

RESOURCE = "heartbeats"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, rename=assumptions.HEARTBEAT_WIRE_NAMES):
    """A heartbeat as Aura has it. None: the answer didn't say, or said something that can't be read.

    *status* is one of ``pending``, ``up``, ``down``, ``paused``, or what a newer service says.
    """

    id: str
    name: str | None = None
    status: str | None = None
    expected_interval_s: float | None = None
    grace_period_s: float | None = None
    team_id: str | None = None
    last_ping_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ping_url: Secret | None = None


class HeartbeatFields(msgspec.Struct, frozen=True, kw_only=True, rename=assumptions.HEARTBEAT_WIRE_NAMES):
    """What is written of a heartbeat: UNSET is the service's choice, or stays as it is; no team is None."""

    name: str | UnsetType = UNSET
    expected_interval_s: float | UnsetType = UNSET
    grace_period_s: float | UnsetType = UNSET
    team_id: str | UnsetType | None = UNSET


def ping_url_request(heartbeat_id: str) -> Request:
    """Ask for a heartbeat's ping URL. Raises NotFound for what no id can be."""
    return Request("GET", "/" + below(RESOURCE, heartbeat_id, "ping-url"))


def read_ping_url(fields: dict[str, Any]) -> Secret:
    """Read the answer of ``ping-url``. Raises ApiGarbled if there is no http(s) URL in it."""
    url = assumptions.url_of(fields.get(assumptions.PING_URL_FIELD))
    if url is None:
        raise ApiGarbled("the Aura API answered with no ping URL where one was asked for")
    return url

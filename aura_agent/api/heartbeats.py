"""The resource ``/heartbeats``: its model, and how to read it from an answer. Pure.

Each resource of the API has a module like this one beside it: a model, requests and readers; the client carries.
"""

from datetime import datetime
from typing import Any

import msgspec

from aura_agent.api import assumptions
from aura_agent.api.errors import ApiGarbled
from aura_agent.api.wire import Request, get_request
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


def ping_url_request(heartbeat_id: str) -> Request:
    """Ask for a heartbeat's ping URL. Raises NotFound for what no id can be."""
    return get_request(RESOURCE, heartbeat_id, "ping-url")


def read_heartbeat(fields: dict[str, Any]) -> Heartbeat:
    """Read one heartbeat. Raises ApiGarbled if it has no id."""
    identity = assumptions.text_of(fields.get("id"))
    if not identity:
        raise ApiGarbled("the Aura API answered with a heartbeat that has no id")
    wire = assumptions.HEARTBEAT_WIRE_NAMES
    return Heartbeat(
        id=identity,
        name=assumptions.text_of(fields.get("name")),
        status=assumptions.text_of(fields.get("status")),
        expected_interval_s=assumptions.seconds_of(fields.get(wire["expected_interval_s"])),
        grace_period_s=assumptions.seconds_of(fields.get(wire["grace_period_s"])),
        team_id=assumptions.text_of(fields.get("team_id")),
        last_ping_at=assumptions.instant_of(fields.get("last_ping_at")),
        created_at=assumptions.instant_of(fields.get("created_at")),
        updated_at=assumptions.instant_of(fields.get("updated_at")),
        ping_url=_url(fields.get(assumptions.LISTED_PING_URL_FIELD)),
    )


def read_ping_url(fields: dict[str, Any]) -> Secret:
    """Read the answer of ``ping-url``. Raises ApiGarbled if there is no http(s) URL in it."""
    url = _url(fields.get(assumptions.PING_URL_FIELD))
    if url is None:
        raise ApiGarbled("the Aura API answered with no ping URL where one was asked for")
    return url


def _url(value: object) -> Secret | None:
    """Return *value* as a ping URL if it has the shape of one; the delivery judges it in full."""
    if isinstance(value, str) and value.lower().startswith(("https://", "http://")) and value.isprintable():
        return Secret(value)
    return None

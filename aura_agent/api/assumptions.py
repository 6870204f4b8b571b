"""Where the service's API page is silent: every guess of the client, in one place.

The page documents the error envelope, pagination and the endpoints; it shows no schema of a resource. What follows is
assumed: the wire names of the fields, that an object may come bare or under ``data``, and that a field may be missing,
null or of an unknown shape. Such a field reads as None rather than failing the call; only an id is required. A
heartbeat may carry its ping URL as ``ping_url``.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from aura_agent.report.ping_url import canonical
from aura_agent.secret import Secret

BASE_URL = "https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1"  # documented, not assumed

# Our names, where they differ from the wire's.
HEARTBEAT_WIRE_NAMES = {"expected_interval_s": "expected_interval", "grace_period_s": "grace_period"}
MONITOR_WIRE_NAMES = {"check_interval_s": "check_interval"}
PING_URL_FIELD = "url"  # documented: "Use the returned `url` value"
OBJECT_WRAPPER = "data"
# No object has this id: a change of it is refused for the token's scope (403) before it isn't found (404).
NOBODY = "00000000-0000-0000-0000-000000000000"


def unwrap(decoded: dict[str, Any]) -> dict[str, Any]:
    """Return the object of *decoded*, bare or under ``data``."""
    inner = decoded.get(OBJECT_WRAPPER)
    return inner if isinstance(inner, dict) else decoded


def looks_like_id(text: str) -> bool:
    """Whether *text* has the form of an id, so that what isn't found under it is no name: ids are UUIDs."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def text_of(value: object) -> str | None:
    """Return a string field; numbers count as their digits, since ids may be either."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def length_of(value: object) -> float | None:
    """Return a length of time, above or equal to zero; a string of digits counts."""
    try:
        length = msgspec.convert(value, float, strict=False)
    except msgspec.ValidationError:
        return None
    return length if 0 <= length < float("inf") else None


def count_of(value: object) -> int | None:
    """Return a whole number, above or equal to zero; a string of digits counts."""
    try:
        count = msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError:
        return None
    return count if count >= 0 else None


def url_of(value: object) -> Secret | None:
    """Return a ping URL if *value* has the shape of one; the delivery judges it in full."""
    if not isinstance(value, str):
        return None
    try:
        return Secret(canonical(value))
    except ValueError:
        return None


def instant_of(value: object) -> datetime | None:
    """Return an instant, aware and in UTC: RFC 3339, or seconds since the epoch; without an offset it counts as UTC."""
    try:
        instant = msgspec.convert(value, datetime, strict=False)
    except (msgspec.ValidationError, OverflowError, ValueError):
        return None
    try:
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except OverflowError:
        return None


def error_fields(decoded: object) -> tuple[str, str, str]:
    """Return (code, message, request id) of an error's decoded body, empty where it doesn't say.

    The documented envelope is ``{"error": {"code", "message", "request_id"}}``. A gateway in front of the API may
    answer ``{"message": …}`` or ``{"error": "…"}`` instead.
    """
    if not isinstance(decoded, dict):
        return "", "", ""
    inner = decoded.get("error", decoded)
    if isinstance(inner, str):
        return "", inner, ""
    if not isinstance(inner, dict):
        return "", "", ""
    code, message, request_id = (inner.get(name) for name in ("code", "message", "request_id"))
    return text_of(code) or "", text_of(message) or "", text_of(request_id) or ""

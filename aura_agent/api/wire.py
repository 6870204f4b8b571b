"""Requests and answers of the API as plain values: no sockets, no clock, no httpx.

Builds what is to be asked and reads what came back; the client in between only carries. Bodies are read with bounds
by the client. The contract is the service's API page; what it leaves open is in ``assumptions``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from aura_agent.api import assumptions
from aura_agent.api.errors import ApiError, ApiGarbled, BadRequest, NotFound, error_class, likely_cause
from aura_agent.api.retry_after import retry_after_s
from aura_agent.units import format_duration

PAGE_LIMIT = 100  # the API's own upper bound
_QUOTED_CHARACTERS = 300  # of a server's message, which is the server's to choose


@dataclass(frozen=True, slots=True)
class Request:
    """One call: *path* below the base URL, *body* JSON or nothing."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, its body read up to a bound. *headers* have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    items: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Budget:
    """What the token may still ask, as the last successful answer told; None where it didn't."""

    minute: int | None
    hour: int | None


def list_request(resource: str, *, limit: int, **filters: str) -> Request:
    """Ask for the first page of *resource*; *limit* is brought into the API's 1 to 100."""
    return Request("GET", f"/{resource}", (("limit", str(max(1, min(PAGE_LIMIT, limit)))), *filters.items()))


def next_page(request: Request, cursor: str) -> Request:
    """Ask for what comes after the page that ended with *cursor*; *request* is the first page's."""
    return replace(request, query=(*request.query, ("cursor", cursor)))


def get_request(resource: str, identity: str) -> Request:
    """Ask for one object. Raises NotFound for what no id can be."""
    return Request("GET", "/" + below(resource, identity))


def below(resource: str, identity: str, *more: str) -> str:
    """Return the path of one object, or of what hangs below it. Raises NotFound for what no id can be."""
    return "/".join((resource, quote(checked_id(identity), safe=""), *more))


def create_request(resource: str, fields: Mapping[str, object]) -> Request:
    return Request("POST", f"/{resource}", body=_body(fields))


def update_request(resource: str, identity: str, fields: Mapping[str, object]) -> Request:
    """Change the named fields of one object. Raises NotFound for what no id can be."""
    return Request("PATCH", "/" + below(resource, identity), body=_body(fields))


def delete_request(resource: str, identity: str) -> Request:
    """Raise NotFound for what no id can be."""
    return Request("DELETE", "/" + below(resource, identity))


def action_request(resource: str, identity: str, action: str, fields: Mapping[str, object]) -> Request:
    """Do something to one object. Raises NotFound for what no id can be."""
    return Request("POST", "/" + below(resource, identity, action), body=_body(fields))


def parse_page(reply: Reply) -> Page:
    """Read a listing. Raises ApiGarbled."""
    decoded = _decode_object(reply)
    items, cursor = decoded.get("data"), decoded.get("next_cursor")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _garbled(reply, 'its "data" isn\'t a list of objects')
    if cursor is not None and not isinstance(cursor, str):
        raise _garbled(reply, 'its "next_cursor" is neither text nor null')
    return Page(items, cursor or None)


def parse_object(reply: Reply) -> dict[str, Any]:
    """Read one object, bare or wrapped. Raises ApiGarbled."""
    return assumptions.unwrap(_decode_object(reply))


def parse_budget(headers: Mapping[str, str]) -> Budget:
    """Read what is left of the rate limits."""
    minute, hour = (_count(headers.get(f"x-ratelimit-remaining-{window}")) for window in ("minute", "hour"))
    return Budget(minute, hour)


def parse_error(request: Request, reply: Reply, now: datetime, *, hide: str = "") -> ApiError:
    """Return the exception for an answer that isn't 2xx; *hide* is the token, should the server quote it."""
    if not 400 <= reply.status <= 599:
        target = _redirect_host(reply)
        return _garbled(reply, f"redirects aren't followed (to {target})" if target else "no final answer")
    try:
        decoded: object = _decode(reply.body)
    except ValueError:
        decoded = None
    code, message, request_id = (
        _quote(field.replace(hide, "…") if hide else field) for field in assumptions.error_fields(decoded)
    )
    said = message or code or f"no error text in an answer of type {_content_type(reply)}"
    hint = likely_cause(reply.status, request.method, f"{code} {message}")
    what = f"the Aura API refused {request}" if reply.status < 500 else "the Aura API failed"
    wait_s = retry_after_s(reply.headers.get("retry-after"), now)
    text = f"{what} ({reply.status}): {said}" + (f"; {hint}" if hint else "")
    if wait_s:
        text += f"; try again in {format_duration(wait_s)}"
    elif reply.status == 429:
        text += "; try again in a minute"
    return error_class(reply.status, code)(
        text + (f" [request id {request_id}]" if request_id else ""),
        code=code,
        message=message,
        request_id=request_id,
        status=reply.status,
        retry_after_s=wait_s,
    )


def checked_id(identity: str) -> str:
    """Return *identity*. Raises NotFound for what no id can be."""
    if identity.strip(".") == "" or not identity.isprintable():
        raise NotFound(f"{_quote(identity)!r} can't be an id in Aura", code="not_found", status=404)
    return identity


def _body(fields: Mapping[str, object]) -> bytes:
    """Return *fields* as JSON. Raises BadRequest for what JSON doesn't have: NaN, a lone surrogate, a set."""
    try:
        return json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as exc:
        raise BadRequest(f"a field can't be sent as JSON: {_quote(str(exc))}", code="bad_request", status=400) from exc


def _redirect_host(reply: Reply) -> str:
    """Return the host that a redirect leads to, and nothing else of its URL."""
    try:
        return _quote(urlsplit(reply.headers.get("location", "")).hostname or "")
    except ValueError:
        return ""


def _decode_object(reply: Reply) -> dict[str, Any]:
    try:
        decoded = _decode(reply.body)
    except ValueError as exc:
        raise _garbled(reply, "it isn't JSON, or cut off") from exc
    if not isinstance(decoded, dict):
        raise _garbled(reply, "it isn't a JSON object")
    return decoded


def _decode(body: bytes) -> Any:
    """Decode JSON. Raises ValueError, whatever is wrong with it."""
    try:
        return msgspec.json.decode(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def _garbled(reply: Reply, why: str) -> ApiGarbled:
    return ApiGarbled(
        f"the answer ({reply.status}, {_content_type(reply)}) isn't the Aura API's: {why}; "
        "is the base URL right, and no proxy or login page in between?",
        status=reply.status,
    )


def _content_type(reply: Reply) -> str:
    return _quote(reply.headers.get("content-type", "").partition(";")[0]) or "no content type"


def _count(text: str | None) -> int | None:
    return int(text) if text and len(text) <= 9 and text.isascii() and text.isdigit() else None


def _quote(text: str) -> str:
    """Return the server's *text* fit for one line of ours."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _QUOTED_CHARACTERS else line[: _QUOTED_CHARACTERS - 1] + "…"

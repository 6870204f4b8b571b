"""One call of the API: read, authorized and settled before a handler sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura_agent.devserver.permissions import scope_objection
from aura_agent.devserver.refusal import Refusal
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import tokens
from aura_agent.devserver.tables.tokens import Caller

MAX_BODY_BYTES = 65_536
NO_CONTENT = None
_READING = ("GET", "HEAD")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. *now_us* is the instant of the whole call; *path* holds the path's parameters."""

    service: Service
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    now_us: int

    def decode(self, shape: type[T]) -> T:
        """Return the body as *shape*; Refusal 400 says what is wrong with it."""
        return decode(self.body, shape)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer: JSON of *payload*, or nothing at all if there is none."""

    payload: object = NO_CONTENT
    status: int = 200


Handler = Callable[[Call], Reply]


def route(service: Service, path: str, handlers: Mapping[str, Handler]) -> Route:
    """Return the route of *path* with a handler for each method."""

    async def endpoint(request: Request) -> Response:
        body = await read_body(request.receive, request.headers.get("content-length"), MAX_BODY_BYTES)
        now_us = service.settled_us()
        caller: Caller = request.scope["caller"]
        call = Call(service, caller, request.path_params, request.query_params, body, now_us)
        reply = handlers["GET" if request.method == "HEAD" else request.method](call)
        if reply.payload is NO_CONTENT:
            return Response(status_code=204)
        return Response(msgspec.json.encode(reply.payload), reply.status, media_type="application/json")

    return Route(path, endpoint, methods=list(handlers))


class Gate:
    """Lets a request through to *app* if its token, scope and rate allow it; ``scope["caller"]`` says who calls."""

    def __init__(self, app: ASGIApp, service: Service, *, limited: bool, reading: tuple[str, ...] = _READING) -> None:
        self._app, self._service, self._limited, self._reading = app, service, limited, reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._caller(scope)
        budget: list[tuple[bytes, bytes]] = []
        if self._limited and self._service.rates is not None:
            verdict = self._service.rates.take(caller.token_id, self._service.monotonic_s())
            budget = [
                (b"x-ratelimit-remaining-minute", str(verdict.left_minute).encode()),
                (b"x-ratelimit-remaining-hour", str(verdict.left_hour).encode()),
            ]
            if not verdict.allowed:
                raise Refusal(429, "too many requests", {"Retry-After": str(verdict.retry_after_s)})
        objection = scope_objection(caller.scope, writes=scope["method"] not in self._reading)
        if objection is not None:
            raise Refusal(403, objection)

        async def send_with_budget(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *budget]
            await send(message)

        scope["caller"] = caller
        await self._app(scope, receive, send_with_budget)

    def _caller(self, scope: Scope) -> Caller:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
        scheme, _, token = header.partition(" ")
        caller = tokens.find(self._service.db, token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refusal(401, "missing, invalid or revoked token", {"WWW-Authenticate": "Bearer"})
        return caller


async def read_body(receive: Receive, content_length: str | None, max_bytes: int) -> bytes:
    """Return the whole body; Refusal 413: it is larger than *max_bytes*. Raises ConnectionError: the client left."""
    too_large = Refusal(413, f"the body is larger than {max_bytes} bytes")
    if content_length is not None and int(content_length) > max_bytes:
        raise too_large
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client left in mid-body")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise too_large
        more = message.get("more_body", False)
    return body


def decode(body: bytes, shape: type[T]) -> T:
    """Return *body*, JSON, as *shape*; Refusal 400 says what is wrong with it."""
    try:
        return msgspec.convert(_JSON.decode(body), shape)
    except msgspec.ValidationError as exc:
        raise Refusal(400, str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise Refusal(400, "the body is not valid JSON") from exc


def _number(text: str) -> float | int:
    """Return a number written with a point or an exponent: as JSON Schema has it, 60.0 is an integer."""
    number = float(text)
    return int(number) if number.is_integer() else number


_JSON = msgspec.json.Decoder(float_hook=_number)


async def refuse(_: Request, exc: Exception) -> Response:
    """Answer a Refusal, what Starlette's router raises, or an error of ours, with the envelope."""
    if isinstance(exc, Refusal):
        return exc.response()
    if not isinstance(exc, HTTPException):
        return Refusal(500, "internal error").response()
    wanted: dict[int, str] = {404: "no such resource", 405: "this resource has no such method"}
    headers: Mapping[str, Any] | None = exc.headers
    return Refusal(exc.status_code, wanted.get(exc.status_code, exc.detail), headers).response()

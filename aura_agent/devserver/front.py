"""Every request comes through here: it is noted, gets its fault if one is due, and always an answer in the envelope.

Pings are answered right here, the rest by Starlette's router: a ping is the one request that comes by the hundred.
Nothing of a request is logged, since its path may hold a ping key and its headers a token.
"""

import logging
from functools import partial

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura_agent.devserver.faults import Target
from aura_agent.devserver.instants import from_us
from aura_agent.devserver.misbehave import BLOCKING, misbehave
from aura_agent.devserver.openapi import document
from aura_agent.devserver.received import RUN_HEADER, ReceivedPing, ReceivedRequest
from aura_agent.devserver.refusal import Refusal, not_found
from aura_agent.devserver.routes import RESOURCES, api_routes
from aura_agent.devserver.routes.call import Gate, read_body, refuse
from aura_agent.devserver.routes.control import control_routes
from aura_agent.devserver.service import API_PATH, CONTROL_PATH, PING_PATH, Service
from aura_agent.devserver.tables import heartbeats
from aura_agent.devserver.tables.heartbeats import HeartbeatRow

_log = logging.getLogger(__name__)
_DOCUMENT_PATH = "/openapi.json"
_ACCEPTED = msgspec.json.encode({"status": "ok"})


class Front:
    """The ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._router = _router(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answering(self._dispatch, scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(CONTROL_PATH + "/"):
            await self._router(scope, receive, send)
        elif path.startswith(PING_PATH):
            await self._ping(path.removeprefix(PING_PATH), scope, receive, send)
        else:
            heartbeat_id = path.partition("/heartbeats/")[2].partition("/")[0]
            known = heartbeats.find_by_id(self._service.db, heartbeat_id) if heartbeat_id else None
            request = self._note(scope, path, heartbeat_id or None)
            about = None if known is None else (known.id, known.name)
            await self._serve("api", self._router, request, about, scope, receive, send)

    async def _ping(self, ping_key: str, scope: Scope, receive: Receive, send: Send) -> None:
        row = heartbeats.find_by_key(self._service.db, ping_key)
        request = self._note(scope, PING_PATH + "{key}", None if row is None else row.id)
        about = (row.id, row.name) if row is not None else None
        app = partial(self._accept, row, request)
        ignored = partial(self._turn_away, row, request)
        await self._serve("ping", app, request, about, scope, receive, send, ignored)

    async def _serve(
        self,
        target: Target,
        app: ASGIApp,
        request: ReceivedRequest,
        heartbeat: tuple[str, str] | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        ignored: ASGIApp | None = None,
    ) -> None:
        """Let *app* answer, through the fault that the request gets; *ignored* takes what a fault keeps from it."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        answering = partial(_answering, app)
        active = self._service.faults.take(target, heartbeat, self._service.monotonic_s())
        if active is None:
            await answering(scope, receive, noting)
            return
        request.fault = active.fault.kind
        if ignored is not None and active.fault.kind in BLOCKING:
            await _answering(ignored, scope, receive, _nowhere)
        await misbehave(active, answering, scope, receive, noting)

    async def _accept(
        self, row: HeartbeatRow | None, request: ReceivedRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Take a ping. It arrives when the last byte of its body does."""
        service = self._service
        row = _pinged(row, scope)
        try:
            body = await read_body(receive, request.headers.get("content-length"), service.max_ping_body_bytes)
        except Refusal:
            self._remember(row, b"", request, accepted=False)
            raise
        now_us = service.now_us()
        service.judge.settle(now_us)
        # Found again: it may have been judged just now; while the body came in, changed, deleted, given another URL.
        row = _pinged(heartbeats.find_by_key(service.db, row.ping_key), scope)
        row = heartbeats.record_ping(service.db, row, now_us)
        service.judge.expect(row.deadline_us)
        self._remember(row, body, request, accepted=True)
        await Response(_ACCEPTED, media_type="application/json")(scope, receive, send)

    async def _turn_away(
        self, row: HeartbeatRow | None, request: ReceivedRequest, scope: Scope, receive: Receive, _send: Send
    ) -> None:
        """Note a ping that won't count."""
        row = _pinged(row, scope)
        body = await read_body(receive, None, self._service.max_ping_body_bytes)
        self._remember(row, body, request, accepted=False)

    def _remember(self, row: HeartbeatRow, body: bytes, request: ReceivedRequest, *, accepted: bool) -> None:
        at = from_us(row.last_ping_us) if accepted and row.last_ping_us is not None else self._service.wall()
        text = body.decode("utf-8", "replace")
        run = request.headers.get(RUN_HEADER)
        self._service.received.add_ping(ReceivedPing(row.id, row.name, at, text, run, accepted))

    def _note(self, scope: Scope, path: str, heartbeat_id: str | None) -> ReceivedRequest:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = ReceivedRequest(
            method=scope["method"],
            path=path,
            query=scope["query_string"].decode("latin-1"),
            at=self._service.wall(),
            authorized=headers.pop("authorization", None) is not None,
            headers=headers,
            heartbeat_id=heartbeat_id,
        )
        self._service.received.add_request(request)
        return request


def _pinged(row: HeartbeatRow | None, scope: Scope) -> HeartbeatRow:
    if row is None:
        raise not_found("Heartbeat")
    if scope["method"] != "POST":
        raise Refusal(405, "a ping is a POST", {"Allow": "POST"})
    return row


def _router(service: Service) -> Starlette:
    # Inside the gate too, for the methods that it hasn't.
    routes = [*api_routes(service), Route(_DOCUMENT_PATH, _publish)]
    api = Gate(Router(routes, redirect_slashes=False), service, limited=True)
    control = Gate(Router(control_routes(service), redirect_slashes=False), service, limited=False, reading=())
    app = Starlette(
        routes=[
            Route(API_PATH + _DOCUMENT_PATH, _publish),
            Mount(API_PATH, app=api),
            Mount(CONTROL_PATH, app=control),
        ],
        exception_handlers={Refusal: refuse, HTTPException: refuse, Exception: refuse},
    )
    # A redirect to the path with or without a slash would be an answer without an envelope.
    app.router.redirect_slashes = False
    return app


async def _publish(_: Request) -> Response:
    """Answer with the API's own description, which takes no token."""
    return Response(msgspec.json.encode(document(RESOURCES, API_PATH)), media_type="application/json")


async def _answering(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app*; whatever it raises becomes an answer."""
    started = False

    async def watching(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receive, watching)
    except ConnectionAbortedError:
        return  # the client left: nobody is there to be answered
    except Refusal as refusal:
        response = refusal.response()
    except Exception as exc:  # noqa: BLE001  # the last edge: an error of ours is an answer too
        _log.error("internal error", exc_info=exc)
        response = Refusal(500, "internal error").response()
    else:
        return
    if not started:
        await response(scope, receive, send)


async def _nowhere(_: Message) -> None:
    """Send nothing."""

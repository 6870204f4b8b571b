"""Makes a fault happen to one request: the thin shell around ``faults.py``.

Works on the request's own connection, which the listener puts into ``scope["state"]["transport"]``.
"""

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura_agent.devserver.faults import ActiveFault, Fault
from aura_agent.devserver.refusal import envelope

BLOCKING = ("hang", "status")  # the request isn't acted upon
_BODILESS = (204, 304)
_MISSING_BYTES = 64


async def misbehave(active: ActiveFault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the request as *active* says. *app* acts on it, and answers errors by itself."""
    fault = active.fault
    if fault.kind == "status":
        await _told(fault)(scope, receive, send)
    elif fault.kind == "hang":
        await _hold(active, scope, receive)
    elif fault.kind == "slow":
        await _slowly(active, *await _captured(app, scope, receive), send)
    else:
        start, body = await _captured(app, scope, receive)
        if fault.kind == "drop" and start["status"] not in _BODILESS and scope["method"] != "HEAD":
            await _half(start, body, send)
        scope["state"]["transport"].close()
        await _gone(receive)


def _told(fault: Fault) -> Response:
    headers = {"Retry-After": fault.retry_after, "Location": fault.location}
    given = {name: str(value) for name, value in headers.items() if value is not None}
    body = b"" if fault.status in _BODILESS else envelope(fault.status, "as ordered")
    return Response(body or None, fault.status, given, "application/json" if body else None)


async def _hold(active: ActiveFault, scope: Scope, receive: Receive) -> None:
    """Say nothing until the client leaves, or the fault is cleared."""
    gone = asyncio.create_task(_gone(receive), name="hung-client")
    ended = asyncio.create_task(active.ended.wait(), name="hung-fault")
    try:
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        scope["state"]["transport"].abort()
        await gone


async def _slowly(active: ActiveFault, start: Message, body: bytes, send: Send) -> None:
    await _pause(active, active.fault.delay_s)
    await send(start)
    step = 1 if active.fault.drip_s else max(len(body), 1)
    for at in range(0, len(body), step):
        await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
        await _pause(active, active.fault.drip_s)
    await send({"type": "http.response.body", "body": b""})


async def _half(start: Message, body: bytes, send: Send) -> None:
    """Send half of *body*, under a Content-Length that is larger still."""
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    promised = str(len(body) + _MISSING_BYTES).encode()
    await send({**start, "headers": [*headers, (b"content-length", promised)]})
    await send({"type": "http.response.body", "body": body[: (len(body) + 1) // 2], "more_body": True})


async def _pause(active: ActiveFault, seconds: float) -> None:
    """Wait, but no longer than the fault is active."""
    if seconds > 0:
        try:
            await asyncio.wait_for(active.ended.wait(), seconds)
        except TimeoutError:
            pass


async def _captured(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return what *app* would have answered: the start of the response, and its body.

    Raises ConnectionAbortedError: the client left before it could be answered.
    """
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    if not messages:
        raise ConnectionAbortedError
    return messages[0], b"".join(message.get("body", b"") for message in messages[1:])


async def _gone(receive: Receive) -> None:
    """Return once the connection is closed."""
    while (await receive())["type"] != "http.disconnect":
        pass

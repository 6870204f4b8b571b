"""One ping: one POST to one ping URL, within one deadline, and what came of it.

The status line decides: once it is there, what happens to the rest of the answer changes nothing. No exception leaves
this module except cancellation, and nothing that it returns holds the URL. httpx and httpcore log URLs at INFO and
DEBUG; ``build_http`` raises their loggers to WARNING, wherever the program runs.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from aura_agent.api.transport import USER_AGENT, build_client, judge_url, timeouts, trouble_of
from aura_agent.api.trouble import Trouble
from aura_agent.delivery.skew import ahead_of
from aura_agent.secret import Secret

TOTAL_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024
_ANSWER_S = 2.0  # for the body after the head, which is read only to keep the connection


_WRITING = ".send_request_headers.started"  # what httpcore tells of right before it writes the request

Objection = Callable[[], Awaitable[str]]  # why nothing must be written now; empty if it may be


class _Objected(Exception):
    """The request must not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of a POST: a *status*, or an *error* (a Trouble's value, or that and a type's name).

    *unsent* says why nothing of the request was written. *retry_after* is the header as it came, *ahead_s* what the
    Date tells of our clock (``skew``); *duration_s* is
    elapsed time.
    """

    status: int | None = None
    error: str | None = None
    unsent: str = ""
    retry_after: str | None = None
    ahead_s: float | None = None
    duration_s: float


def build_http() -> httpx.AsyncClient:
    """Return the client for pings. Who sends bounds how many are under way: none waits for another's connection."""
    silence_http_loggers()
    return build_client(max_connections=None)


def silence_http_loggers() -> None:
    """Keep httpx and httpcore from logging URLs, whatever level the root logger has."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def post_ping(
    http: httpx.AsyncClient,
    url: Secret,
    body: bytes | None,
    *,
    allow_insecure: bool,
    total_s: float = TOTAL_S,
    objection: Objection | None = None,
) -> Attempt:
    """Send one ping, with *body* as text if there is one; *total_s* bounds it from the host's look-up to the end."""
    return await post(
        http,
        url,
        body,
        content_type="text/plain; charset=utf-8",
        allow_insecure=allow_insecure,
        total_s=total_s,
        objection=objection,
    )


async def post(
    http: httpx.AsyncClient,
    url: Secret,
    body: bytes | None,
    *,
    content_type: str,
    allow_insecure: bool,
    total_s: float,
    objection: Objection | None = None,
) -> Attempt:
    """Send one POST, with *body* if there is one; *total_s* bounds it from the host's look-up to the end.

    *objection* is asked over the open connection, right before the request is written.
    """
    started, sent_at = time.monotonic(), datetime.now(UTC)
    target = judge_url(url.reveal(), allow_insecure=allow_insecure)
    if isinstance(target, Trouble):
        return Attempt(error=target, duration_s=time.monotonic() - started)
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    if body:
        headers["Content-Type"] = content_type
    response: httpx.Response | None = None
    error: str | None = None
    unsent = ""

    async def ask(event: str, _: object) -> None:
        nonlocal unsent
        if objection is not None and event.endswith(_WRITING) and (unsent := await objection()):
            raise _Objected

    deadline = asyncio.timeout(total_s)
    try:
        async with deadline:
            request = http.build_request(
                "POST",
                target,
                content=body or b"",
                headers=headers,
                timeout=timeouts(total_s),
                extensions={"trace": ask},
            )
            response = await http.send(request, stream=True, auth=None, follow_redirects=False)
            received_at = datetime.now(UTC)
            await _finish(response)
    except Exception as exc:  # noqa: BLE001  # a ping that went wrong in an unforeseen way is a ping to send again
        error = Trouble.TOTAL_TIMEOUT if deadline.expired() else trouble_of(exc)
    duration_s = time.monotonic() - started
    if response is None:
        return Attempt(error=error, unsent=unsent, duration_s=duration_s)
    return Attempt(
        status=response.status_code,
        retry_after=response.headers.get("Retry-After"),
        ahead_s=ahead_of(response.headers.get("Date"), sent_at, received_at),
        duration_s=duration_s,
    )


async def _finish(response: httpx.Response) -> None:
    """Read what little is worth reading, and give the connection back."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            read_bytes = 0
            async for chunk in response.aiter_raw():
                read_bytes += len(chunk)
                if read_bytes > MAX_ANSWER_BYTES:
                    break
    finally:
        await response.aclose()

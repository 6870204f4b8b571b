"""The API client over real sockets: what it asks, what it makes of answers, and what it never shows."""

import asyncio
import logging
import random
import traceback
from itertools import count
from typing import Any

import httpx
import pytest

from aura_agent.api import (
    ApiError,
    ApiGarbled,
    ApiMisconfigured,
    ApiUnreachable,
    AuraClient,
    BadRequest,
    Conflict,
    Forbidden,
    Heartbeat,
    InternalError,
    Limiter,
    NotFound,
    RateLimited,
    Unauthorized,
)
from aura_agent.secret import Secret
from tests.api.raw_server import Conversation, answer, closed_port, for_ever, hang, json_answer, reset, serving
from tests.devserver.clocks import PassingClock

pytestmark = pytest.mark.anyio

TOKEN = "aura_live_0123456789abcdef"


def page(cursor: str | None, *ids: str) -> bytes:
    return json_answer(200, {"data": [{"id": name, "name": f"job {name}"} for name in ids], "next_cursor": cursor})


def client(base_url: str, **more: Any) -> AuraClient:
    return AuraClient(base_url, Secret(TOKEN), **more)


async def listed(base_url: str, **more: Any) -> list[Heartbeat]:
    async with client(base_url, **more) as aura:
        return [heartbeat async for heartbeat in aura.list_heartbeats()]


async def fails_with(*answers: bytes | Conversation, **more: Any) -> ApiError:
    """Return the error that getting one heartbeat ends with."""
    async with serving(*answers) as server, client(server.url, **more) as aura:
        with pytest.raises(ApiError) as caught:
            await aura.get_heartbeat("hb1")
    return caught.value


async def test_listing_walks_all_pages() -> None:
    """Every page's objects come in order; the cursor goes back as the API wants it, with a hundred a page."""
    async with serving(page("a=&/ü", "1", "2"), page("c2"), page(None, "3")) as server:
        found = await listed(server.url + "/functions/v1/api-v1/")

    assert [heartbeat.id for heartbeat in found] == ["1", "2", "3"]
    assert [httpx.URL(target).path for target in server.targets] == ["/functions/v1/api-v1/heartbeats"] * 3
    assert [dict(httpx.URL(target).params) for target in server.targets] == [
        {"limit": "100"},
        {"limit": "100", "cursor": "a=&/ü"},
        {"limit": "100", "cursor": "c2"},
    ]


async def test_request_says_who_asks() -> None:
    """Each request has the bearer token, our User-Agent, and asks for JSON that isn't compressed."""
    async with serving(page(None)) as server:
        await listed(server.url)

    head = server.requests[0].decode().lower()
    assert f"authorization: bearer {TOKEN}" in head
    assert "user-agent: aura-agent/" in head
    assert "accept: application/json" in head
    assert "accept-encoding: identity" in head


@pytest.mark.parametrize("cursors", [("a", "a"), ("a", "b", "a")])
async def test_cursor_that_comes_back_ends_the_walk(cursors: tuple[str, ...]) -> None:
    """A listing that goes in circles is an error, not an endless stream of requests."""
    async with serving(*[page(cursor, cursor) for cursor in cursors]) as server:
        with pytest.raises(ApiGarbled, match="circles"):
            await listed(server.url)

    assert len(server.requests) == len(cursors)


def _endless(objects: int, filler: str = "") -> Conversation:
    """Answer with a page of *objects* and a new cursor, again and again."""
    cursors = count()

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        items = [{"id": f"{number}", "name": filler} for number in range(objects)]
        writer.write(json_answer(200, {"data": items, "next_cursor": f"c{next(cursors)}"}))
        await writer.drain()

    return say


@pytest.mark.parametrize(
    ("objects", "filler", "requests"),
    [
        pytest.param(1_001, "", 1, id="a page of too many"),
        pytest.param(1_000, "", 51, id="too many in all"),
        pytest.param(1, "x" * (3 << 20), 1, id="a giant"),
        pytest.param(1, "x" * (1 << 20), 64, id="too many bytes in all"),
        pytest.param(0, "", 500, id="empty pages for ever"),
    ],
)
async def test_a_listing_is_bounded_in_pages_objects_and_bytes(objects: int, filler: str, requests: int) -> None:
    """Whatever the server says, we keep no more of it than of the largest organization."""
    clock = PassingClock()
    async with serving(_endless(objects, filler)) as server:
        limiter = Limiter(Secret(TOKEN), server.url, clock, random.Random(1), sleep=clock.sleep)
        with pytest.raises(ApiGarbled):
            await listed(server.url, limiter=limiter, patience_s=86_400)

    assert len(server.requests) == requests


async def test_listing_is_lazy() -> None:
    """Who stops after the first object doesn't cost the service a second page."""
    async with serving(page("next", "1"), page(None, "2")) as server, client(server.url) as aura:
        async for heartbeat in aura.list_heartbeats(limit=1):
            assert heartbeat.id == "1"
            break

        assert len(server.requests) == 1
        assert "limit=1" in server.targets[0]


@pytest.mark.parametrize("wrap", [False, True])
async def test_object_may_come_bare_or_wrapped(wrap: bool) -> None:
    """The page doesn't say whether a single object is under data: both are read."""
    heartbeat, url = {"id": "hb1", "name": "nightly"}, {"url": "https://ping.example/k"}
    answers = [json_answer(200, {"data": content} if wrap else content) for content in (heartbeat, url)]
    async with serving(*answers) as server, client(server.url) as aura:
        assert (await aura.get_heartbeat("hb1")).name == "nightly"
        assert (await aura.ping_url("hb1")).reveal() == "https://ping.example/k"

    assert server.targets == ["/heartbeats/hb1", "/heartbeats/hb1/ping-url"]


async def test_id_is_one_segment_of_the_path() -> None:
    """An id with special characters can't reach another endpoint, and what is no id isn't asked for."""
    async with serving(json_answer(200, {"id": "x"})) as server, client(server.url) as aura:
        await aura.get_heartbeat("../monitors/1?x=#é")
        for nonsense in ("", ".", "..", "a\nb"):
            with pytest.raises(NotFound):
                await aura.get_heartbeat(nonsense)

    assert server.targets == ["/heartbeats/..%2Fmonitors%2F1%3Fx%3D%23%C3%A9"]


async def test_rate_limit_that_is_left_is_told() -> None:
    """The budget of the last answer can be read."""
    left = json_answer(200, {"id": "x"}, "X-RateLimit-Remaining-Minute: 59", "X-RateLimit-Remaining-Hour: nonsense")
    async with serving(left) as server, client(server.url) as aura:
        assert (aura.budget.minute, aura.budget.hour) == (None, None)
        await aura.get_heartbeat("x")

        assert (aura.budget.minute, aura.budget.hour) == (59, None)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", BadRequest),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", Forbidden),
        (404, "not_found", NotFound),
        (409, "conflict", Conflict),
        (429, "rate_limited", RateLimited),
        (500, "internal_error", InternalError),
        (503, "maintenance", InternalError),
        (422, "new_code", ApiError),
        (422, "bad_request", BadRequest),
        (402, "conflict", Conflict),
        (502, "not_found", InternalError),
    ],
)
async def test_error_envelope_becomes_its_own_exception(status: int, code: str, kind: type[ApiError]) -> None:
    """Each row of the reference's table has a class, found by status or else by code; what the answer says is shown."""
    envelope = {"error": {"code": code, "message": "Because\nso", "request_id": "req_01HV2S"}}

    error = await fails_with(json_answer(status, envelope, "Retry-After: 17"))

    assert type(error) is kind
    assert (error.code, error.message, error.request_id, error.status) == (code, "Because so", "req_01HV2S", status)
    assert error.retry_after_s == 17
    assert "Because so" in str(error)
    assert "try again in 17s" in str(error)
    assert "req_01HV2S" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "reply",
    [
        answer(503, b"<html>upstream down</html>", "Content-Type: text/html"),
        answer(503, b""),
        answer(503, b"{" * 100_000),
        answer(503, b"x" * 1_000_000),
        json_answer(503, {"error": "worn out"}),
        json_answer(503, {"error": {"code": ["?"], "message": None}}),
        json_answer(503, [1, 2]),
    ],
)
async def test_error_without_the_envelope_is_still_its_status(reply: bytes) -> None:
    """A gateway's own error page doesn't hide which error it is."""
    error = await fails_with(reply)

    assert type(error) is InternalError
    assert len(str(error)) < 500


PORTAL = answer(200, b"<html>Welcome! Log in</html>", "Content-Type: text/html; charset=utf-8")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(PORTAL, id="captive portal"),
        pytest.param(answer(200, b'{"id": "hb1", "na'), id="truncated"),
        pytest.param(answer(200, b""), id="empty"),
        pytest.param(answer(204), id="no content"),
        pytest.param(answer(200, b"\xff\xfe{}"), id="not UTF-8"),
        pytest.param(answer(200, b'{"id": "\xff"}'), id="not UTF-8 inside"),
        pytest.param(answer(200, b'{"a":' * 100_000), id="nested too deeply"),
        pytest.param(json_answer(200, ["hb1"]), id="not an object"),
        pytest.param(json_answer(200, {"name": "no id"}), id="no id"),
        pytest.param(json_answer(200, {"id": {"is": "no text"}}), id="odd id"),
        pytest.param(answer(302, b"", "Location: http://portal.example/login?url=x"), id="redirect"),
        pytest.param(answer(302, b"", "Location: http://[broken"), id="redirect to nonsense"),
        pytest.param(
            for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b" " * 65536, flood=True), id="endless"
        ),
    ],
)
async def test_answer_that_breaks_the_contract_is_garbled(reply: bytes | Conversation) -> None:
    """A login page, cut-off JSON or an endless body is an error of its own, never an empty result."""
    assert type(await fails_with(reply)) is ApiGarbled


@pytest.mark.parametrize(
    "content",
    [{}, {"data": None}, {"data": {}}, {"data": ["x"]}, {"data": [], "next_cursor": 5}, {"data": [{"name": "no id"}]}],
)
async def test_listing_that_is_none_is_not_an_empty_one(content: object) -> None:
    """Only a list under data is a listing: nobody's cache is emptied by a wrong answer."""
    async with serving(json_answer(200, content)) as server:
        with pytest.raises(ApiGarbled):
            await listed(server.url)


@pytest.mark.parametrize("content", [{}, {"url": None}, {"url": "javascript:x"}, {"url": ""}, {"url": "https://a\nb"}])
async def test_ping_url_that_is_none_is_garbled(content: object) -> None:
    """What isn't an http(s) URL is never cached as one."""
    async with serving(json_answer(200, content)) as server, client(server.url) as aura:
        with pytest.raises(ApiGarbled):
            await aura.ping_url("hb1")


async def test_redirect_target_gets_no_request() -> None:
    """A redirect would take the token elsewhere: it is named and not followed."""
    async with serving(page(None)) as elsewhere:
        error = await fails_with(answer(307, b"", f"Location: {elsewhere.url}/x"))

        assert elsewhere.requests == []
    assert "127.0.0.1" in str(error)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (reset, "reset"),
        (b"", "not_http"),
        (b"nonsense\r\n\r\n", "not_http"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "not_http"),
    ],
)
async def test_no_answer_is_unreachable_and_says_how(reply: bytes | Conversation, kind: str) -> None:
    """Network errors carry their kind and the host, nothing more."""
    error = await fails_with(reply)

    assert isinstance(error, ApiUnreachable)
    assert (error.kind, error.host) == (kind, "127.0.0.1")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(hang, id="hangs"),
        pytest.param(for_ever(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "), id="dripping body"),
    ],
)
async def test_one_deadline_bounds_the_call(reply: Conversation) -> None:
    """A server that hangs or drips costs the total time-out, however small its steps."""
    error = await fails_with(reply, total_timeout_s=0.3)

    assert isinstance(error, ApiUnreachable)
    assert error.kind in {"total_timeout", "read_timeout"}


async def test_refused_connection_and_unknown_host_are_told_apart() -> None:
    """The text says whether it is the name or the port."""
    with pytest.raises(ApiUnreachable, match="refused"):
        await listed(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ApiUnreachable, match=r"aura\.invalid"):
        await listed("https://aura.invalid")


async def test_cancellation_passes() -> None:
    """Who cancels a call gets a cancellation, not an ApiError."""
    async with serving(hang) as server, client(server.url) as aura:
        call = asyncio.create_task(aura.get_heartbeat("x"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@pytest.mark.parametrize(
    "base_url",
    ["", "api.example.com", "ftp://x", "http://api.example.com", "https://u:p@x/", "https://x/?a=b", "https://x/#f"],
)
def test_base_url_that_cannot_be_used_is_refused_at_once(base_url: str) -> None:
    """Plain http beyond loopback and URLs that aren't a base are named before anything is sent."""
    with pytest.raises(ApiMisconfigured, match="base_url"):
        client(base_url)


def test_insecure_base_url_can_be_allowed() -> None:
    """allow_insecure lifts the rule for a network that somebody trusts."""
    client("http://api.example.com", allow_insecure=True)


@pytest.mark.parametrize("token", ["", "abc\n", "abc def", "tök", "abc\x00", "“abc”"])
def test_token_that_is_no_header_is_a_clear_error(token: str) -> None:
    """A token with a line break or a typographic quote is told without showing it."""
    with pytest.raises(ApiMisconfigured, match="token") as caught:
        AuraClient("https://x", Secret(token))

    assert token.strip() == "" or token.strip() not in str(caught.value)


async def test_given_client_is_used_and_stays_open() -> None:
    """A client of the caller keeps its own life, but can't weaken the rules: no redirects, our token."""
    async with (
        serving(answer(302, b"", "Location: /x"), page(None, "1")) as server,
        httpx.AsyncClient(follow_redirects=True, auth=("me", "mine")) as http,
    ):
        with pytest.raises(ApiGarbled):
            await listed(server.url, http=http)
        found = await listed(server.url, http=http)

        assert len(found) == 1
        assert not http.is_closed
    assert all(f"bearer {TOKEN}" in request.decode().lower() for request in server.requests)


async def test_token_is_in_no_repr_error_traceback_or_log(caplog: pytest.LogCaptureFixture) -> None:
    """Even a server that quotes the token back, and loggers at DEBUG, don't bring it to light."""
    caplog.set_level(logging.DEBUG)
    quoting = json_answer(401, {"error": {"code": "unauthorized", "message": f"Invalid token {TOKEN}"}})
    errors = [await fails_with(reply) for reply in (quoting, PORTAL, reset, answer(500))]
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ApiUnreachable) as caught:
        await listed(url)

    shown = [repr(client(url)), caplog.text]
    for error in (*errors, caught.value):
        shown += [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert "0123456789" not in "".join(shown)

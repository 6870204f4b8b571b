"""One ping over real sockets: every way in which a server, a proxy or a URL can misbehave."""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from aura_agent.api.trouble import Trouble
from aura_agent.delivery.answers import Verdict, classify
from aura_agent.delivery.post import Attempt, build_http, post_ping
from aura_agent.secret import Secret
from tests.api.raw_server import (
    Conversation,
    RawServer,
    answer,
    closed_port,
    for_ever,
    hang,
    read_request,
    reset,
    serving,
)

pytestmark = pytest.mark.anyio

KEY = "/ping/sup3r-s3cret-key"
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def verdict_of(attempt: Attempt) -> Verdict:
    return classify(attempt.status, attempt.error, attempt.retry_after, NOW).verdict


async def ping(url: str, body: bytes | None = None, *, total_s: float = 20.0, allow_insecure: bool = False) -> Attempt:
    async with build_http() as http:
        return await post_ping(http, Secret(url), body, allow_insecure=allow_insecure, total_s=total_s)


async def ping_against(
    *answers: bytes | Conversation, body: bytes | None = None, total_s: float = 20.0
) -> tuple[Attempt, RawServer]:
    async with serving(*answers) as server:
        return await ping(server.url + KEY, body, total_s=total_s), server


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
async def test_every_2xx_is_reported_with_its_status(status: int) -> None:
    """Whatever the 2xx is, the attempt carries it and no error."""
    attempt, _ = await ping_against(answer(status))

    assert (status, None) == (attempt.status, attempt.error)


async def test_body_and_identity_arrive_and_nothing_more() -> None:
    """The server sees a POST to the whole path, our User-Agent, the body as text, and no authorization or cookie."""
    attempt, server = await ping_against(answer(200), body=b"42 files, 3s")

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST " + KEY.encode() + b" HTTP/1.1\r\n")
    assert b"user-agent: aura-agent/" in head.lower()
    assert b"content-type: text/plain; charset=utf-8" in head.lower()
    assert b"authorization" not in head.lower()
    assert b"cookie" not in head.lower()
    assert body == b"42 files, 3s"
    assert attempt.duration_s >= 0


@pytest.mark.parametrize("body", [None, b""])
async def test_ping_without_body_says_so(body: bytes | None) -> None:
    """Servers that insist on a length get one of zero."""
    _, server = await ping_against(answer(200), body=body)

    assert b"content-length: 0" in server.requests[0].lower()
    assert b"content-type" not in server.requests[0].lower()


async def test_cookies_are_not_kept() -> None:
    """A server that sets a cookie doesn't get it back with the next ping."""
    async with serving(answer(200, b"", "Set-Cookie: id=1; Path=/")) as server, build_http() as http:
        for _ in range(2):
            await post_ping(http, Secret(server.url + KEY), None, allow_insecure=False)

    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(status: int) -> None:
    """The ping stays where its URL sent it, and isn't taken for delivered."""
    async with serving(answer(200)) as elsewhere:
        attempt, _ = await ping_against(answer(status, b"", f"Location: {elsewhere.url}/login"))

        assert status == attempt.status
        assert elsewhere.requests == []


async def test_headers_that_matter_are_handed_on() -> None:
    """Retry-After comes back as it was sent, and Date as what it says of our clock."""
    attempt, _ = await ping_against(answer(429, b"", "Retry-After: 7", "Date: Mon, 01 Dec 2025 00:00:00 GMT"))

    assert (attempt.status, attempt.retry_after) == (429, "7")
    assert attempt.ahead_s is not None
    assert attempt.ahead_s > 86_400


HEAD_ONLY = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(for_ever(HEAD_ONLY, b"x" * 65536, flood=True), id="endless body"),
        pytest.param(for_ever(HEAD_ONLY, b"x"), id="dripping body"),
        pytest.param(for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n"), id="bad chunks"),
        pytest.param(HEAD_ONLY, id="truncated body"),
        pytest.param(answer(200, b"not gzip", "Content-Encoding: gzip"), id="wrong encoding"),
    ],
)
async def test_status_line_decides_whatever_follows(reply: bytes | Conversation) -> None:
    """A ping that was acknowledged counts as acknowledged, though the rest of the answer is broken or endless."""
    attempt, _ = await ping_against(reply, total_s=60)

    assert (attempt.status, attempt.error) == (200, None)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(hang, Trouble.TOTAL_TIMEOUT, id="hangs"),
        pytest.param(for_ever(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"), Trouble.TOTAL_TIMEOUT, id="dripping head"),
        pytest.param(for_ever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), Trouble.TOTAL_TIMEOUT, id="only 1xx"),
    ],
)
async def test_one_deadline_bounds_the_whole_attempt(reply: Conversation, error: Trouble) -> None:
    """However slowly bytes trickle in, the attempt ends at its total time-out, as an error to try again."""
    attempt, _ = await ping_against(reply, total_s=0.3)

    assert (None, error) == (attempt.status, attempt.error)
    assert Verdict.RETRY is verdict_of(attempt)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="garbage status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", id="garbage header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, id="huge header"),
        pytest.param(b"", id="closed without an answer"),
    ],
)
async def test_what_is_not_http_is_an_error(reply: bytes) -> None:
    """Bytes that aren't an answer are no acknowledgement, and are worth another try."""
    attempt, _ = await ping_against(reply)

    assert attempt.status is None
    assert attempt.error in {Trouble.NOT_HTTP, Trouble.RESET}
    assert Verdict.RETRY is verdict_of(attempt)


async def test_reset_and_refusal_have_their_own_words() -> None:
    """A reset connection and a closed port are told apart."""
    attempt, _ = await ping_against(reset)
    refused = await ping(f"http://127.0.0.1:{closed_port()}{KEY}")

    assert (attempt.error, refused.error) == (Trouble.RESET, Trouble.REFUSED)


async def test_tls_to_a_plain_server_is_a_tls_error() -> None:
    """https:// where nobody speaks TLS is named as that."""
    async with serving(answer(400), listens=False) as server:
        attempt = await ping(server.url.replace("http://", "https://") + KEY)

    assert attempt.error == Trouble.TLS


async def test_tls_handshake_that_hangs_leaves_no_socket_behind() -> None:
    """A server that accepts and never shakes hands costs one time-out, and its connection is closed."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        gone.set()

    async with serving(silent, listens=False) as server, build_http() as http:
        url = Secret(server.url.replace("http://", "https://") + KEY)
        attempt = await post_ping(http, url, None, allow_insecure=False, total_s=0.6)
        async with asyncio.timeout(20):
            await gone.wait()

    assert attempt.error == Trouble.CONNECT_TIMEOUT


async def test_unknown_host_is_a_dns_error() -> None:
    """A name under .invalid never resolves (RFC 6761), and the error says that it is the name."""
    attempt = await ping("https://aura.invalid" + KEY)

    assert attempt.error in {Trouble.DNS, Trouble.TOTAL_TIMEOUT}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://example.com/key",
        "file:///etc/passwd",
        "https://",
        "https:///key",
        "https://exa mple.com/key",
        "https://example.com:99999/key",
        "https://example.com:0/key",
        "https://[::1/key",
        "https://example.com/\x00key",
        "https://" + "a" * 70_000,
        "https://é\ud800.example/key",
    ],
)
async def test_what_cannot_be_asked_waits_for_a_person(url: str) -> None:
    """A URL that no request can be made of is parked, not tried for days."""
    attempt = await ping(url)

    assert attempt.error == Trouble.BAD_URL
    assert Verdict.PARK is verdict_of(attempt)


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.example.com", "127.0.0.1@example.com", "10.0.0.1", "[::2]"])
async def test_plain_http_off_this_host_is_refused(host: str) -> None:
    """A ping URL never crosses a network in the clear, unless that was allowed; the verdict is a person's to lift."""
    attempt = await ping(f"http://{host}{KEY}")

    assert attempt.error == Trouble.INSECURE_URL
    assert Verdict.PARK is verdict_of(attempt)
    assert "allow_insecure" in classify(None, attempt.error, None, NOW).reason


async def test_plain_http_can_be_allowed() -> None:
    """With allow_insecure the request is made: here it fails at the name, not at the rule."""
    attempt = await ping("http://aura.invalid" + KEY, allow_insecure=True)

    assert attempt.error in {Trouble.DNS, Trouble.TOTAL_TIMEOUT}


async def test_a_client_that_is_closed_makes_an_error_not_an_exception() -> None:
    """Even a misuse of the client ends as an attempt to repeat, with the type of what went wrong."""
    http = build_http()
    await http.aclose()

    attempt = await post_ping(http, Secret("http://127.0.0.1:1/"), None, allow_insecure=False)

    assert attempt.error == "unexpected RuntimeError"
    assert Verdict.RETRY is verdict_of(attempt)


async def test_no_error_or_log_line_holds_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """With the root logger at DEBUG, neither attempts nor log lines show any part of the ping URL's path."""
    caplog.set_level(logging.DEBUG)
    attempts = [(await ping_against(reply))[0] for reply in (answer(200), answer(500), reset, b"garbage\r\n\r\n", b"")]
    attempts.append(await ping(f"http://127.0.0.1:{closed_port()}{KEY}"))
    attempts.append(await ping(f"https://exa mple.com{KEY}"))

    assert "sup3r" not in repr(attempts) + caplog.text


CHILD = """
import asyncio, sys
from aura_agent.delivery.post import build_http, post_ping
from aura_agent.secret import Secret
async def main():
    async with build_http() as http:
        for url in sys.argv[1:]:
            attempt = await post_ping(http, Secret(url), None, allow_insecure=True, total_s=20)
            print(attempt.status, attempt.error)
asyncio.run(main())
"""


def in_child(environment: dict[str, str], *urls: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *urls],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_proxy_variables_are_honoured_but_never_for_loopback() -> None:
    """HTTP_PROXY carries a ping to another host; one to loopback goes straight, as it was allowed to be in the clear."""
    async with serving(answer(201)) as proxy, serving(answer(202)) as server:
        urls = (f"{server.url}{KEY}", f"http://localhost:{server.port}{KEY}", f"http://somewhere.invalid{KEY}")
        environment = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "NO_PROXY": "", "no_proxy": ""}
        child = await asyncio.to_thread(in_child, environment, *urls)

    assert child.stdout == "202 None\n202 None\n201 None\n", child.stderr
    assert [f"http://somewhere.invalid{KEY}"] == proxy.targets


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "nonsense://user:hunter2@x"),
        ("ALL_PROXY", "socks5://user:hunter2@x"),
        ("http_proxy", "http://[hunter2"),
        ("NO_PROXY", "fd00::/8"),
        ("no_proxy", "[::1,hunter2:x"),
        ("SSL_CERT_FILE", "/nonexistent/hunter2"),
        ("SSL_CERT_DIR", "/dev/null"),
        ("SSLKEYLOGFILE", "/nonexistent/hunter2"),
        ("OPENSSL_CONF", "/nonexistent/hunter2"),
        ("REQUESTS_CA_BUNDLE", "/nonexistent/hunter2"),
    ],
)
async def test_a_variable_that_cannot_be_used_stops_no_ping(variable: str, value: str) -> None:
    """A ping to loopback arrives; one over https fails as it would without the variable."""
    async with serving(answer(200)) as server:
        environment = {variable: value, "NO_COLOR": "1"}
        child = await asyncio.to_thread(in_child, environment, server.url + KEY, "https://127.0.0.1:1/")

    assert child.stdout == "200 None\nNone refused\n", child.stderr
    assert child.stderr == ""


KEPT = b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
FALSE_SUCCESS = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def keeping(first: bytes, then: bytes) -> Conversation:
    """Answer *first*, and on the same connection *then* to each further request; count what comes by it."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            await read_request(reader)
            writer.write(then)

    return conversation


async def two_pings(
    first: bytes, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> tuple[list[int | None], int]:
    """Return what two pings with one client came to, and on how many connections; each but the first *first* is 503."""
    refusal = KEPT % b"503 No"
    async with serving(keeping(first, refusal), keeping(refusal, refusal), tls=tls) as server, build_http() as http:
        url = Secret(f"{'https' if tls else 'http'}://{host}:{server.port}{KEY}")
        statuses = [(await post_ping(http, url, None, allow_insecure=False)).status for _ in (1, 2)]
        return statuses, len(server.requests)


@pytest.mark.parametrize("first", [KEPT % b"200 OK", KEPT % b"201 Yes", CHUNKED, b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_connection_is_used_again_after_a_clean_2xx(first: bytes) -> None:
    """Draining a queue costs one handshake, not one for each ping."""
    statuses, connections = await two_pings(first)

    assert (statuses[1], connections) == (503, 1)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(KEPT % b"503 No" + FALSE_SUCCESS, id="behind a 503"),
        pytest.param(KEPT % b"200 OK" + FALSE_SUCCESS, id="behind a 200"),
        pytest.param(CHUNKED + FALSE_SUCCESS, id="behind a chunked 200"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n" + FALSE_SUCCESS, id="behind a 204"),
        pytest.param(KEPT % b"200 OK" + b"\r\n", id="a line break behind a 200"),
        pytest.param(KEPT % b"200 OK" + b"x" * 300_000 + FALSE_SUCCESS, id="more than one read"),
        pytest.param(KEPT % b"302 Go" + FALSE_SUCCESS, id="behind a 302"),
    ],
)
async def test_bytes_behind_an_answer_answer_no_other_ping(first: bytes) -> None:
    """The second ping is refused by the server, on a connection of its own: it must not count as delivered."""
    statuses, connections = await two_pings(first)

    assert (statuses[1], connections) == (503, 2)


async def test_connection_is_not_used_again_after_anything_but_a_2xx() -> None:
    """What a proxy or load balancer in trouble does with it afterwards is its own affair."""
    statuses, connections = await two_pings(KEPT % b"503 No")

    assert (statuses, connections) == ([503, 503], 2)

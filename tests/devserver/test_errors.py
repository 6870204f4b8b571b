"""Every answer of the API that isn't 2xx carries the error envelope."""

import re
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aura_agent.devserver.server import DevServer
from aura_agent.devserver.threaded import ThreadedDevServer

pytestmark = pytest.mark.anyio


def assert_envelope(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["message"]
    assert re.fullmatch(r"req_[0-9A-Z]{26}", error["request_id"])


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/nothing", b"", 404, "not_found"),
        ("GET", "/heartbeats/", b"", 404, "not_found"),
        ("GET", "/heartbeats/unknown", b"", 404, "not_found"),
        ("GET", "/heartbeats/unknown/ping-url", b"", 404, "not_found"),
        ("GET", "/heartbeats/%00%ff", b"", 404, "not_found"),
        ("PATCH", "/heartbeats/unknown", b"{}", 404, "not_found"),
        ("DELETE", "/heartbeats/unknown", b"", 404, "not_found"),
        ("GET", "/incidents/unknown", b"", 404, "not_found"),
        ("DELETE", "/heartbeats", b"", 405, "method_not_allowed"),
        ("PUT", "/heartbeats/unknown", b"{}", 405, "method_not_allowed"),
        ("POST", "/heartbeats", b"", 400, "bad_request"),
        ("POST", "/heartbeats", b'{"name": "x"', 400, "bad_request"),
        ("POST", "/heartbeats", b'{"name": "\xff"}', 400, "bad_request"),
        ("POST", "/heartbeats", b'{"name": "\\ud800"}', 400, "bad_request"),
        ("POST", "/heartbeats", b"[" * 60_000, 400, "bad_request"),
        ("POST", "/heartbeats", b'"' + b"x" * 100_000 + b'"', 413, "payload_too_large"),
        ("GET", "/heartbeats?limit=0", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limit=101", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limit=", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limit=-1", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limit=1.0", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limit=%D9%A1", b"", 400, "bad_request"),
        ("GET", "/heartbeats?cursor=", b"", 400, "bad_request"),
        ("GET", "/heartbeats?cursor=nonsense", b"", 400, "bad_request"),
        ("GET", "/incidents?cursor=bnVsbA", b"", 400, "bad_request"),
        ("GET", "/incidents?limit=1000", b"", 400, "bad_request"),
        ("GET", "/heartbeats?limt=5", b"", 400, "bad_request"),
        ("GET", "/incidents/unknown?limit=5", b"", 400, "bad_request"),
        ("GET", "/monitors/unknown", b"", 404, "not_found"),
        ("GET", "/monitors/unknown/checks", b"", 404, "not_found"),
        ("GET", "/monitors/unknown/", b"", 404, "not_found"),
        ("GET", "/checks", b"", 400, "bad_request"),
        ("GET", "/checks?monitor_id=unknown", b"", 404, "not_found"),
        ("GET", "/checks/unknown", b"", 404, "not_found"),
        ("PATCH", "/monitors/unknown", b"{}", 404, "not_found"),
        ("PATCH", "/monitors/unknown", b"{", 400, "bad_request"),
        ("DELETE", "/monitors/unknown", b"", 404, "not_found"),
        ("PUT", "/monitors/unknown", b"{}", 405, "method_not_allowed"),
        ("POST", "/monitors", b"{}", 400, "bad_request"),
        ("POST", "/checks", b"{}", 405, "method_not_allowed"),
        ("POST", "/integrations", b"{}", 405, "method_not_allowed"),
        ("DELETE", "/integrations", b"", 405, "method_not_allowed"),
        ("GET", "/integrations/unknown", b"", 404, "not_found"),
        ("GET", "/integrations?limit=x", b"", 400, "bad_request"),
        ("POST", "/incidents/unknown/resolve", b"", 404, "not_found"),
        ("GET", "/incidents/unknown/resolve", b"", 405, "method_not_allowed"),
        ("POST", "/openapi.json", b"", 405, "method_not_allowed"),
    ],
)
async def test_what_the_api_refuses_comes_in_the_envelope(
    api: httpx.AsyncClient, method: str, path: str, content: bytes, status: int, code: str
) -> None:
    """Wrong paths, methods, bodies, ids and parameters."""
    assert_envelope(await api.request(method, path, content=content), status, code)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic dTpw", "Bearer \xff", "token"])
@pytest.mark.parametrize("path", ["/heartbeats", "/nothing"])
async def test_without_a_valid_token_everything_is_unauthorized(
    aura: DevServer, anyone: httpx.AsyncClient, header: str | None, path: str
) -> None:
    """Missing, malformed and unknown tokens are 401."""
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = await anyone.get(aura.base_url + path, headers=headers)  # type: ignore[arg-type]

    assert_envelope(answer, 401, "unauthorized")


async def test_paths_beside_the_api_answer_in_the_envelope_too(aura: DevServer, anyone: httpx.AsyncClient) -> None:
    """A wrong base URL or a wrong ping URL is an error that a client can read."""
    root = aura.base_url.removesuffix("/api-v1")

    assert_envelope(await anyone.get(root + "/"), 404, "not_found")
    assert_envelope(await anyone.get(aura.base_url), 404, "not_found")
    assert_envelope(await anyone.post(root + "/ping/unknown"), 404, "not_found")
    assert_envelope(await anyone.get(aura.create_heartbeat("x").ping_url), 405, "method_not_allowed")
    assert_envelope(await anyone.get(aura.control_url + "/pings"), 401, "unauthorized")


async def test_an_error_of_the_server_itself_is_an_answer(
    aura: DevServer, api: httpx.AsyncClient, anyone: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its database gone, API and pings answer 500 in the envelope, and say no secret in the log."""
    heartbeat = aura.create_heartbeat("backup")
    assert (await api.get("/heartbeats")).status_code == 200
    aura.service.db.execute("ALTER TABLE heartbeats RENAME TO lost")

    assert_envelope(await api.get("/heartbeats"), 500, "internal_error")
    assert_envelope(await anyone.post(heartbeat.ping_url), 500, "internal_error")
    printed = "".join(capfd.readouterr())
    assert heartbeat.ping_url.rpartition("/")[2] not in printed
    assert aura.token not in printed


async def test_a_large_body_is_refused_without_reading_it_all(aura: DevServer, api: httpx.AsyncClient) -> None:
    """Neither a length that is declared nor a stream without one gets past the limit; the client reads the 413."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert_envelope(await api.post("/heartbeats", content=endless()), 413, "payload_too_large")
    assert_envelope(await api.post("/heartbeats", content=b"x" * 3_000_000), 413, "payload_too_large")


def test_what_is_not_http_gets_the_envelope() -> None:
    """A malformed request line is 400 bad_request."""
    with ThreadedDevServer() as aura, socket.create_connection(("127.0.0.1", aura.port), timeout=20) as raw:
        raw.sendall(b"not http at all\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert httpx.Response(400, content=body).json()["error"]["code"] == "bad_request"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS", "HEAD"]),
    path=st.sampled_from(
        [
            *("/heartbeats", "/heartbeats/x", "/heartbeats/x/ping-url", "/incidents", "/incidents/x"),
            *("/monitors", "/monitors/x", "/monitors/x/checks", "/checks", "/incidents/x/resolve", "/integrations"),
        ]
    ),
    query=st.dictionaries(st.sampled_from(["limit", "cursor", "x"]), st.text(max_size=20)),
    body=st.binary(max_size=60)
    | st.text(max_size=30).map(lambda text: f'{{"name": "{text}"}}'.encode("utf-8", "replace")),
)
def test_no_request_is_an_internal_error(method: str, path: str, query: dict[str, str], body: bytes) -> None:
    """Whatever a client sends, the answer is a 2xx or a refusal with its envelope."""
    aura = _shared()
    url = aura.base_url + path
    headers = {"Authorization": f"Bearer {aura.token}"}
    answer = httpx.request(method, url, params=query, content=body, headers=headers, trust_env=False)

    assert answer.is_success or answer.status_code in (400, 404, 405)
    if not answer.is_success and method != "HEAD":
        assert set(answer.json()["error"]) == {"code", "message", "request_id"}


_SERVERS: list[ThreadedDevServer] = []


def _shared() -> ThreadedDevServer:
    """One server for all examples."""
    if not _SERVERS:
        _SERVERS.append(ThreadedDevServer())
        _SERVERS[0].start()
    return _SERVERS[0]


@pytest.fixture(autouse=True, scope="module")
def _stopped() -> object:
    yield
    while _SERVERS:
        _SERVERS.pop().stop()

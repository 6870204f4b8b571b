"""TLS, proxies and certificates as the environment says, over real sockets, by a process that has that environment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.api.raw_server import Conversation, answer, read_request, serving
from tests.delivery.test_post import in_child
from tests.faults.certificates import Authority

pytestmark = pytest.mark.anyio

NAME = "aura.invalid"  # never resolves (RFC 6761): only a proxy can reach it
_PAST, _FUTURE = ("20200101000000Z", "20210101000000Z"), ("20900101000000Z", "20910101000000Z")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


@asynccontextmanager
async def connect_proxy(port: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that tunnels every CONNECT to *port* of this host; yields its URL, and the lines that it was asked with."""
    asked: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def child(environment: dict[str, str], *urls: str) -> list[str]:
    """Return status and trouble of a ping to each URL."""
    plain = {"HTTPS_PROXY": "", "NO_PROXY": "", "SSL_CERT_FILE": ""}
    plain |= environment
    given = plain | {key.lower(): value for key, value in plain.items() if "PROXY" in key}  # these come first
    ended = await asyncio.to_thread(in_child, given, *urls)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


async def test_a_ca_of_ones_own_is_trusted_by_ssl_cert_file(authority: Authority) -> None:
    """With it the ping is acknowledged; without it nothing is sent, and the issuer is what is wrong."""
    async with serving(answer(200), tls=authority.server("localhost")) as server:
        url = f"https://localhost:{server.port}/ping/key"
        trusted = await child({"SSL_CERT_FILE": str(authority.home / "ca.pem")}, url)
        foreign = await child({}, url)

    assert (trusted, foreign) == (["200 None"], ["None tls_unknown_issuer"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "valid", "word"),
    [
        pytest.param("other.example", None, "tls_wrong_name", id="another name"),
        pytest.param("localhost", _PAST, "tls_expired", id="expired"),
        pytest.param("localhost", _FUTURE, "tls_not_yet_valid", id="not valid yet, as with a clock that is far behind"),
    ],
)
async def test_a_certificate_that_is_no_good_gets_no_ping(
    authority: Authority, name: str, valid: tuple[str, str] | None, word: str
) -> None:
    """The key in the URL is never shown to whoever is there, and the ping waits for better times."""
    async with serving(answer(200), tls=authority.server(name, valid=valid)) as server:
        url = f"https://localhost:{server.port}/ping/key"
        told = await child({"SSL_CERT_FILE": str(authority.home / "ca.pem")}, url)

    assert told == [f"None {word}"]
    assert server.requests == []


async def test_an_address_that_the_certificate_does_not_name_is_a_wrong_name(authority: Authority) -> None:
    async with serving(answer(200), tls=authority.server("localhost")) as server:
        url = f"https://127.0.0.1:{server.port}/ping/key"
        told = await child({"SSL_CERT_FILE": str(authority.home / "ca.pem")}, url)

    assert told == ["None tls_wrong_name"]


async def test_a_server_without_tls_is_told_from_one_with_a_bad_certificate() -> None:
    async with serving(b"HTTP/1.1 400 Speak plainly\r\n\r\n", listens=False) as server:
        assert await child({}, f"https://localhost:{server.port}/ping/key") == ["None tls"]


async def test_bytes_behind_an_answer_over_tls_answer_no_other_ping(authority: Authority) -> None:
    """Also where they come as a TLS record of their own, and a clean answer keeps the connection."""

    def keeping(*first: bytes) -> Conversation:
        async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for record in first:
                writer.write(record)
            while True:
                await read_request(reader)
                writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

        return conversation

    good, false = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    refusal = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    ca, tls = {"SSL_CERT_FILE": str(authority.home / "ca.pem")}, authority.server("localhost")
    for first, connections in (((good, false), 2), ((good + false,), 2), ((good,), 1)):
        async with serving(keeping(*first), keeping(refusal), tls=tls) as server:
            url = f"https://localhost:{server.port}/ping/key"
            assert await child(ca, url, url) == ["200 None", "503 None"]
            assert len(server.requests) == connections


async def test_https_goes_through_the_proxy_and_no_proxy_past_it(authority: Authority) -> None:
    """HTTPS_PROXY tunnels, TLS is with the service itself; what NO_PROXY names is asked straight, here in vain."""
    ca = {"SSL_CERT_FILE": str(authority.home / "ca.pem")}
    async with serving(answer(200), tls=authority.server(NAME)) as server, connect_proxy(server.port) as (proxy, asked):
        through = await child({**ca, "HTTPS_PROXY": proxy}, f"https://{NAME}/ping/key")
        past = await child({**ca, "HTTPS_PROXY": proxy, "NO_PROXY": NAME}, f"https://{NAME}/ping/key")

    assert through == ["200 None"]
    assert past in (["None dns"], ["None total_timeout"])
    assert asked == [f"CONNECT {NAME}:443 HTTP/1.1".encode()]
    assert len(server.requests) == 1

"""TLS, proxies and certificates as the environment says, over real sockets, by a process that has that environment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.api.raw_server import answer, serving
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
    """With it the ping is acknowledged; without it nothing is sent, and the word for that is TLS."""
    async with serving(answer(200), tls=authority.server("localhost")) as server:
        url = f"https://localhost:{server.port}/ping/key"
        trusted = await child({"SSL_CERT_FILE": str(authority.home / "ca.pem")}, url)
        foreign = await child({}, url)

    assert (trusted, foreign) == (["200 None"], ["None tls"])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        pytest.param("other.example", None, id="another name"),
        pytest.param("localhost", _PAST, id="expired"),
        pytest.param("localhost", _FUTURE, id="not valid yet, as with a clock that is far behind"),
    ],
)
async def test_a_certificate_that_is_no_good_gets_no_ping(
    authority: Authority, name: str, valid: tuple[str, str] | None
) -> None:
    """The key in the URL is never shown to whoever is there, and the ping waits for better times."""
    async with serving(answer(200), tls=authority.server(name, valid=valid)) as server:
        url = f"https://localhost:{server.port}/ping/key"
        told = await child({"SSL_CERT_FILE": str(authority.home / "ca.pem")}, url)

    assert told == ["None tls"]
    assert server.requests == []


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

"""A loopback server that acknowledges every POST at once and does nothing else, in a process of its own.

So what is measured beside it is whoever sends. Prints its port; ends when its standard input does.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Acknowledge(asyncio.Protocol):
    """Requests come without a body, or with one that fits into what comes with the head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while b"\r\n\r\n" in self._held:
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            assert b"content-length: 0" in head.lower()
            self._transport.write(_ANSWER)  # type: ignore[attr-defined]


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Acknowledge, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def acknowledging() -> Iterator[str]:
    """Run the server; yields its base URL."""
    with Popen([sys.executable, "-m", "bench.acknowledger"], stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve())

"""The port: HTTP on loopback by uvicorn's protocol, driven from our own event loop.

uvicorn's Server is left out: its main loop polls at 10 Hz, its shutdown sleeps, and it re-raises SIGTERM. What
remains of it here is its protocol class, with three things added: the transport for ``misbehave.py``, a Date header
made when it is needed, and the error envelope for what isn't HTTP at all.

The port stays ours from the first start to the stop. A second socket is bound to it and never listens: while the
listener is closed, the kernel refuses connections and gives the port to nobody else.
"""

import asyncio
import logging
import socket
from email.utils import formatdate

import h11
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from aura_agent.clock import Clock
from aura_agent.devserver.refusal import envelope
from aura_agent.errors import AuraError

HOST = "127.0.0.1"
_KEEP_ALIVE_S = 75
_STOP_GRACE_S = 1.0
_ROUNDS_TO_CLOSE = 4  # of the event loop, until what was accepted in the last moment is a connection of ours


class Listener:
    """Serves *app* on a loopback port; can refuse connections for a while and come back on the same port."""

    def __init__(self, app: ASGIApp, clock: Clock, port: int = 0) -> None:
        self._config = Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._clock = clock
        self._wanted_port = port
        self._state = _State()
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._holder is not None, "not started"
        port: int = self._holder.getsockname()[1]
        return port

    @property
    def listening(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Take the port and listen. Raises AuraError: it is taken."""
        self._config.load()
        self._holder = _bound(self._wanted_port)
        try:
            await self.accept()
        except BaseException:
            self._holder.close()
            self._holder = None
            raise

    async def accept(self) -> None:
        """Listen (again)."""
        if self._server is not None:
            return
        bound = _bound(self.port)
        # In two steps, of which the first never waits: whoever comes in between finds that it is done.
        self._server = server = await asyncio.get_running_loop().create_server(
            self._protocol, sock=bound, backlog=2048, start_serving=False
        )
        try:
            await server.start_serving()
        except OSError as exc:
            self._server = None
            server.close()
            raise _taken(self.port) from exc

    def refuse(self) -> None:
        """Stop listening: connections are refused, idle ones closed, busy ones closed after their answer."""
        if self._server is not None:
            loop = asyncio.get_running_loop()
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
                # Closing alone would leave it listening for as long as a child between fork and exec has a copy.
                listening.shutdown(socket.SHUT_RDWR)
            # Two rounds later: until a connection that was accepted just now is set up, asyncio wants its server open.
            loop.call_soon(loop.call_soon, self._server.close)
            self._server = None
            for connection in list(self._state.connections):
                if not connection.transport.is_closing():
                    connection.shutdown()

    async def stop(self) -> None:
        """Stop for good: what is being answered gets a moment, then everything is closed."""
        self.refuse()
        for _ in range(_ROUNDS_TO_CLOSE):
            await asyncio.sleep(0)
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_STOP_GRACE_S)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        await self._state.idle.wait()
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def _protocol(self) -> asyncio.Protocol:
        return _Protocol(self._config, self._state, {"clock": self._clock})


class _State(ServerState):
    """uvicorn's shared state, and whether any connection is open."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = asyncio.Event()
        self.idle.set()
        self.dated_s = -1


class _Protocol(H11Protocol):
    server_state: _State

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # uvicorn would log that a request is malformed, or that a client left, on a logger that others configure.
        self.logger = logging.getLogger("aura_agent.devserver.http")
        self.logger.propagate = False
        self.logger.disabled = True
        self.app_state = {**self.app_state, "transport": transport}
        self.server_state.idle.clear()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.connections:
            self.server_state.idle.set()

    def data_received(self, data: bytes) -> None:
        now_s = self.app_state["clock"].read().wall_ns // 1_000_000_000
        if now_s != self.server_state.dated_s:
            self.server_state.dated_s = now_s
            self.server_state.default_headers = [(b"date", formatdate(now_s, usegmt=True).encode())]
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        body = envelope(400, msg)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _bound(port: int) -> socket.socket:
    # The protocol is named since asyncio switches Nagle off only where it is: 40 ms for each answer otherwise.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        bound.setblocking(False)
    except OSError as exc:
        bound.close()
        raise _taken(port) from exc
    return bound


def _taken(port: int) -> AuraError:
    return AuraError(f"port {port} on {HOST} can't be used: something else has it; choose another, or 0 for a free one")

"""uvicorn driven from our own event loop.

Its own ``serve`` polls at 10 Hz and handles signals; ``startup`` and ``shutdown`` are all that is needed. A listener
may be opened lazily: the socket listens from the start, and HTTP is loaded when somebody first connects.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

Application = Callable[..., object]


class LazyServer:
    """Serves ``build()``'s application on a bound socket, from the first connection on.

    *watch* is given the task that loads HTTP then. Where HTTP can't be loaded (an upgrade has replaced its files),
    *failed* is called, the connection is closed, and the next one tries again.
    """

    def __init__(
        self,
        bound: socket.socket,
        build: Callable[[], Application],
        watch: Callable[["asyncio.Task[None]"], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._bound = bound
        self._build = build
        self._watch = watch
        self._failed = failed
        self._stop: Callable[[], object] | None = None
        self._starting: asyncio.Task[None] | None = None

    def listen(self) -> None:
        self._bound.listen(128)
        self._bound.setblocking(False)
        asyncio.get_running_loop().add_reader(self._bound.fileno(), self._somebody_is_there)

    async def start(self) -> None:
        """Load HTTP now."""
        from uvicorn import Config, Server

        config = Config(
            self._build(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        config.load()
        server = Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._bound])
        # uvicorn's main loop would renew a Date header every second: nobody needs one here.
        server.server_state.default_headers = []
        self._stop = lambda: server.shutdown(sockets=[self._bound])

    async def close(self) -> None:
        if self._starting is not None:
            await asyncio.wait({self._starting})
        if self._stop is not None:
            await self._stop()  # type: ignore[misc]
        else:
            asyncio.get_running_loop().remove_reader(self._bound.fileno())
            self._bound.close()

    def _somebody_is_there(self) -> None:
        asyncio.get_running_loop().remove_reader(self._bound.fileno())
        self._starting = asyncio.create_task(self._start_late(), name="http")
        self._watch(self._starting)

    async def _start_late(self) -> None:
        try:
            await self.start()
        except Exception as problem:  # noqa: BLE001  # no command is worth the jobs that go on
            self._failed(problem)
            with suppress(OSError):
                self._bound.accept()[0].close()
            asyncio.get_running_loop().add_reader(self._bound.fileno(), self._somebody_is_there)

"""The embedded Aura in a thread of its own, for callers that are not asynchronous.

Every method runs on the server's event loop and returns when it is done there, so any thread may call it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from aura_agent.clock import Clock
from aura_agent.devserver.admin import Admin
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.seed import Seed
from aura_agent.devserver.server import DevServer
from aura_agent.devserver.service import Service

T = TypeVar("T")


class ThreadedDevServer(Admin):
    """``with ThreadedDevServer() as aura:``; the same arguments and methods as DevServer."""

    def __init__(
        self,
        *,
        port: int = 0,
        db: str | None = None,
        seed: Seed | None = None,
        rate_limit: RateLimits | bool = False,
        list_ping_urls: bool = False,
        probe_monitors: bool = True,
        max_ping_body_bytes: int = 100_000,
        clock: Clock | None = None,
    ) -> None:
        self._server = DevServer(
            port=port,
            db=db,
            seed=seed,
            rate_limit=rate_limit,
            list_ping_urls=list_ping_urls,
            probe_monitors=probe_monitors,
            max_ping_body_bytes=max_ping_body_bytes,
            clock=clock,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dev-server", daemon=True)

    def start(self) -> None:
        """Start the thread and the server. Raises what DevServer.start raises."""
        self._thread.start()
        try:
            self._await(self._server.start())
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """Stop the server and end the thread."""
        if self._thread.is_alive():
            try:
                self._await(self._server.stop())
            finally:
                self._end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return self.run_on_the_loop(lambda: self._server.port)

    @property
    def base_url(self) -> str:
        return self.run_on_the_loop(lambda: self._server.base_url)

    @property
    def control_url(self) -> str:
        return self.run_on_the_loop(lambda: self._server.control_url)

    @property
    def token(self) -> str:
        return self._server.token

    @property
    def service(self) -> Service:
        return self._server.service

    def run_on_the_loop(self, act: Callable[[], T]) -> T:
        async def on_the_loop() -> T:
            return act()

        return self._await(on_the_loop())

    def refuse(self) -> None:
        self._await(self._server.refuse())

    def accept(self) -> None:
        self._await(self._server.accept())

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

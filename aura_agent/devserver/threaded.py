"""The embedded Aura in a thread of its own, for callers that are not asynchronous.

Every method runs on the server's event loop and returns when it is done there, so any thread may call it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from aura_agent.clock import Clock
from aura_agent.devserver.faults import Kind, Target
from aura_agent.devserver.received import ReceivedPing, ReceivedRequest
from aura_agent.devserver.routes.heartbeats import HeartbeatOut
from aura_agent.devserver.routes.incidents import IncidentOut
from aura_agent.devserver.seed import Seed
from aura_agent.devserver.server import ORGANIZATION, DevServer, Heartbeat
from aura_agent.devserver.tables.tokens import Scope

P = ParamSpec("P")
T = TypeVar("T")


class ThreadedDevServer:
    """``with ThreadedDevServer() as aura:``; the same arguments and methods as DevServer."""

    def __init__(
        self,
        *,
        port: int = 0,
        db: str | None = None,
        seed: Seed | None = None,
        rate_limit: bool = False,
        max_ping_body_bytes: int = 100_000,
        clock: Clock | None = None,
    ) -> None:
        self._server = DevServer(
            port=port, db=db, seed=seed, rate_limit=rate_limit, max_ping_body_bytes=max_ping_body_bytes, clock=clock
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
        return self._call(lambda: self._server.port)

    @property
    def base_url(self) -> str:
        return self._call(lambda: self._server.base_url)

    @property
    def control_url(self) -> str:
        return self._call(lambda: self._server.control_url)

    @property
    def token(self) -> str:
        return self._server.token

    def create_token(self, scope: Scope = "read", organization: str = ORGANIZATION) -> str:
        return self._call(self._server.create_token, scope, organization)

    def create_heartbeat(self, name: str, expected_interval: int = 60, grace_period: int = 60) -> Heartbeat:
        return self._call(self._server.create_heartbeat, name, expected_interval, grace_period)

    def update_heartbeat(
        self, name_or_id: str, *, expected_interval: int | None = None, grace_period: int | None = None
    ) -> Heartbeat:
        return self._call(
            self._server.update_heartbeat, name_or_id, expected_interval=expected_interval, grace_period=grace_period
        )

    def change_ping_url(self, name_or_id: str) -> Heartbeat:
        return self._call(self._server.change_ping_url, name_or_id)

    def delete_heartbeat(self, name_or_id: str) -> None:
        self._call(self._server.delete_heartbeat, name_or_id)

    def heartbeat(self, name_or_id: str) -> Heartbeat:
        return self._call(self._server.heartbeat, name_or_id)

    def status(self, name_or_id: str) -> HeartbeatOut:
        return self._call(self._server.status, name_or_id)

    def incidents(self, name_or_id: str | None = None) -> list[IncidentOut]:
        return self._call(self._server.incidents, name_or_id)

    def pings(self, name_or_id: str | None = None) -> list[ReceivedPing]:
        return self._call(self._server.pings, name_or_id)

    def requests(self) -> list[ReceivedRequest]:
        return self._call(self._server.requests)

    def clear_received(self) -> None:
        self._call(self._server.clear_received)

    def set_fault(
        self,
        kind: Kind,
        *,
        target: Target = "all",
        heartbeat: str | None = None,
        times: int | None = None,
        for_s: float | None = None,
        status: int = 500,
        retry_after: int | str | None = None,
        location: str | None = None,
        delay_s: float = 0.0,
        drip_s: float = 0.0,
    ) -> str:
        return self._call(
            self._server.set_fault,
            kind,
            target=target,
            heartbeat=heartbeat,
            times=times,
            for_s=for_s,
            status=status,
            retry_after=retry_after,
            location=location,
            delay_s=delay_s,
            drip_s=drip_s,
        )

    def clear_faults(self) -> None:
        self._call(self._server.clear_faults)

    def refuse(self) -> None:
        self._await(self._server.refuse())

    def accept(self) -> None:
        self._await(self._server.accept())

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async def on_the_loop() -> T:
            return function(*args, **kwargs)

        return self._await(on_the_loop())

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

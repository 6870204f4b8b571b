"""One embedded Aura in this process: what the command, the tests and the demo start.

    async with DevServer() as aura:
        backup = aura.create_heartbeat("backup")
        ...
        assert [ping.name for ping in aura.pings()] == ["backup"]

All methods, those of Admin included, belong to the event loop that started it (from another thread: ``threaded.py``).
"""

import asyncio
import sqlite3
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from aura_agent.clock import Clock, SystemClock
from aura_agent.devserver.admin import Admin
from aura_agent.devserver.database import open_database, transaction
from aura_agent.devserver.faults import Fault
from aura_agent.devserver.front import Front
from aura_agent.devserver.listener import HOST, Listener
from aura_agent.devserver.planting import plant
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.seed import Seed
from aura_agent.devserver.service import API_PATH, Service
from aura_agent.devserver.tables import organizations, tokens, users

T = TypeVar("T")


class DevServer(Admin):
    """An embedded Aura. In memory unless *db* names a file.

    *rate_limit*: True for the reference's limits, RateLimits for others; nobody is limited by default.
    *list_ping_urls*: heartbeats are shown with their ping URLs, listings too. Without *probe_monitors* no request
    leaves, and monitors stay as they are.
    """

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
        self._wanted_port, self._path, self._seed = port, db, seed
        self._rates = rate_limit if isinstance(rate_limit, RateLimits) else RateLimits() if rate_limit else None
        self._list_ping_urls, self._max_ping_body_bytes = list_ping_urls, max_ping_body_bytes
        self._probe_monitors = probe_monitors
        self._clock = clock or SystemClock()
        self._token = ""
        self._running: tuple[Service, Listener] | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the database and listen. Raises AuraError: the file or the port can't be used, the seed is wrong."""
        db = open_database(self._path)
        try:
            service = Service(
                db, self._clock, self._rates, self._max_ping_body_bytes, self._list_ping_urls, self._order
            )
            with transaction(db):
                self._token = self._furnish(db, service.now_us())
            listener = Listener(Front(service), self._clock, self._wanted_port)
            await listener.start()
        except BaseException:
            db.close()
            raise
        service.origin = f"http://{HOST}:{listener.port}"
        service.judge.start()
        if self._probe_monitors:
            service.prober.start()
        self._running = (service, listener)

    async def stop(self) -> None:
        """Close everything; what is being answered gets a moment."""
        if self._running is None:
            return
        service, listener = self._running
        self._running = None
        self._cancel_reopening()
        if self._opening is not None:
            await asyncio.wait({self._opening})
        service.faults.clear()
        await listener.stop()
        service.judge.stop()
        await service.prober.stop()
        service.db.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def base_url(self) -> str:
        """The API's base URL, such as ``http://127.0.0.1:49152/api-v1``."""
        return self.service.origin + API_PATH

    @property
    def control_url(self) -> str:
        """Where the control path begins: ``http://127.0.0.1:49152/_dev``."""
        return self.service.origin + "/_dev"

    @property
    def token(self) -> str:
        """The read & write token that this start generated, of the organization's owner."""
        return self._token

    @property
    def service(self) -> Service:
        assert self._running is not None, "the server is not running"
        return self._running[0]

    def run_on_the_loop(self, act: Callable[[], T]) -> T:
        return act()

    async def refuse(self) -> None:
        """Refuse connections until ``accept``; the port stays ours."""
        self._cancel_reopening()
        self._listener.refuse()
        # Idle connections close in the loop's next round: whoever returns from here must not reuse one.
        await asyncio.sleep(0)

    async def accept(self) -> None:
        """Listen again, on the same port."""
        self._cancel_reopening()
        await self._listener.accept()

    @property
    def _listener(self) -> Listener:
        assert self._running is not None, "the server is not running"
        return self._running[1]

    def _furnish(self, db: sqlite3.Connection, now_us: int) -> str:
        """See to it that there is an organization with an owner, and the seed; return the owner's new token."""
        organization_id = organizations.ensure(db, organizations.FIRST, now_us)
        if self._seed is not None:
            plant(db, self._seed, now_us)
        tokens.drop_generated(db)
        return tokens.generate(db, organization_id, users.ensure(db, users.OWNER, now_us), now_us)

    def _order(self, fault: Fault) -> str:
        if fault.kind != "refuse":
            return self.service.faults.add(fault, self.service.monotonic_s())
        self._cancel_reopening()
        self._listener.refuse()
        if fault.for_s is not None:
            self._reopening = asyncio.get_running_loop().call_later(fault.for_s, self._reopen)
        return "refuse"

    def _reopen(self) -> None:
        self._reopening = None
        self._opening = asyncio.get_running_loop().create_task(self._listener.accept(), name="reopen")

    def _cancel_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None

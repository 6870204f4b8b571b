"""One embedded Aura in this process: what the command, the tests and the demo start.

    async with DevServer() as aura:
        backup = aura.create_heartbeat("backup")
        ...
        assert [ping.name for ping in aura.pings()] == ["backup"]

All methods belong to the event loop that started it (from another thread: ``threaded.py``).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import msgspec

from aura_agent.clock import Clock, SystemClock
from aura_agent.devserver.database import open_database, transaction
from aura_agent.devserver.faults import Fault, Kind, Target
from aura_agent.devserver.front import Front
from aura_agent.devserver.judge import Judge
from aura_agent.devserver.listener import HOST, Listener
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.received import ReceivedPing, ReceivedRequest
from aura_agent.devserver.routes.heartbeats import HeartbeatOut, shown
from aura_agent.devserver.routes.incidents import IncidentOut, shown as shown_incident
from aura_agent.devserver.seed import Seed, plant
from aura_agent.devserver.service import API_PATH, Service
from aura_agent.devserver.tables import heartbeats, incidents, tokens
from aura_agent.devserver.tables.heartbeats import HeartbeatRow
from aura_agent.devserver.tables.tokens import Scope

ORGANIZATION = "dev"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat and the URL that its pings go to."""

    id: str
    name: str
    expected_interval: int
    grace_period: int
    ping_url: str = field(repr=False)


class DevServer:
    """An embedded Aura. In memory unless *db* names a file; nobody is rate limited unless *rate_limit* is set."""

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
        self._wanted_port, self._path, self._seed = port, db, seed
        self._rate_limit, self._max_ping_body_bytes = rate_limit, max_ping_body_bytes
        self._clock = clock or SystemClock()
        self._token = ""
        self._organization_id = ""
        self._running: tuple[Service, Listener] | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the database and listen. Raises AuraError: the file or the port can't be used, the seed is wrong."""
        db = open_database(self._path)
        try:
            judge = Judge(db, self._clock)
            rates = RateLimits() if self._rate_limit else None
            service = Service(db, self._clock, judge, rates, self._max_ping_body_bytes)
            with transaction(db):
                self._organization_id = tokens.ensure_organization(db, ORGANIZATION, service.now_us())
                tokens.drop_generated(db)
                self._token = tokens.generate(db, self._organization_id, service.now_us())
                if self._seed is not None:
                    plant(db, self._organization_id, self._seed, service.now_us())
            listener = Listener(Front(service, self._order), self._clock, self._wanted_port)
            await listener.start()
        except BaseException:
            db.close()
            raise
        service.origin = f"http://{HOST}:{listener.port}"
        judge.start()
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
        return self._service.origin + API_PATH

    @property
    def control_url(self) -> str:
        """Where the control path begins: ``http://127.0.0.1:49152/_dev``."""
        return self._service.origin + "/_dev"

    @property
    def token(self) -> str:
        """The read & write token that this start generated."""
        return self._token

    def create_token(self, scope: Scope = "read", organization: str = ORGANIZATION) -> str:
        """Return a new token, of another organization if so named (created if missing)."""
        now_us = self._service.now_us()
        with transaction(self._service.db):
            organization_id = tokens.ensure_organization(self._service.db, organization, now_us)
            return tokens.generate(self._service.db, organization_id, now_us, scope)

    def create_heartbeat(self, name: str, expected_interval: int = 60, grace_period: int = 60) -> Heartbeat:
        """Create a heartbeat; lengths in seconds."""
        row = heartbeats.create(
            self._service.db,
            self._organization_id,
            name=name,
            expected_interval=expected_interval,
            grace_period=grace_period,
            now_us=self._service.now_us(),
        )
        return self._heartbeat(row)

    def update_heartbeat(
        self, name_or_id: str, *, expected_interval: int | None = None, grace_period: int | None = None
    ) -> Heartbeat:
        """Change a heartbeat's lengths (s). Raises LookupError."""
        lengths: dict[str, Any] = {"expected_interval": expected_interval, "grace_period": grace_period}
        changes = {name: length for name, length in lengths.items() if length is not None}
        return self._change(name_or_id, lambda row: replace(row, **changes))

    def change_ping_url(self, name_or_id: str) -> Heartbeat:
        """Give a heartbeat another ping URL; the old one answers 404 from now on. Raises LookupError."""
        return self._change(name_or_id, heartbeats.with_new_key)

    def delete_heartbeat(self, name_or_id: str) -> None:
        """Raises LookupError."""
        row = self._row(name_or_id)
        heartbeats.delete(self._service.db, row.organization_id, row.id)

    def heartbeat(self, name_or_id: str) -> Heartbeat:
        """Return the heartbeat with this id, or else the one with this name. Raises LookupError: none, or several."""
        return self._heartbeat(self._row(name_or_id))

    def status(self, name_or_id: str) -> HeartbeatOut:
        """Return the heartbeat as the API shows it now. Raises LookupError."""
        return shown(self._row(name_or_id), self._settled())

    def incidents(self, name_or_id: str | None = None) -> list[IncidentOut]:
        """Return the incidents (of one heartbeat), oldest first. Raises LookupError."""
        self._settled()
        wanted = None if name_or_id is None else self._row(name_or_id).id
        rows = incidents.all_of(self._service.db)
        return [shown_incident(row) for row in rows if wanted in (None, row.heartbeat_id)]

    def pings(self, name_or_id: str | None = None) -> list[ReceivedPing]:
        """Return the pings that arrived (for one heartbeat), in order, those that a fault kept from counting too."""
        return self._service.received.pings(name_or_id)

    def requests(self) -> list[ReceivedRequest]:
        """Return the requests to the API and to ping URLs, in order."""
        return self._service.received.requests()

    def clear_received(self) -> None:
        """Forget the pings and requests listed so far; heartbeats keep their state."""
        self._service.received.clear()

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
        """Put a fault to work (``faults.py`` says what each does) and return its id. Raises ValueError."""
        wanted = {
            "kind": kind,
            "target": target,
            "heartbeat": heartbeat,
            "times": times,
            "for_s": for_s,
            "status": status,
            "retry_after": retry_after,
            "location": location,
            "delay_s": delay_s,
            "drip_s": drip_s,
        }
        return self._order(msgspec.convert(wanted, Fault))

    def clear_faults(self) -> None:
        """End all faults but ``refuse``; requests that they hold are freed (a hung connection is closed)."""
        self._service.faults.clear()

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
    def _service(self) -> Service:
        assert self._running is not None, "the server is not running"
        return self._running[0]

    @property
    def _listener(self) -> Listener:
        assert self._running is not None, "the server is not running"
        return self._running[1]

    def _order(self, fault: Fault) -> str:
        if fault.kind != "refuse":
            return self._service.faults.add(fault, self._service.monotonic_s())
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

    def _settled(self) -> int:
        now_us = self._service.now_us()
        self._service.judge.settle(now_us)
        return now_us

    def _row(self, name_or_id: str) -> HeartbeatRow:
        rows = heartbeats.find_by_id_or_name(self._service.db, name_or_id)
        if len(rows) != 1:
            raise LookupError(f"{len(rows)} heartbeats have the id or name {name_or_id!r}")
        return rows[0]

    def _change(self, name_or_id: str, change: Callable[[HeartbeatRow], HeartbeatRow]) -> Heartbeat:
        now_us = self._settled()
        with transaction(self._service.db):
            row = heartbeats.update(self._service.db, change(self._row(name_or_id)), now_us)
        self._service.judge.expect(row.deadline_us)
        return self._heartbeat(row)

    def _heartbeat(self, row: HeartbeatRow) -> Heartbeat:
        url = self._service.ping_url(row.ping_key)
        return Heartbeat(row.id, row.name, row.expected_interval, row.grace_period, url)

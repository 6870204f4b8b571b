"""A courier with its store on real files, sending to an embedded Aura; only its randomness is none."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aura_agent.clock import SystemClock
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.inline import Service
from aura_agent.delivery.post import build_http
from aura_agent.delivery.resolver import Resolver
from aura_agent.devserver.server import DevServer
from aura_agent.outbox.queries import QueueRow, queue_rows
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Outcome
from aura_agent.secret import Secret
from tests.reports import report_of
from tests.waiting import until


class NoJitter(random.Random):
    """The shortest wait that a jitter allows: no back-off at all, and a Retry-After to the second."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


@dataclass
class Recorder:
    """Keeps what delivery tells."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def note(self, event: str, **facts: object) -> None:
        self.events.append((event, facts))

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)


@dataclass
class Dispatch:
    """One process's share of a store: its outbox, resolver and courier."""

    directory: Path
    aura: DevServer
    worker: OutboxWorker
    resolver: Resolver
    courier: Courier
    heard: Recorder
    runs: int = 0

    async def run(
        self,
        name: str,
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        body: bytes | None = None,
        replay_all: bool = False,
        ref: str = "",
    ) -> str:
        """Let a run of the heartbeat *name* begin and end now; return its id once it is durable."""
        self.runs += 1
        report = report_of(
            f"run{self.runs:08}", SystemClock().read(), outcome, ref=ref or f"heartbeat:{name}", job=name
        )
        await self.worker.accept(replace(report, body=body, replay_all=replay_all))
        self.courier.wake()
        return report.run_id

    async def rows(self) -> dict[str, QueueRow]:
        """Return all entries by run id."""
        rows = await self.worker.call(lambda outbox: queue_rows(outbox, ended=True))
        return {row.run_id: row for row in rows}

    async def state(self, run_id: str) -> str:
        return (await self.rows())[run_id].state

    async def states(self) -> list[str]:
        return [row.state for row in (await self.rows()).values()]

    async def drain(self, timeout_s: float = 20.0) -> None:
        """Deliver all that can be delivered now."""
        await self.courier.drain(timeout_s, retry=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the courier run, as a daemon does."""
        task = asyncio.create_task(self.courier.run())
        try:
            yield
        finally:
            self.courier.end()
            await task
            await self.courier.abandon()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let another process's transaction keep everybody from writing."""
        other = sqlite3.connect(self.directory / "outbox.db", isolation_level=None, timeout=20)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
        finally:
            other.close()

    async def settled(self, run_id: str, state: str) -> None:
        """Return once the entry is in *state*."""
        seen: list[str] = []

        async def look() -> None:
            while not seen or seen[-1] != state:
                seen.append(await self.state(run_id))
                await asyncio.sleep(0.01)

        task = asyncio.create_task(look())
        try:
            await until(task.done, what=f"{run_id} being {state}")
        finally:
            task.cancel()

    async def hears(self, event: str, times: int = 1) -> None:
        await until(lambda: self.heard.count(event) >= times, what=event)

    def api_requests(self) -> list[str]:
        """Return what was asked of the API: ``list`` or ``url``."""
        paths = [request.path for request in self.aura.requests() if not request.path.startswith("/ping/")]
        return ["url" if path.endswith("/ping-url") else "list" for path in paths]


@asynccontextmanager
async def dispatch(
    directory: Path, aura: DevServer, *, owner: str = "test", token: str | None = None, limit: int = 16
) -> AsyncIterator[Dispatch]:
    """Open *directory* as another process would; *token* is the server's own unless given, none if empty."""
    outbox = Outbox(str(directory), SystemClock(), owner=owner, hostname="host")
    worker, heard, rng = OutboxWorker(outbox), Recorder(), NoJitter()
    given = aura.token if token is None else token
    service = Service(base_url=aura.base_url, token=Secret(given) if given else None)
    resolver = Resolver(worker, service.client_factory(), SystemClock(), rng, heard)
    try:
        async with build_http() as http:
            courier = Courier(worker, resolver, http, rng, heard, limit=limit)
            yield Dispatch(directory, aura, worker, resolver, courier, heard)
    finally:
        await worker.close()

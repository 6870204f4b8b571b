"""Keeps what is cached of the config's heartbeats good, in the background: resolved before a ping needs it.

Asks nothing that the cache knows, so a restart costs no request; asks less urgently than whoever has a ping to send.
What can't be found is said in ``problems`` and asked for again after an hour.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from aura_agent.api import (
    ApiError,
    ApiGarbled,
    AuraClient,
    BudgetSpent,
    Forbidden,
    InternalError,
    NotFound,
    Purpose,
)
from aura_agent.clock import Clock
from aura_agent.delivery.freshness import Refresh, plan
from aura_agent.delivery.resolver import ODD_ANSWERS, THIS_ONE, UNKNOWN_NAME_S, PingTarget, Resolver, ambiguous
from aura_agent.errors import StoreError
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Ref

_SPREAD_S = 30.0  # a fleet that starts or reloads together doesn't ask together
_SHORTEST_S = 1.0
_STORE_TROUBLE_S = 60.0
_BATCH = 20


class Refresher:
    """Works for one store. *hostname* sets this host's requests apart in time from those of others.

    *wake* is called when something was learnt that a ping may have waited for.
    """

    def __init__(
        self,
        worker: OutboxWorker,
        resolver: Resolver,
        clock: Clock,
        rng: random.Random,
        hostname: str,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._worker = worker
        self._resolver = resolver
        self._clock = clock
        self._rng = rng
        self._wanted: tuple[str, ...] = ()
        self._hostname = hostname
        self._wake_courier = wake
        self._replaced = asyncio.Event()
        self._learnt = asyncio.Event()
        resolver.learnt = self._learnt.set
        self._left_alone: dict[str, tuple[int, str]] = {}  # what could not be had: until when, and why
        self.problems: dict[str, str] = {}  # by what the config calls the heartbeat

    def replace(self, wanted: Iterable[str]) -> None:
        """Care for the heartbeats with these ids or names from now on; ask anew for what could not be had."""
        self._wanted = tuple(wanted)
        self._left_alone.clear()
        self._replaced.set()
        self._learnt.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._replaced.clear()
            await asyncio.sleep(self._rng.uniform(0.0, _SPREAD_S))
            while not self._replaced.is_set():
                await self._pause(max(_SHORTEST_S, await self.round()))

    async def keep_targets(self) -> None:
        """Keep in memory where the config's pings go, until cancelled: the store's disk may stop to answer any time."""
        while True:
            await self._learnt.wait()
            self._learnt.clear()
            try:
                found, _ = await self._found()
            except StoreError:
                continue
            self._resolver.targets = {
                name: PingTarget(0, each[0].id, each[0].ping_url, each[0].name)
                for name, each in found.items()
                if len(each) == 1 and each[0].ping_url is not None
            }

    async def round(self) -> float:
        """Ask for all that is due now, as far as it can be had; return when to look again (s)."""
        try:
            while True:
                refresh = await self._look()
                if not (self._resolver.can_ask and refresh.due):
                    return refresh.next_s
                if held_s := self._resolver.standing.held_s():
                    return held_s
                if refresh.listing:
                    await self._list()
                else:
                    await self._ask(refresh)
        except BudgetSpent as spent:
            return (spent.retry_after_s or 0.0) * self._rng.uniform(1.0, 1.2)
        except ApiError:
            return self._resolver.standing.held_s()
        except StoreError:
            return _STORE_TROUBLE_S

    async def _look(self) -> Refresh:
        """Return what is due of what isn't left alone."""
        found, known = await self._found()
        listing = await self._worker.call(Outbox.listing)
        reading = self._clock.read()
        alone = {name: until - reading.boot_ns for name, (until, _) in self._left_alone.items() if name in found}
        alone = {name: left_ns for name, left_ns in alone.items() if left_ns > 0}
        self._left_alone = {name: self._left_alone[name] for name in alone}
        self.problems = {name: reason for name, (_, reason) in self._left_alone.items()}
        refresh = plan(
            [each for name, each in found.items() if name not in alone],
            known,
            self._hostname,
            reading.wall_ns,
            listing,
        )
        return replace(refresh, next_s=min([refresh.next_s, *(left_ns / 1e9 for left_ns in alone.values())]))

    async def _list(self) -> None:
        found, _ = await self._found()
        unknown = [name for name, each in found.items() if not each and name not in self._left_alone]
        if unknown and await self._resolver.renew_few(unknown, Purpose.REFRESH):
            return
        listed = await self._resolver.renew_list(Purpose.REFRESH)
        found, _ = await self._found()
        for name, each in found.items():
            # What is cached stays when a listing lacks it, and would be due again at once.
            if not any(heartbeat.id in listed for heartbeat in each):
                self._leave_alone(name, f"no heartbeat named {name!r}: create it in Aura, or correct the config")
            elif len(each) > 1:
                self._leave_alone(name, ambiguous(each))

    async def _ask(self, refresh: Refresh) -> None:
        """Ask for a batch of single heartbeats and ping URLs: others get their turn in between."""
        asked: list[tuple[Callable[[AuraClient, str], Awaitable[object]], str]] = [
            *((self._resolver.renew_facts, key) for key in refresh.facts),
            *((self._resolver.renew_url, key) for key in refresh.urls),
        ]
        had = False
        odd: dict[str, ApiError] = {}
        async with self._resolver.asking(Purpose.REFRESH) as client:
            for renew, heartbeat_id in asked[:_BATCH]:
                try:
                    await renew(client, heartbeat_id)
                    had = True
                    self._wake_courier()
                except THIS_ONE as problem:
                    if isinstance(problem, Forbidden) and not had:
                        raise  # any token may read what its organization has: it is the token, not this heartbeat
                    if not (isinstance(problem, NotFound) and await self._resolver.follow_name(client, heartbeat_id)):
                        await self._leave_alone_id(heartbeat_id, str(problem))
                except (InternalError, ApiGarbled) as problem:
                    odd[heartbeat_id] = problem
                    if len(odd) > ODD_ANSWERS:
                        raise
            for heartbeat_id, answer in odd.items():
                if not had:
                    raise answer
                await self._leave_alone_id(heartbeat_id, str(answer))

    async def _found(self) -> tuple[dict[str, list[CachedHeartbeat]], int]:
        """Return what the cache has for each name or id that is wanted, and how many heartbeats it has in all."""
        names = self._wanted

        def look(outbox: Outbox) -> tuple[dict[str, list[CachedHeartbeat]], int]:
            return {name: outbox.heartbeats.find(Ref.HEARTBEAT + name) for name in names}, len(outbox.heartbeats.all())

        return await self._worker.call(look)

    async def _leave_alone_id(self, heartbeat_id: str, reason: str) -> None:
        found, _ = await self._found()
        for name, each in found.items():
            if any(heartbeat.id == heartbeat_id for heartbeat in each):
                self._leave_alone(name, reason)

    def _leave_alone(self, name: str, reason: str) -> None:
        wait_ns = int(UNKNOWN_NAME_S * self._rng.uniform(1.0, 1.2) * 1e9)
        self._left_alone[name] = (self._clock.read().boot_ns + wait_ns, reason)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._replaced.wait()
        except TimeoutError:
            pass

"""Where the ping URLs come from: the store's cache, and rarely the API.

One listing serves all names that wait. What the cache holds is never dropped because a request failed or a listing
came back empty; a name that isn't there is asked for again slowly, and its pings are parked meanwhile.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from aura_agent.api import ApiError, AuraClient, Heartbeat, NotFound, RateLimited
from aura_agent.clock import Clock
from aura_agent.delivery.backoff import after_retry_after_s, delay_s
from aura_agent.delivery.observer import Observer
from aura_agent.outbox.store import Outbox, Unresolved
from aura_agent.outbox.streams import CachedHeartbeat
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Ref
from aura_agent.secret import Secret

UNKNOWN_NAME_S = 3600.0  # how long a name that no listing had is left alone; a new success asks again
_RELIST_S = 60.0  # a listing younger than this answers for the next unknown name too

ClientFactory = Callable[[], AbstractAsyncContextManager[AuraClient]]


class Resolver:
    """Finds heartbeats and their ping URLs. *open_client* is None where there is no token."""

    def __init__(
        self,
        worker: OutboxWorker,
        open_client: ClientFactory | None,
        clock: Clock,
        rng: random.Random,
        observer: Observer,
        *,
        learn: Callable[[Secret], None] = lambda _: None,
        no_client_reason: str = "no API token: set token_file in the config, AURA_TOKEN_FILE or AURA_TOKEN",
    ) -> None:
        self._worker = worker
        self._open_client = open_client
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._learn = learn
        self._no_client_reason = no_client_reason
        self._asking = asyncio.Lock()
        self._listed_boot_ns: int | None = None
        self.problem = ""

    def use(self, open_client: ClientFactory | None) -> None:
        """Ask the API by another way from now on, and anew for what it didn't know: a reload follows a change."""
        self._open_client = open_client
        self._listed_boot_ns = None

    async def resolve(self, unresolved: Sequence[Unresolved]) -> None:
        """Give each stream its heartbeat and ping URL, or postpone it with the reason. Raises StoreError."""
        async with self._asking:
            missing = [stream for stream in unresolved if not await self._attach_from_cache(stream)]
            if not missing:
                return
            if self._open_client is None:
                self.problem = self._no_client_reason
                await self._postpone(missing, self._no_client_reason, delay_s=UNKNOWN_NAME_S, parked=True)
                return
            try:
                async with self._open_client() as client:
                    await self._ask(client, missing)
                    if self.problem:
                        self._observer.note("api.recovered")
                    self.problem = ""
            except ApiError as problem:
                self.problem = str(problem)
                self._observer.note("api.failed", error=str(problem))
                if isinstance(problem, RateLimited) and problem.retry_after_s is not None:
                    wait_s = after_retry_after_s(problem.retry_after_s, self._rng)
                else:
                    wait_s = delay_s(max(stream.tries for stream in missing) + 3, self._rng)
                await self._postpone(missing, str(problem), delay_s=wait_s)

    async def refresh(self, heartbeat_id: str) -> bool:
        """Fetch the heartbeat's ping URL anew; return whether it is another one now. Never raises ApiError."""
        if self._open_client is None:
            return False
        async with self._asking:
            try:
                async with self._open_client() as client:
                    url = await client.ping_url(heartbeat_id)
            except ApiError as problem:
                self._observer.note("api.failed", error=str(problem))
                return False
            self._learn(url)
            wall_ns = self._clock.read().wall_ns
            return await self._worker.call(lambda outbox: outbox.remember_url(heartbeat_id, url, wall_ns))

    async def list_anew(self) -> int:
        """Fetch the list of heartbeats into the cache; return how many there are. Raises ApiError."""
        if self._open_client is None:
            return 0
        async with self._asking, self._open_client() as client:
            return await self._list(client)

    async def _ask(self, client: AuraClient, missing: list[Unresolved]) -> None:
        if any(stream.heartbeat_id is None for stream in missing) and not self._listed_just_now():
            await self._list(client)
        for stream in missing:
            if await self._attach_from_cache(stream):
                continue
            heartbeats = await self._worker.call(partial(_find, stream=stream))
            if len(heartbeats) == 1:
                await self._fetch_url(client, stream, heartbeats[0])
            elif heartbeats:
                ids = ", ".join(sorted(heartbeat.id for heartbeat in heartbeats))
                reason = f"several heartbeats are named {heartbeats[0].name!r}: use one of the ids {ids}"
                await self._postpone([stream], reason, delay_s=UNKNOWN_NAME_S, parked=True)
            else:
                await self._postpone([stream], _not_found(stream), delay_s=UNKNOWN_NAME_S, parked=True)

    async def _fetch_url(self, client: AuraClient, stream: Unresolved, heartbeat: CachedHeartbeat) -> None:
        try:
            url: Secret = heartbeat.ping_url or await client.ping_url(heartbeat.id)
        except NotFound:
            await self._postpone([stream], _not_found(stream), delay_s=UNKNOWN_NAME_S, parked=True)
            return
        self._learn(url)
        wall_ns = self._clock.read().wall_ns
        await self._worker.call(lambda outbox: outbox.remember_url(heartbeat.id, url, wall_ns))
        await self._worker.call(lambda outbox: outbox.attach(stream.stream_id, heartbeat.id))
        self._observer.note("heartbeat.resolved", heartbeat=heartbeat.name)

    async def _list(self, client: AuraClient) -> int:
        found = [heartbeat async for heartbeat in client.list_heartbeats(limit=100)]
        reading = self._clock.read()
        rows = [_to_cache(heartbeat, reading.wall_ns) for heartbeat in found]
        await self._worker.call(lambda outbox: outbox.remember(rows))
        self._listed_boot_ns = reading.boot_ns
        return len(rows)

    async def _attach_from_cache(self, stream: Unresolved) -> bool:
        """Attach *stream* if the cache has its one heartbeat with a ping URL."""
        heartbeats = await self._worker.call(lambda outbox: _find(outbox, stream))
        if len(heartbeats) != 1 or heartbeats[0].ping_url is None:
            return False
        await self._worker.call(lambda outbox: outbox.attach(stream.stream_id, heartbeats[0].id))
        return True

    async def _postpone(
        self, streams: Sequence[Unresolved], reason: str, *, delay_s: float, parked: bool = False
    ) -> None:
        for stream in streams:
            await self._worker.call(
                partial(
                    Outbox.postpone_unresolved,
                    stream_id=stream.stream_id,
                    reason=reason,
                    delay_s=delay_s,
                    parked=parked,
                )
            )
            self._observer.note("ping.parked" if parked else "ping.postponed", heartbeat=_wanted(stream), reason=reason)

    def _listed_just_now(self) -> bool:
        if self._listed_boot_ns is None:
            return False
        return self._clock.read().boot_ns - self._listed_boot_ns < _RELIST_S * 1e9


def _find(outbox: Outbox, stream: Unresolved) -> list[CachedHeartbeat]:
    if stream.heartbeat_id is not None:
        return outbox.streams.find(Ref.HEARTBEAT + stream.heartbeat_id)
    return next((found for ref in stream.refs if (found := outbox.streams.find(ref))), [])


def _wanted(stream: Unresolved) -> str:
    return ", ".join(ref.partition(":")[2] for ref in stream.refs if not ref.startswith(Ref.URL))


def _not_found(stream: Unresolved) -> str:
    return f"no heartbeat named {_wanted(stream)!r}: create it in Aura, or name another with -H"


def _to_cache(heartbeat: Heartbeat, wall_ns: int) -> CachedHeartbeat:
    last_ping = heartbeat.last_ping_at
    return CachedHeartbeat(
        id=heartbeat.id,
        name=heartbeat.name or "",
        interval_s=heartbeat.expected_interval_s,
        grace_s=heartbeat.grace_period_s,
        status=heartbeat.status,
        last_ping_wall_ns=None if last_ping is None else int(last_ping.timestamp() * 1e9),
        ping_url=heartbeat.ping_url,
        listed_wall_ns=wall_ns,
    )

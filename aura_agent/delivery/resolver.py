"""Where the ping URLs come from: the store's cache, and rarely the API.

One listing serves all names that wait, one minute brings a bounded number of ping URLs, and while the API fails nobody
asks it before its back-off is over: its limits count per token, for a whole fleet. What the cache holds is never
dropped because a request failed or a listing came back empty; a name that isn't there is asked for again slowly, and
its pings are parked meanwhile.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from functools import partial

from aura_agent.api import (
    ApiError,
    ApiGarbled,
    AuraClient,
    BadRequest,
    Conflict,
    Forbidden,
    Heartbeat,
    InternalError,
    NotFound,
)
from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.clock import Clock
from aura_agent.delivery.backoff import delay_s
from aura_agent.delivery.observer import Observer
from aura_agent.outbox.claims import Unresolved
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.streams import CachedHeartbeat
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Ref
from aura_agent.secret import Secret

UNKNOWN_NAME_S = 3600.0  # how long a name that no listing had is left alone; a new success asks again
_RELIST_S = 60.0  # a listing younger than this answers for the next unknown name too
_URLS_PER_MINUTE = 40  # of the 60 requests that the API grants a token in a minute
_REFRESH_S = 600.0  # a ping URL that the API has just confirmed isn't asked for again at the next 404
_ODD_ANSWERS = 2  # so many heartbeats may be answered oddly before it is the API that is ill
_THIS_ONE = (NotFound, Forbidden, BadRequest, Conflict)  # errors that say nothing about other heartbeats

ClientFactory = Callable[[], AbstractAsyncContextManager[AuraClient]]


class Fresh(StrEnum):
    """What came of asking for a ping URL anew."""

    CHANGED = "changed"
    SAME = "same"
    UNKNOWN = "unknown"  # the API couldn't be asked


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
        self._failures = 0
        self._held_until_ns = 0
        self._minute_began_ns = 0
        self._urls_in_minute = 0
        self._confirmed_ns: dict[str, int] = {}
        self.problem = ""

    def use(self, open_client: ClientFactory | None) -> None:
        """Ask the API by another way from now on, and anew for what it didn't know: a reload follows a change."""
        self._open_client = open_client
        self._listed_boot_ns = None
        self._failures = self._held_until_ns = 0
        self._confirmed_ns.clear()

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
            if self._held_s() > 0:
                await self._postpone(missing, self.problem, delay_s=self._held_s())
                return
            try:
                async with self._open_client() as client:
                    await self._ask(client, missing)
            except ApiError as problem:
                self._failed(problem)
                await self._postpone(missing, str(problem), delay_s=self._held_s())
            else:
                self._answered()

    async def refresh(self, heartbeat_id: str, failed_url: Secret | None = None) -> Fresh:
        """Fetch the heartbeat's ping URL anew, as *failed_url* is unknown to the server. Raises StoreError.

        A heartbeat that is gone gives way to the one that has its name now.
        """
        cached = await self._worker.call(lambda outbox: outbox.streams.cached_url(heartbeat_id))
        if failed_url is not None and cached != failed_url:
            return Fresh.CHANGED  # somebody has asked meanwhile
        if self._open_client is None or self._confirmed_just_now(heartbeat_id):
            return Fresh.SAME
        async with self._asking:
            if self._held_s() > 0:
                return Fresh.UNKNOWN
            try:
                async with self._open_client() as client:
                    changed = await self._refetch(client, heartbeat_id)
            except ApiError as problem:
                self._failed(problem)
                return Fresh.UNKNOWN
            self._answered()
        if changed:
            self._confirmed_ns.pop(heartbeat_id, None)
            return Fresh.CHANGED
        self._confirmed_ns[heartbeat_id] = self._clock.read().boot_ns
        return Fresh.SAME

    async def list_anew(self) -> int:
        """Fetch the list of heartbeats into the cache; return how many there are. Raises ApiError."""
        if self._open_client is None:
            return 0
        async with self._asking, self._open_client() as client:
            return await self._list(client)

    async def _ask(self, client: AuraClient, missing: list[Unresolved]) -> None:
        """Take from *missing* one stream after the other, resolved or postponed. Raises ApiError: those left wait."""
        if any(stream.heartbeat_id is None for stream in missing) and not self._listed_just_now():
            await self._list(client)
        odd = 0
        while missing:
            stream = missing[0]
            try:
                await self._resolve_one(client, stream)
            except _THIS_ONE as problem:
                await self._postpone([stream], str(problem), delay_s=UNKNOWN_NAME_S, parked=True)
            except (InternalError, ApiGarbled) as problem:
                odd += 1
                if odd > _ODD_ANSWERS or len(missing) == 1:
                    raise
                await self._postpone([stream], str(problem), delay_s=delay_s(stream.tries + 3, self._rng))
            missing.pop(0)

    async def _resolve_one(self, client: AuraClient, stream: Unresolved) -> None:
        if await self._attach_from_cache(stream):
            return
        heartbeats = await self._worker.call(partial(_find, stream=stream))
        if not heartbeats:
            await self._postpone([stream], _not_found(stream), delay_s=UNKNOWN_NAME_S, parked=True)
        elif len(heartbeats) > 1:
            ids = ", ".join(sorted(heartbeat.id for heartbeat in heartbeats))
            reason = f"several heartbeats are named {heartbeats[0].name!r}: use one of the ids {ids}"
            await self._postpone([stream], reason, delay_s=UNKNOWN_NAME_S, parked=True)
        elif (turn_s := self._turn_s()) > 0:
            reason = "many ping URLs are asked for: the Aura API grants 60 requests a minute"
            await self._postpone([stream], reason, delay_s=turn_s * self._rng.uniform(1.0, 1.2))
        else:
            await self._fetch_url(client, stream, heartbeats[0])

    async def _fetch_url(self, client: AuraClient, stream: Unresolved, heartbeat: CachedHeartbeat) -> None:
        self._urls_in_minute += 1
        try:
            url = await client.ping_url(heartbeat.id)
        except NotFound:
            if not await self._follow_name(client, heartbeat.id):
                await self._postpone([stream], _not_found(stream), delay_s=UNKNOWN_NAME_S, parked=True)
            return
        await self._learn_url(heartbeat.id, url)
        await self._worker.call(lambda outbox: outbox.attach(stream.stream_id, heartbeat.id))
        self._observer.note("heartbeat.resolved", heartbeat=heartbeat.name)

    async def _refetch(self, client: AuraClient, heartbeat_id: str) -> bool:
        try:
            url = await client.ping_url(heartbeat_id)
        except NotFound:
            return await self._follow_name(client, heartbeat_id)
        return await self._learn_url(heartbeat_id, url)

    async def _learn_url(self, heartbeat_id: str, url: Secret) -> bool:
        self._learn(url)
        wall_ns = self._clock.read().wall_ns
        return await self._worker.call(lambda outbox: outbox.remember_url(heartbeat_id, url, wall_ns))

    async def _follow_name(self, client: AuraClient, heartbeat_id: str) -> bool:
        """The heartbeat is gone: has another one its name? People delete and create anew."""
        if not self._listed_just_now():
            await self._list(client)
        return await self._worker.call(lambda outbox: outbox.follow_name(heartbeat_id))

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

    def _confirmed_just_now(self, heartbeat_id: str) -> bool:
        confirmed_ns = self._confirmed_ns.get(heartbeat_id)
        return confirmed_ns is not None and self._clock.read().boot_ns - confirmed_ns < _REFRESH_S * 1e9

    def _turn_s(self) -> float:
        """Return how long the next ping URL has to wait; 0 for now."""
        boot_ns = self._clock.read().boot_ns
        passed_s = (boot_ns - self._minute_began_ns) / 1e9
        if self._minute_began_ns == 0 or passed_s >= 60:
            self._minute_began_ns, self._urls_in_minute = boot_ns, 0
            return 0.0
        return 0.0 if self._urls_in_minute < _URLS_PER_MINUTE else 60 - passed_s

    def _held_s(self) -> float:
        """Return how long the API is left alone, after it failed."""
        return max(0, self._held_until_ns - self._clock.read().boot_ns) / 1e9

    def _failed(self, problem: ApiError) -> None:
        self._failures += 1
        self.problem = str(problem)
        self._observer.note("api.failed", error=str(problem), status=problem.status)
        if problem.retry_after_s is not None:
            wait_s = after_retry_after_s(problem.retry_after_s, self._rng)
        else:
            wait_s = delay_s(self._failures + 1, self._rng)
        self._held_until_ns = self._clock.read().boot_ns + int(wait_s * 1e9)

    def _answered(self) -> None:
        if self.problem:
            self._observer.note("api.recovered")
        self.problem = ""
        self._failures = self._held_until_ns = 0


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

"""Where the ping URLs come from: the store's cache, and rarely the API.

One listing serves all names that wait, what the token's budget doesn't allow waits for its turn, and while the API
fails nobody asks it before its back-off is over: its limits count per token, for a whole fleet. What the cache holds
is never dropped because a request failed or a listing came back empty; a name that isn't there is asked for again
slowly, and its pings are parked meanwhile.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from aura_agent.api import (
    ApiError,
    ApiGarbled,
    AuraClient,
    BadRequest,
    BudgetSpent,
    Conflict,
    Forbidden,
    Heartbeat,
    InternalError,
    NotFound,
    Purpose,
)
from aura_agent.api.assumptions import looks_like_id
from aura_agent.clock import Clock
from aura_agent.delivery.backoff import delay_s
from aura_agent.delivery.freshness import listing_left_s
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.standing import Degraded, Standing
from aura_agent.outbox.claims import Unresolved
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.scopes import FOREIGN
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Ref
from aura_agent.secret import Secret

UNKNOWN_NAME_S = 3600.0  # how long a name that no listing had is left alone; a new success asks again
_RELIST_S = 60.0  # a listing younger than this answers for the next unknown name too
_LISTING_PATIENCE_S = 90.0  # a page that comes a minute later is better than all of them once more
_CONFIRMED_S = 600.0  # a ping URL that the API has just confirmed isn't asked for again at the next 404
_FEW = 3  # so many heartbeats are asked for one by one rather than by a listing of all
ODD_ANSWERS = 2  # so many heartbeats may be answered oddly before it is the API that is ill
THIS_ONE = (NotFound, Forbidden, BadRequest, Conflict)  # errors that say nothing about other heartbeats


# Given what for, and how long a request may wait for its turn (s).
ClientFactory = Callable[[Purpose, float], AuraClient]


class Fresh(StrEnum):
    """What came of asking for a ping URL anew."""

    CHANGED = "changed"
    SAME = "same"
    UNKNOWN = "unknown"  # the API couldn't be asked


class PingTarget(NamedTuple):
    """Where pings of a heartbeat go: its stream (0: unknown), id and ping URL, as far as they are known."""

    stream_id: int
    heartbeat_id: str | None
    url: Secret | None
    name: str


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
        self._lacking = ""  # why something could not be asked for at all
        self._asking = asyncio.Lock()
        self._listed_boot_ns: int | None = None
        self._confirmed_ns: dict[str, int] = {}
        self.targets: dict[str, PingTarget] = {}  # of the config's heartbeats, for when the store does not answer
        self.learnt: Callable[[], None] = lambda: None  # called when they may have changed
        self.standing = Standing(clock, rng, observer)

    def use(self, open_client: ClientFactory | None) -> None:
        """Ask the API by another way from now on, and anew for what it didn't know: a reload follows a change."""
        self._open_client = open_client
        self._listed_boot_ns = None
        self._confirmed_ns.clear()
        self._lacking = ""
        self.standing.reset()

    def forget_listing(self) -> None:
        """The store may not know what the newest listing said: ask for another one where a name is unknown."""
        self._listed_boot_ns = None

    @property
    def can_ask(self) -> bool:
        """Whether there is a token to ask with."""
        return self._open_client is not None

    @property
    def problem(self) -> str:
        """Return what keeps us from finding ping URLs, empty while nothing does."""
        return self.standing.problem or self._lacking

    async def resolve(self, unresolved: Sequence[Unresolved]) -> None:
        """Give each stream its heartbeat and ping URL, or postpone it with the reason. Raises StoreError."""
        async with self._asking:
            foreign = [stream for stream in unresolved if stream.is_foreign]
            await self._postpone(foreign, FOREIGN, delay_s=UNKNOWN_NAME_S, parked=True)
            ours = [stream for stream in unresolved if not stream.is_foreign]
            missing = [stream for stream in ours if not await self._attach_from_cache(stream)]
            if not missing:
                return
            if not self.can_ask:
                if not all(stream.is_doubt for stream in missing):
                    self._lacking = self._no_client_reason
                await self._postpone(missing, self._no_client_reason, delay_s=UNKNOWN_NAME_S, parked=True)
                return
            if self.standing.held_s() > 0:
                await self._wait_for_api(missing)
                return
            try:
                await self._ask(missing)
            except BudgetSpent as spent:
                await self._postpone(missing, str(spent), delay_s=self._turn_s(spent))
            except ApiError:
                await self._wait_for_api(missing)

    async def refresh(self, heartbeat_id: str, failed_url: Secret | None = None) -> Fresh:
        """Fetch the heartbeat's ping URL anew, as *failed_url* is unknown to the server. Raises StoreError.

        A heartbeat that is gone gives way to the one that has its name now.
        """
        cached = await self._worker.call(lambda outbox: outbox.heartbeats.url(heartbeat_id))
        if failed_url is not None and cached != failed_url:
            return Fresh.CHANGED  # somebody has asked meanwhile
        if not self.can_ask or self._confirmed_just_now(heartbeat_id):
            return Fresh.SAME
        if self._asking.locked():
            return Fresh.UNKNOWN  # a lease waits for us, and those who ask may wait longer than it lasts
        async with self._asking:
            if self.standing.held_s() > 0:
                return Fresh.UNKNOWN
            try:
                async with self.asking(Purpose.NEEDED) as client:
                    changed = await self._refetch(client, heartbeat_id)
            except ApiError:
                return Fresh.UNKNOWN
        if changed:
            self._confirmed_ns.pop(heartbeat_id, None)
            return Fresh.CHANGED
        self._confirmed_ns[heartbeat_id] = self._clock.read().boot_ns
        return Fresh.SAME

    @asynccontextmanager
    async def asking(self, purpose: Purpose, patience_s: float = 0.0) -> AsyncIterator[AuraClient]:
        """An API client for *purpose*; how it went is noted in ``standing``. Raises ApiError; there must be a token."""
        assert self._open_client is not None
        async with self._open_client(purpose, patience_s) as client:
            try:
                yield client
            except BudgetSpent:
                raise
            except ApiError as problem:
                if not isinstance(problem, NotFound):
                    self.standing.failed(problem)
                raise
            self.standing.answered()

    async def renew_list(self, purpose: Purpose) -> frozenset[str]:
        """Fetch the list of heartbeats into the cache; return the ids that it has. Raises ApiError, StoreError."""
        async with self.asking(purpose, _LISTING_PATIENCE_S) as client:
            return await self._list(client)

    async def renew_old_list(self, hostname: str, timeout_s: float) -> None:
        """List the heartbeats if that was last done about a week ago: names may mean others by now.

        For who doesn't go on asking in the background: one that fails isn't tried again within the hour. Raises
        StoreError.
        """
        listing = await self._worker.call(Outbox.listing)
        wall_ns = self._clock.read().wall_ns
        is_old = listing_left_s(listing, hostname, wall_ns) <= 0
        if not (is_old and self.can_ask and self.standing.held_s() == 0 and listing.list_after_wall_ns <= wall_ns):
            return
        try:
            async with asyncio.timeout(timeout_s), self._asking:
                await self.renew_list(Purpose.REFRESH)
        except (ApiError, TimeoutError):
            after_ns = wall_ns + int(UNKNOWN_NAME_S * 1e9)
            await self._worker.call(lambda outbox: outbox.note_list_after(after_ns))

    async def renew_few(self, names: Sequence[str], purpose: Purpose) -> bool:
        """Fetch heartbeats into the cache one by one, if *names* are few ids; return whether that has found them all.

        Raises ApiError, StoreError.
        """
        if len(names) > _FEW or not all(looks_like_id(name) and name == name.lower() for name in names):
            return False
        try:
            async with self.asking(purpose) as client:
                for name in names:
                    await self.renew_facts(client, name)
        except NotFound:
            return False  # a name that looks like an id, perhaps
        return True

    async def renew_facts(self, client: AuraClient, heartbeat_id: str) -> None:
        """Fetch one heartbeat into the cache. Raises ApiError: NotFound if there is none, StoreError."""
        row = self._to_cache(await client.get_heartbeat(heartbeat_id))
        if row.id != heartbeat_id:
            raise ApiGarbled(f"the Aura API answered with another heartbeat than {heartbeat_id}")
        await self._worker.call(lambda outbox: outbox.remember([row], whole=False))

    async def renew_url(self, client: AuraClient, heartbeat_id: str) -> bool:
        """Fetch a ping URL into the cache; return whether that changed it. Raises ApiError, StoreError."""
        url = await client.ping_url(heartbeat_id)
        self._learn(url)
        wall_ns = self._clock.read().wall_ns
        changed = await self._worker.call(lambda outbox: outbox.remember_url(heartbeat_id, url, wall_ns))
        self.learnt()
        return changed

    async def follow_name(self, client: AuraClient, heartbeat_id: str, refs: Sequence[str] = ()) -> bool:
        """The heartbeat is gone: return whether another one has its name, which the listing lets its pings go over to.

        *refs* are those of its stream, if they are known. People delete and create anew. Raises ApiError, StoreError.
        """
        refs = refs or await self._worker.call(lambda outbox: outbox.streams.names_of(heartbeat_id))
        if self._listing_age_s() >= _RELIST_S:
            await self._list(client)

        def other(outbox: Outbox, ref: str) -> bool:
            named = {heartbeat.id for heartbeat in outbox.heartbeats.find(ref)}
            return bool(named) and heartbeat_id not in named

        return await self._worker.call(lambda outbox: any(other(outbox, ref) for ref in refs))

    async def _ask(self, missing: list[Unresolved]) -> None:
        """Take from *missing* one stream after the other, resolved or postponed. Raises ApiError: those left wait."""
        unknown_s = await self._look_up([stream for stream in missing if stream.heartbeat_id is None])
        odd = 0
        async with self.asking(Purpose.NEEDED) as client:
            while missing:
                stream = missing[0]
                try:
                    await self._resolve_one(client, stream, unknown_s)
                except THIS_ONE as problem:
                    await self._postpone([stream], str(problem), delay_s=UNKNOWN_NAME_S, parked=True)
                except (InternalError, ApiGarbled) as problem:
                    odd += 1
                    if odd > ODD_ANSWERS or len(missing) == 1:
                        raise
                    await self._postpone([stream], str(problem), delay_s=delay_s(stream.tries + 3, self._rng))
                missing.pop(0)

    async def _look_up(self, unknown: list[Unresolved]) -> float:
        """Find what *unknown* may stand for, by ids or a listing; return for how long (s) what isn't is left alone."""
        if unknown and self._listing_age_s() < _RELIST_S:
            return max(1.0, _RELIST_S - self._listing_age_s())  # a heartbeat may have been created since then
        if unknown and not await self.renew_few([_name_in(stream) for stream in unknown], Purpose.NEEDED):
            await self.renew_list(Purpose.NEEDED)
        return UNKNOWN_NAME_S

    async def _resolve_one(self, client: AuraClient, stream: Unresolved, unknown_s: float) -> None:
        if await self._attach_from_cache(stream):
            return
        heartbeats = await self._worker.call(partial(_find, stream=stream))
        if not heartbeats:
            await self._postpone([stream], _not_found(stream), delay_s=unknown_s, parked=True)
        elif len(heartbeats) > 1:
            await self._postpone([stream], ambiguous(heartbeats), delay_s=UNKNOWN_NAME_S, parked=True)
        else:
            await self._fetch_url(client, stream, heartbeats[0])

    async def _fetch_url(self, client: AuraClient, stream: Unresolved, heartbeat: CachedHeartbeat) -> None:
        try:
            await self.renew_url(client, heartbeat.id)
        except NotFound:
            if not await self.follow_name(client, heartbeat.id, stream.refs):
                await self._postpone([stream], _not_found(stream), delay_s=UNKNOWN_NAME_S, parked=True)
            return
        await self._worker.call(lambda outbox: outbox.attach(stream.stream_id, heartbeat.id))
        self._observer.note("heartbeat.resolved", heartbeat=heartbeat.name)

    async def _refetch(self, client: AuraClient, heartbeat_id: str) -> bool:
        try:
            return await self.renew_url(client, heartbeat_id)
        except NotFound:
            return await self.follow_name(client, heartbeat_id)

    async def _list(self, client: AuraClient) -> frozenset[str]:
        try:
            found = [self._to_cache(heartbeat) async for heartbeat in client.list_heartbeats(limit=100)]
        except NotFound as problem:
            # A collection is always there: this is no Aura.
            raise ApiGarbled(f"{problem}; is the base URL right?", status=problem.status) from problem
        known = await self._worker.call(lambda outbox: outbox.heartbeats.all())
        if known and not found:
            # More likely a fault of the service than an organization that has lost all it had.
            raise ApiGarbled("the Aura API lists no heartbeat any more: what is known stays")
        await self._worker.call(lambda outbox: outbox.remember(found))
        self.learnt()
        self._listed_boot_ns = self._clock.read().boot_ns
        return frozenset(heartbeat.id for heartbeat in found)

    def _to_cache(self, heartbeat: Heartbeat) -> CachedHeartbeat:
        if heartbeat.ping_url is not None:
            self._learn(heartbeat.ping_url)
        return _cached(heartbeat, self._clock.read().wall_ns)

    async def _attach_from_cache(self, stream: Unresolved) -> bool:
        """Attach *stream* if the cache has its one heartbeat with a ping URL."""
        heartbeats = await self._worker.call(lambda outbox: _find(outbox, stream))
        if len(heartbeats) != 1 or heartbeats[0].ping_url is None:
            return False
        await self._worker.call(lambda outbox: outbox.attach(stream.stream_id, heartbeats[0].id))
        return True

    async def _wait_for_api(self, missing: Sequence[Unresolved]) -> None:
        """Postpone what can't be asked for now; a token that is refused needs a person."""
        parked = self.standing.degraded is Degraded.AUTH
        if parked:
            await self._worker.call(Outbox.note_refused)
        await self._postpone(missing, self.problem, delay_s=self.standing.held_s(), parked=parked)

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
            if not stream.is_doubt:
                event = "ping.parked" if parked else "ping.postponed"
                self._observer.note(event, heartbeat=_wanted(stream), reason=reason)

    def _listing_age_s(self) -> float:
        listed_ns = self._listed_boot_ns
        return float("inf") if listed_ns is None else (self._clock.read().boot_ns - listed_ns) / 1e9

    def _confirmed_just_now(self, heartbeat_id: str) -> bool:
        confirmed_ns = self._confirmed_ns.get(heartbeat_id)
        return confirmed_ns is not None and self._clock.read().boot_ns - confirmed_ns < _CONFIRMED_S * 1e9

    def _turn_s(self, spent: BudgetSpent) -> float:
        """Return when to ask again: those who were sent away together don't come back together."""
        return (spent.retry_after_s or 0.0) * self._rng.uniform(1.0, 1.2)


def ambiguous(heartbeats: Sequence[CachedHeartbeat]) -> str:
    """Say which heartbeats have one name."""
    ids = ", ".join(sorted(heartbeat.id for heartbeat in heartbeats))
    return f"several heartbeats are named {heartbeats[0].name!r}: use one of the ids {ids}"


def _find(outbox: Outbox, stream: Unresolved) -> list[CachedHeartbeat]:
    if stream.heartbeat_id is not None:
        return outbox.heartbeats.find(Ref.HEARTBEAT + stream.heartbeat_id)
    return next((found for ref in stream.refs if (found := outbox.heartbeats.find(ref))), [])


def _wanted(stream: Unresolved) -> str:
    return ", ".join(ref.partition(":")[2] for ref in stream.refs if not ref.startswith(Ref.URL))


def _not_found(stream: Unresolved) -> str:
    return f"no heartbeat named {_wanted(stream)!r}: create it in Aura, or correct the name"


def _name_in(stream: Unresolved) -> str:
    """Return what all of the stream's refs say; empty if they differ."""
    named = {ref.removeprefix(Ref.HEARTBEAT) for ref in stream.refs}
    return named.pop() if len(named) == 1 else ""


def _cached(heartbeat: Heartbeat, wall_ns: int) -> CachedHeartbeat:
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
        url_wall_ns=None if heartbeat.ping_url is None else wall_ns,
    )

"""The courier: takes entries from the outbox to their ping URLs.

Before each attempt the outbox decides, in one transaction, what may still be sent, and leases it; one attempt is in
flight per heartbeat, a bounded number in all. Nothing is polled: the courier sleeps until a report arrives, an attempt
ends, or the earliest retry is due. An attempt under way is never cancelled by what happens meanwhile; when the courier
itself is stopped in the middle of one, it gives the lease back, or that runs out, and the entry is sent again.
"""

import asyncio
import random
from datetime import UTC, datetime

import httpx

from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.delivery.answers import Answer, Verdict, classify
from aura_agent.delivery.backoff import delay_s
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.post import post_ping
from aura_agent.delivery.resolver import Fresh, Resolver
from aura_agent.errors import StoreError
from aura_agent.outbox.claims import Attempt, Claim, Unresolved
from aura_agent.outbox.rules import State
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker

PARKED_S = 3600.0
SPOOL_S = 60.0  # a wrapper that found us too slow to answer wrote to the spool, and nothing tells us
_STORE_TROUBLE_S = 5.0
_OTHERS_S = 1.0  # what another process has sent or looked up meanwhile, nothing tells us either


class Courier:
    """Delivers what one outbox holds. *limit* bounds the attempts in flight."""

    def __init__(
        self,
        worker: OutboxWorker,
        resolver: Resolver,
        http: httpx.AsyncClient,
        rng: random.Random,
        observer: Observer,
        *,
        limit: int,
        allow_insecure: bool = False,
    ) -> None:
        self._worker = worker
        self._resolver = resolver
        self._http = http
        self._rng = rng
        self._observer = observer
        self._limit = limit
        self._allow_insecure = allow_insecure
        self._wake = asyncio.Event()
        self._ending = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._to_resolve: dict[int, Unresolved] = {}
        self._resolving: asyncio.Task[None] | None = None
        self._patience_unknown: set[int] = set()
        self.store_problem = ""

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def end(self) -> None:
        """Let ``run`` return; not by cancellation, which could lose what a claim has just leased."""
        self._ending = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until ``end``; attempts that are under way by then are left to ``drain`` or to their leases."""
        while not self._ending:
            self._wake.clear()
            claim = await self._claim()
            full = len(self._under_way) >= self._limit  # an attempt that ends wakes us
            await self._pause(SPOOL_S if full or claim.next_due_s is None else min(SPOOL_S, claim.next_due_s))

    async def drain(self, timeout_s: float, *, retry: bool, only_runs: frozenset[str] | None = None) -> None:
        """Deliver what is due, for *timeout_s* at the most; with *retry* also what becomes due within that time.

        Attempts that are still under way at the end are given up; their entries stay in the outbox.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    self._wake.clear()
                    claim = await self._claim(only_runs)
                    due_s = claim.next_due_s
                    if due_s is not None and ((not retry and due_s > 0) or loop.time() + due_s > deadline):
                        due_s = None  # not for us
                    busy = bool(self._under_way) or self._resolving is not None
                    if due_s is None and not busy:
                        return
                    if not busy and due_s is not None:
                        due_s = min(due_s, _OTHERS_S)
                    await self._pause(None if len(self._under_way) >= self._limit else due_s)
        except TimeoutError:
            pass
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Give up the attempts under way, and their leases; they may have arrived, and will be sent again."""
        tasks = [*self._under_way, *([self._resolving] if self._resolving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._worker.call(Outbox.release_leases)
        except StoreError as problem:
            self._trouble(problem)

    async def _pause(self, at_most_s: float | None) -> None:
        """Sleep until somebody wakes us; None: however long that takes."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    @property
    def in_flight(self) -> int:
        return len(self._under_way)

    async def _claim(self, only_runs: frozenset[str] | None = None) -> Claim:
        free = self._limit - len(self._under_way)
        if free <= 0:
            return Claim()
        try:
            claim = await self._worker.call(lambda outbox: outbox.claim(free, only_runs=only_runs))
        except StoreError as problem:
            self._trouble(problem)
            return Claim(next_due_s=_STORE_TROUBLE_S)
        if self.store_problem:
            self._observer.note("store.recovered")
        self.store_problem = ""
        for withdrawal in claim.withdrawn:
            self._observer.note("ping." + withdrawal.state, heartbeat=withdrawal.heartbeat, reason=withdrawal.reason)
        for notice in claim.notices:
            self._observer.note("store.set_aside", what=notice)
        for job in claim.lost:
            self._observer.note("run.lost", job=job)
        for attempt in claim.attempts:
            self._launch(attempt)
        self._to_resolve.update({stream.stream_id: stream for stream in claim.unresolved})
        if self._to_resolve and self._resolving is None:
            self._resolving = asyncio.create_task(self._resolve(), name="resolver")
        return claim

    def _launch(self, attempt: Attempt) -> None:
        if not attempt.patience_known and attempt.stream_id not in self._patience_unknown:
            self._patience_unknown.add(attempt.stream_id)
            self._observer.note("heartbeat.interval_unknown", heartbeat=attempt.heartbeat, expires_after="24h")
        task = asyncio.create_task(self._deliver(attempt), name=f"ping {attempt.heartbeat}")
        self._under_way.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wake.set()

    async def _deliver(self, attempt: Attempt) -> None:
        sent = await post_ping(self._http, attempt.url, attempt.body, allow_insecure=self._allow_insecure)
        answer = classify(sent.status, sent.error, sent.retry_after, datetime.now(UTC))
        try:
            await self._settle(attempt, answer, sent.duration_s)
        except StoreError as problem:
            # The answer is not on record: the lease runs out and the ping goes out again, which Aura can stand.
            self._trouble(problem)

    async def _settle(self, attempt: Attempt, answer: Answer, duration_s: float) -> None:
        facts: dict[str, object] = {"heartbeat": attempt.heartbeat, "job": attempt.job, "run_id": attempt.run_id}
        if answer.verdict is Verdict.DELIVERED:
            await self._worker.call(lambda outbox: outbox.delivered(attempt, answer.reason))
            self._observer.note("ping.delivered", **facts, tries=attempt.tries + 1, duration_s=round(duration_s, 3))
            return
        wait_s, parked, host_wait_s = delay_s(attempt.tries + 1, self._rng), False, None
        if answer.retry_after_s is not None:
            host_wait_s = after_retry_after_s(answer.retry_after_s, self._rng)
            wait_s = max(wait_s, host_wait_s)
        if answer.verdict is Verdict.PARK:
            wait_s, parked = PARKED_S, True
        elif answer.verdict is Verdict.WITHOUT_BODY:
            wait_s, parked = (0.0, False) if attempt.body else (PARKED_S, True)
        elif answer.verdict is Verdict.RESOLVE_ANEW:
            found = Fresh.SAME
            if attempt.heartbeat_id is not None:
                found = await self._resolver.refresh(attempt.heartbeat_id, attempt.url)
            if found is Fresh.CHANGED:
                wait_s = 0.0
            elif found is Fresh.SAME:
                wait_s, parked = PARKED_S, True
        state = await self._worker.call(
            lambda outbox: outbox.not_delivered(
                attempt,
                answer.reason,
                delay_s=wait_s,
                parked=parked,
                drop_body=answer.verdict is Verdict.WITHOUT_BODY,
                host_not_before_s=host_wait_s,
            )
        )
        event = "ping.parked" if parked else "ping.postponed"
        if state is not State.WAITING:
            event = "ping." + state
        self._observer.note(event, **facts, reason=answer.reason, tries=attempt.tries + 1, again_in_s=round(wait_s, 1))

    async def _resolve(self) -> None:
        try:
            while self._to_resolve:
                streams, self._to_resolve = list(self._to_resolve.values()), {}
                await self._resolver.resolve(streams)
        except StoreError as problem:
            self._trouble(problem)
        finally:
            self._resolving = None
            self._wake.set()

    def _trouble(self, problem: StoreError) -> None:
        if self.store_problem != str(problem):
            self._observer.note("store.failed", error=str(problem))
        self.store_problem = str(problem)

"""The courier: takes entries from the outbox to their ping URLs.

It works in turns: in one transaction the outbox is told how the attempts went that have ended since the last turn,
decides what may still be sent, and leases the most urgent of that. One attempt is in flight per heartbeat, a bounded
number in all and per host (``hosts``), and no more begin than the pace allows (``pace``). Nothing is polled: the
courier sleeps until a report arrives, an attempt ends, or the earliest retry, probe or place in the pace is due. An
attempt under way is never cancelled by what happens meanwhile; when the courier itself is stopped in the middle of
one, it gives the lease back, or that runs out, and the entry is sent again.
"""

import asyncio
import math
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import httpx

from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.clock import until_beat_s
from aura_agent.delivery.answers import Answer, Verdict, classify, failure_of
from aura_agent.delivery.backoff import CAP_S, delay_s
from aura_agent.delivery.deadline import Deadline, Instant, Instants, system_instants
from aura_agent.delivery.hosts import Hosts, retry_delay_s
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.pace import Pace
from aura_agent.delivery.post import post_ping
from aura_agent.delivery.resolver import Fresh, Resolver
from aura_agent.delivery.skew import Skew
from aura_agent.errors import StoreError, StoreSilentError
from aura_agent.outbox.claims import Attempt, Claim, Ended, Rooms, Unresolved
from aura_agent.outbox.leases import PARKED_S
from aura_agent.outbox.queries import host_held_s
from aura_agent.outbox.rules import State
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker

MAX_RATE_PER_S = 50.0  # pings that begin, unless the config says otherwise
GATHER_S = 0.05  # between two looks that reports call for: those that come in a row share them
SPOOL_S = 60.0  # a wrapper that found us too slow to answer wrote to the spool, and nothing tells us
_FIRST_S = 2.0  # for the look-up of what is to be sent first
_STORE_TROUBLE_S = 5.0
_SILENT_S = 86_400.0  # a host that hasn't answered for so long may be none any more: ping URLs move
_OTHERS_S = 1.0  # what another process has sent or looked up meanwhile, nothing tells us either


class Courier:
    """Delivers what one outbox holds. *limit* bounds the attempts in flight, *max_rate_per_s* how many begin.

    *claimed* hears of each look at the queue, *skew* what acknowledgements tell of our clock, *got_through* that there
    was one, also of a ping that is no entry. *withheld* says whether outcomes are known that the store isn't told of
    yet: what they withdraw waits there, so nothing begins until it is. *caught_up* returns once reports that have
    arrived before are on their way to the store.
    """

    def __init__(
        self,
        worker: OutboxWorker,
        resolver: Resolver,
        http: httpx.AsyncClient,
        rng: random.Random,
        observer: Observer,
        *,
        limit: int,
        max_rate_per_s: float = MAX_RATE_PER_S,
        allow_insecure: bool = False,
        claimed: Callable[[Claim], None] = lambda _: None,
        skew: Skew | None = None,
        withheld: Callable[[], bool] = lambda: False,
        caught_up: Callable[[], Awaitable[None]] | None = None,
        got_through: Callable[[], None] = lambda: None,
        instants: Instants | None = None,
    ) -> None:
        self._worker = worker
        self._resolver = resolver
        self._http = http
        self._rng = rng
        self._observer = observer
        self._limit = limit
        self._allow_insecure = allow_insecure
        self._claimed = claimed
        self._skew = skew or Skew()
        self._withheld = withheld
        self._caught_up = caught_up
        self._tell_got_through = got_through
        self._instant = instants or system_instants()
        self._hosts = Hosts(limit, rng)
        self._pace = Pace(max_rate_per_s, -math.inf)
        self._reopened: set[str] = set()
        self._wake = asyncio.Event()
        self._looked_s = -math.inf
        self._calling: asyncio.TimerHandle | None = None
        self._ending = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended: list[Ended] = []  # not on record yet
        self._to_resolve: dict[int, Unresolved] = {}
        self._resolving: asyncio.Task[None] | None = None
        self._resolve_at_s = -math.inf
        self._patience_unknown: set[int] = set()
        self._turning_since_s: float | None = None
        self.store_problem = ""

    def wake(self) -> None:
        """There may be something to send: it is looked for at once, or ``GATHER_S`` after the last time."""
        loop = asyncio.get_running_loop()
        wait_s = self._looked_s + GATHER_S - loop.time()
        if wait_s <= 0:
            self._wake.set()
        elif self._calling is None:
            self._calling = loop.call_later(wait_s, self._called)

    def _called(self) -> None:
        self._calling = None
        self._wake.set()

    def heard_from(self, host: str) -> None:
        """*host* has acknowledged a ping that is no entry: if it was down, what waits for it is due."""
        if self._hosts.lives(host):
            self._reopen(host)
            self._wake.set()
        self._got_through()

    def hold(self, host: str, retry_after_s: float) -> None:
        """*host* has answered a ping that is no entry: it asks to be left alone for so long."""
        wait_s = after_retry_after_s(retry_after_s, self._rng)
        self._hosts.hold(host, asyncio.get_running_loop().time() + wait_s)

    async def held(self, host: str) -> str:
        """Return why no ping may go to *host* now: it asked for that. Empty if one may; raises StoreError.

        Where the disk does not answer, that counts which it has asked since we started.
        """
        try:
            on_record_s = await self._worker.read(lambda outbox: host_held_s(outbox, host))
        except StoreSilentError:
            on_record_s = 0.0
        held_s = max(on_record_s, self._hosts.held_s(host, asyncio.get_running_loop().time()))
        return f"{host} asked to be left alone for a while (Retry-After)" if held_s > 0 else ""

    async def its_turn(self) -> None:
        """Wait until one more ping may begin that is no entry: the pace is for all of them."""
        self._pace.allows(asyncio.get_running_loop().time())
        wait_s = self._pace.next_s()
        self._pace.spend(1)
        await asyncio.sleep(wait_s)

    def end(self) -> None:
        """Let ``run`` return; not by cancellation, which could lose what a claim has just leased."""
        self._ending = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until ``end``; attempts that are under way by then are left to ``drain`` or to their leases."""
        while not self._ending:
            self._wake.clear()
            again_s = await self._turn()
            spool_s = until_beat_s(asyncio.get_running_loop().time(), SPOOL_S)
            await self._pause(spool_s if again_s is None else min(spool_s, again_s))

    async def drain(
        self,
        timeout_s: float,
        *,
        retry: bool,
        probe: bool = False,
        only_runs: frozenset[str] | None = None,
        first: frozenset[str] = frozenset(),
    ) -> None:
        """Deliver what is due, for *timeout_s* at the most; with *retry* also what becomes due within that time.

        Without, a host that is down is left alone, but for one *probe* at once. Attempts that are still under way at
        the end are given up; their entries stay in the outbox. Those of the runs *first* begin before all others,
        which may be more urgent and hang.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if probe:
            self._hosts.probe_now()
        try:
            async with asyncio.timeout_at(deadline):
                if first:
                    await self._begin(first)
                while True:
                    self._wake.clear()
                    due_s = await self._turn(only_runs, probing=retry or probe)
                    paced = self._pace.next_s() > 0
                    if due_s is not None and (
                        (not retry and due_s > 0 and not paced) or loop.time() + due_s > deadline
                    ):
                        due_s = None  # not for us
                    busy = bool(self._under_way) or self._resolving is not None or bool(self._ended)
                    if due_s is None and not busy:
                        return
                    if not busy and due_s is not None:
                        due_s = min(due_s, _OTHERS_S)
                    await self._pause(due_s)
        except TimeoutError:
            pass
        finally:
            await self.abandon()

    async def _begin(self, runs: frozenset[str]) -> None:
        """Let an attempt at *runs* begin, once their ping URL is known; look it up for a moment at the most."""
        loop = asyncio.get_running_loop()
        last_s = loop.time() + _FIRST_S
        while True:
            self._wake.clear()
            await self._turn(runs)
            left_s = last_s - loop.time()
            if self._under_way or self._resolving is None or left_s <= 0:
                return
            await self._pause(left_s)

    async def look_for_renames(self, timeout_s: float) -> None:
        """Ask what names mean by now if that was last asked about a week ago, for *timeout_s* at the most."""
        try:
            await self._resolver.renew_old_list(os.uname().nodename, timeout_s)
        except StoreError as problem:
            self._trouble(problem)

    async def abandon(self) -> None:
        """Give up the attempts under way, and their leases; they may have arrived, and will be sent again."""
        tasks = [*self._under_way, *([self._resolving] if self._resolving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended, self._ended = self._ended, []
        try:
            self._tell(ended, await self._worker.call(lambda outbox: outbox.settle(ended)))
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
    def host_problem(self) -> str:
        """Return, for people, which hosts of ping URLs don't answer; empty while all do."""
        down = sorted(self._hosts.down())
        if not down:
            return ""
        return f"{', '.join(down)} doesn't answer: what waits for it is sent when it does, and one ping at a time tries"

    @property
    def turn_s(self) -> float:
        """Return for how long (s) the turn that goes on has taken; 0 between turns."""
        return 0.0 if self._turning_since_s is None else asyncio.get_running_loop().time() - self._turning_since_s

    @property
    def in_flight(self) -> int:
        return len(self._under_way)

    async def _turn(self, only_runs: frozenset[str] | None = None, *, probing: bool = True) -> float | None:
        """Settle what has ended and launch what may begin; return when (s) there may be more, None: not by itself.

        Without *probing*, a host that is down is left alone.
        """
        self._turning_since_s = asyncio.get_running_loop().time()
        try:
            return await self._take_turn(only_runs, probing=probing)
        finally:
            self._turning_since_s = None

    async def _take_turn(self, only_runs: frozenset[str] | None, *, probing: bool) -> float | None:
        if self._caught_up is not None:
            await self._caught_up()
        now_s = self._looked_s = asyncio.get_running_loop().time()
        free = max(0, min(self._limit - len(self._under_way), self._pace.allows(now_s)))
        if self._withheld():
            free = 0  # who tells the store wakes us
        ended, self._ended = self._ended, []
        probes = self._hosts.probes(now_s) if probing and free else frozenset()
        rooms = dict(self._hosts.rooms(now_s)) | dict.fromkeys(self._hosts.down() - probes, 0)
        reopened = frozenset(self._reopened) | probes
        slow = {host: (which.urls, which.room) for host, which in self._hosts.slow().items()}
        self._reopened.clear()
        begun = self._instant()
        try:
            claim = await self._worker.call(
                lambda outbox: outbox.claim(
                    free,
                    only_runs=only_runs,
                    rooms=Rooms(rooms, self._hosts.unknown_room, reopened, probes, slow),
                    ended=ended,
                ),
                patient=True,  # without the store there is nothing to send, and what it leases is ours
            )
        except StoreError as problem:
            # The answers are kept: on record late, they save Aura a second ping.
            self._ended = ended + self._ended
            self._reopened |= reopened
            self._trouble(problem)
            return _STORE_TROUBLE_S
        self._tell(ended, claim.settled)
        self._take(claim, begun)
        if len(claim.attempts) < free:
            for host in probes - {attempt.host for attempt in claim.attempts}:
                self._hosts.forget(host)
        if not free:
            return self._pace.next_s() or None  # an attempt that ends wakes us
        return self._again_s(claim, probing=probing)

    def _again_s(self, claim: Claim, *, probing: bool) -> float | None:
        waits = [] if claim.next_due_s is None else [max(claim.next_due_s, self._pace.next_s())]
        if probing and (open_s := self._hosts.next_open_s(asyncio.get_running_loop().time())) is not None:
            waits.append(open_s)
        if self._to_resolve and self._resolving is None:
            waits.append(max(0.0, self._resolve_at_s - asyncio.get_running_loop().time()))
        return min(waits) if waits and len(self._under_way) < self._limit else None

    def _take(self, claim: Claim, begun: Instant) -> None:
        """Do what a claim says that was begun then."""
        if claim.problem:
            self._trouble(StoreError(claim.problem))
        elif self.store_problem:
            self._observer.note("store.recovered")
        self.store_problem = claim.problem
        for withdrawal in claim.withdrawn:
            self._observer.note("ping." + withdrawal.state, heartbeat=withdrawal.heartbeat, reason=withdrawal.reason)
        for parked in claim.parked:
            self._observer.note("ping.parked", heartbeat=parked.heartbeat, reason=parked.reason)
        for notice in claim.notices:
            self._observer.note("store.set_aside", what=notice)
        for job in claim.lost:
            self._observer.note("run.lost", job=job)
        self._claimed(claim)
        for attempt in claim.attempts:
            self._launch(attempt, begun)
        self._to_resolve.update({stream.stream_id: stream for stream in claim.unresolved})
        due = asyncio.get_running_loop().time() >= self._resolve_at_s
        if self._to_resolve and self._resolving is None and due:
            self._resolving = asyncio.create_task(self._resolve(), name="resolver")

    def _launch(self, attempt: Attempt, begun: Instant) -> None:
        if not attempt.patience_known and attempt.stream_id not in self._patience_unknown:
            self._patience_unknown.add(attempt.stream_id)
            self._observer.note("heartbeat.interval_unknown", heartbeat=attempt.heartbeat, expires_after="24h")
        self._pace.spend(1)
        self._hosts.began(attempt.host, attempt.stream_id)
        deadline = Deadline(begun, attempt.deadline_ns)
        task = asyncio.create_task(self._deliver(attempt, deadline), name=f"ping {attempt.heartbeat}")
        self._under_way.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wake.set()

    async def _deliver(self, attempt: Attempt, deadline: Deadline) -> None:
        """Send once; what came of it waits in ``_ended`` for the next turn."""

        async def objection() -> str:
            return deadline.problem(self._instant())

        try:
            sent = await post_ping(
                self._http, attempt.url, attempt.body, allow_insecure=self._allow_insecure, objection=objection
            )
        except asyncio.CancelledError:
            self._hosts.given_up(attempt.host, attempt.stream_id)
            raise
        if sent.unsent:
            self._hosts.given_up(attempt.host, attempt.stream_id)
            again_s = delay_s(1, self._rng)
            self._ended.append(Ended(attempt=attempt, reason=sent.unsent, unsent=True, delay_s=again_s))
            return
        answer = classify(sent.status, sent.error, sent.retry_after, datetime.now(UTC))
        if answer.verdict is Verdict.DELIVERED:
            self._skew.hear(sent.ahead_s)
            self._got_through()
        self._judge_host(attempt, answer, sent.error)
        ended = await self._conclude(attempt, answer, sent.duration_s, answered=sent.status is not None)
        self._ended.append(ended)  # not in one line: that would name the list of before the wait

    def _judge_host(self, attempt: Attempt, answer: Answer, error: str | None) -> None:
        """Note what the answer, or the *error* in its place, says of its host.

        What waits for one that answers again is due.
        """
        if answer.verdict is not Verdict.RETRY or answer.retry_after_s is not None:
            if self._hosts.answered(attempt.host, attempt.stream_id):
                self._reopen(attempt.host)
            return
        now_s = asyncio.get_running_loop().time()
        failure = failure_of(error)
        if self._hosts.failed(attempt.host, attempt.stream_id, failure, now_s, left_s=attempt.left_s):
            self._observer.note("host.down", host=attempt.host, reason=answer.reason)

    def _got_through(self) -> None:
        """It may be the network that is back: what no ping URL could be asked for is due, too."""
        if self._resolver.standing.hurry():
            self._reopened.add("")  # the host of those without one
            self._wake.set()
        self._tell_got_through()

    def _reopen(self, host: str) -> None:
        self._reopened.add(host)
        self._observer.note("host.recovered", host=host)

    async def _conclude(self, attempt: Attempt, answer: Answer, duration_s: float, *, answered: bool) -> Ended:
        """Return what to put on record; asks for the ping URL anew where the answer wants that."""
        if answer.verdict is Verdict.DELIVERED:
            return Ended(attempt=attempt, reason=answer.reason, acknowledged=True, duration_s=duration_s)
        wait_s = retry_delay_s(attempt.tries + 1, self._rng, cap_s=CAP_S, left_s=attempt.left_s)
        parked, asked_anew, host_wait_s = False, False, None
        if answer.retry_after_s is not None:
            host_wait_s = after_retry_after_s(answer.retry_after_s, self._rng)
            wait_s = max(wait_s, host_wait_s)
        if answer.verdict is Verdict.PARK:
            wait_s, parked = PARKED_S, True
        elif answer.verdict is Verdict.WITHOUT_BODY:
            wait_s, parked = (0.0, False) if attempt.body else (PARKED_S, True)
        elif answer.verdict is Verdict.RESOLVE_ANEW:
            found = await self._fresh(attempt)
            if found is Fresh.CHANGED:
                wait_s = 0.0
            elif found is Fresh.SAME:
                wait_s, parked = PARKED_S, True
        elif not answered and attempt.silent_s >= _SILENT_S:
            found = await self._fresh(attempt)
            asked_anew = found is not Fresh.UNKNOWN
            if found is Fresh.CHANGED:
                wait_s = 0.0
        return Ended(
            attempt=attempt,
            reason=answer.reason,
            duration_s=duration_s,
            answered=answered,
            asked_anew=asked_anew,
            delay_s=wait_s,
            parked=parked,
            drop_body=answer.verdict is Verdict.WITHOUT_BODY,
            host_not_before_s=host_wait_s,
        )

    async def _fresh(self, attempt: Attempt) -> Fresh:
        """Ask for another ping URL than that of *attempt*."""
        if attempt.heartbeat_id is None:
            return Fresh.SAME
        try:
            return await self._resolver.refresh(attempt.heartbeat_id, attempt.url)
        except StoreError as problem:
            self._trouble(problem)
            return Fresh.UNKNOWN

    def _tell(self, ended: Sequence[Ended], states: Sequence[State]) -> None:
        """Say what became of attempts, once that is on record."""
        for each, state in zip(ended, states, strict=True):
            attempt = each.attempt
            facts: dict[str, object] = {"heartbeat": attempt.heartbeat, "job": attempt.job, "run_id": attempt.run_id}
            facts["tries"] = attempt.tries + (0 if each.unsent else 1)
            if each.acknowledged:
                self._observer.note("ping.delivered", **facts, duration_s=round(each.duration_s, 3))
                continue
            event = "ping.parked" if each.parked else "ping.postponed"
            if state is not State.WAITING:
                event = "ping." + state
            self._observer.note(event, **facts, reason=each.reason, again_in_s=round(each.delay_s, 1))

    async def _resolve(self) -> None:
        streams: dict[int, Unresolved] = {}
        try:
            while self._to_resolve:
                streams, self._to_resolve = self._to_resolve, {}
                await self._resolver.resolve(list(streams.values()))
        except StoreError as problem:
            # They are leased to us, and nobody else looks them up.
            self._to_resolve = streams | self._to_resolve
            self._resolve_at_s = asyncio.get_running_loop().time() + _STORE_TROUBLE_S
            self._trouble(problem)
        finally:
            self._resolving = None
            self._wake.set()

    def _trouble(self, problem: StoreError) -> None:
        if self.store_problem != str(problem):
            self._observer.note("store.failed", error=str(problem))
        self.store_problem = str(problem)

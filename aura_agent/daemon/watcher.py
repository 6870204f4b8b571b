"""Watches: conditions that are looked at every so often and pinged while they hold.

A watch never enters the outbox: the answer of now is sent at once; if that fails, the condition is looked at again at
each back-off step, and what is true then is sent. A ping of somebody else's that gets through cuts such a step short:
it may be the network that is back. The agent's own heartbeat is a watch of itself.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import httpx

from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock
from aura_agent.config.models import Job
from aura_agent.delivery.backoff import delay_s
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.deadline import instants
from aura_agent.delivery.now import ping_now
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.resolver import Resolver
from aura_agent.delivery.skew import Skew
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.watch.condition import Condition
from aura_agent.watch.file import check_file

_LOOK_S = 30.0
_FRESH_S = 5.0  # an older answer is no answer of now

Look = Callable[[Condition | None], Awaitable[Condition]]  # is given the answer before, if there is one


@dataclass(slots=True)
class Watched:
    """What is known of one watch."""

    heartbeat: str
    look: Look
    condition: Condition | None = None
    looked_at: datetime | None = None
    looked_boot_ns: int = 0
    pinged_at: datetime | None = None
    problem: str = ""
    looking: bool = False
    held_until_s: float = 0.0  # by the event loop's clock; a Retry-After asked for it
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Watcher:
    """Looks when told to, and pings what is healthy. What hosts answer the *courier* hears, too, and the other way."""

    def __init__(
        self,
        worker: OutboxWorker,
        resolver: Resolver,
        http: httpx.AsyncClient,
        clock: Clock,
        rng: random.Random,
        observer: Observer,
        *,
        allow_insecure: bool,
        courier: Courier,
        skew: Skew,
    ) -> None:
        self._worker = worker
        self._resolver = resolver
        self._http = http
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._allow_insecure = allow_insecure
        self._courier = courier
        self._skew = skew
        self._watched: dict[str, Watched] = {}
        self._got_through = asyncio.Event()  # another one each time

    def replace(self, watched: dict[str, Watched]) -> None:
        """Watch exactly these; one that stays keeps what is known of it, and what was under way is begun anew."""
        before, self._watched = self._watched, watched
        for name, old in before.items():
            new, busy = watched.get(name), old.task is not None and not old.task.done()
            if old.task is not None:
                old.task.cancel()
            if new is not None:
                new.condition, new.looked_at, new.pinged_at = old.condition, old.looked_at, old.pinged_at
                new.held_until_s = old.held_until_s if new.heartbeat == old.heartbeat else 0.0
                if busy:
                    self.look(name)

    def state(self, name: str) -> Watched | None:
        return self._watched.get(name)

    def look(self, name: str) -> None:
        """It is time to look at *name*; whatever its last look is still trying to send is older than that."""
        watched = self._watched.get(name)
        if watched is None or watched.looking:
            return
        if watched.task is not None:
            watched.task.cancel()
        watched.task = asyncio.create_task(self._speak(name, watched), name=f"watch {name}")
        watched.task.add_done_callback(functools.partial(self._landed, name, watched))

    def hurry(self) -> None:
        """A ping got through, whosesoever: those whose own didn't try again, unless they have just been hurried."""
        self._got_through.set()
        self._got_through = asyncio.Event()

    async def close(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, name: str, watched: Watched, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (problem := task.exception()) is None:
            return
        # No ping is the safe side; the next look is a new try.
        watched.problem = f"the agent met an error that nobody foresaw: {type(problem).__name__}"
        self._observer.note("agent.crashed", job=name, exc_info=problem)

    async def _speak(self, name: str, watched: Watched) -> None:
        tries, hurried = 0, False
        loop = asyncio.get_running_loop()
        while await self._is_healthy(name, watched):
            held_s = watched.held_until_s - loop.time()
            if held_s > 0:
                await asyncio.sleep(held_s)
                continue
            problem, wait_s = await self._ping(name, watched)
            if problem and watched.condition is not None and not watched.condition.healthy:
                return  # it changed while we connected
            if not problem:
                if watched.problem:
                    self._observer.note("watch.ping_recovered", job=name, heartbeat=watched.heartbeat)
                watched.problem, watched.pinged_at = "", self._clock.read().wall
                self._observer.note("watch.pinged", job=name, heartbeat=watched.heartbeat)
                return
            tries += 1
            if problem != watched.problem:
                self._observer.note("watch.ping_failed", job=name, heartbeat=watched.heartbeat, reason=problem)
            watched.problem, watched.held_until_s = problem, loop.time() + wait_s
            pause_s = max(wait_s, delay_s(tries, self._rng))
            if hurried or wait_s > 0:
                hurried = False
                await asyncio.sleep(pause_s)
            else:
                hurried = await self._is_hurried(pause_s)

    async def _is_hurried(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                return await self._got_through.wait()
        except TimeoutError:
            return False

    async def _is_healthy(self, name: str, watched: Watched) -> bool:
        watched.looking = True
        try:
            condition = await watched.look(watched.condition)
        finally:
            watched.looking = False
        if watched.condition is None or watched.condition.healthy is not condition.healthy:
            self._observer.note("watch.changed", job=name, healthy=condition.healthy, reason=condition.reason)
        now = self._clock.read()
        watched.condition, watched.looked_at, watched.looked_boot_ns = condition, now.wall, now.boot_ns
        return condition.healthy

    async def _ping(self, name: str, watched: Watched) -> tuple[str, float]:
        """Send one ping now; return why it was not acknowledged, empty if it was, and what a Retry-After asked for."""

        async def still_healthy() -> str:
            age_s = (self._clock.read().boot_ns - watched.looked_boot_ns) / 1e9
            if age_s <= _FRESH_S or await self._is_healthy(name, watched):
                return ""
            return "the condition changed before the ping could be written"

        try:
            sent = await ping_now(
                self._worker,
                self._resolver,
                self._http,
                watched.heartbeat,
                allow_insecure=self._allow_insecure,
                objection=self._courier.held,
                still=still_healthy,
                instant=instants(self._clock),
            )
        except StoreError as problem:
            return str(problem), 0.0
        if sent.acknowledged:
            self._courier.heard_from(sent.host)
            self._skew.hear(sent.ahead_s)
            return "", 0.0
        if sent.retry_after_s is None:
            return sent.reason, 0.0
        self._courier.hold(sent.host, sent.retry_after_s)
        return sent.reason, after_retry_after_s(sent.retry_after_s, self._rng)


def look_at(job: Job, clock: Clock) -> Look:
    """Return what looks at the condition of *job*'s watch; it reads files and processes, so it does so in a thread."""
    watch = job.watch
    assert watch is not None

    def look(previous: Condition | None) -> Condition:
        if watch.process is not None:
            from aura_agent.watch.process import check_process  # brings psutil: not before it is needed

            spec = watch.process
            return check_process(
                pidfile=spec.pidfile, pattern=spec.pattern, name=spec.name, user=spec.user, previous=previous
            )
        assert watch.file is not None
        file = watch.file
        return check_file(path=file.path, now=clock.read().wall, max_age_s=file.max_age, min_size_bytes=file.min_size)

    hanging: asyncio.Future[Condition] | None = None

    async def in_thread(previous: Condition | None) -> Condition:
        nonlocal hanging
        # One that hangs is waited for again, not joined by another thread at each look.
        looking = hanging or run_in_thread(lambda: look(previous), "watch")
        hanging = looking
        try:
            done, _ = await asyncio.wait({looking}, timeout=_LOOK_S)
        finally:
            if looking.done():
                hanging = None
        if not done:
            return Condition(
                healthy=False, reason=f"could not be looked at within {_LOOK_S:.0f} s: does its disk hang?"
            )
        try:
            return looking.result()
        except Exception as problem:  # noqa: BLE001  # a broken probe says nothing good of what it watches
            return Condition(healthy=False, reason=f"can't be looked at: {problem}")

    return in_thread

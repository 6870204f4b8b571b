"""The daemon's hooks: takes the calls that are due from the outbox, and tells people, beside everything else.

Nothing waits for a hook. A few are called at a time, those of one job one after the other, and one that waits for its
second try is in no other job's way; each stays on disk until it is done, so that a daemon which has no time left leaves
it to the next. A hook that fails twice is logged, and never calls a hook. That pings don't get through is looked for at
one instant each: when the first could have waited long enough.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

import httpx

from aura_agent.config.models import Config
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.post import TOTAL_S, build_http
from aura_agent.errors import StoreError
from aura_agent.hooks.calling import RETRY_AFTER_S, Failure, Surroundings, call_hook
from aura_agent.hooks.facts import hook_of, undeliverable_after_s
from aura_agent.outbox.claims import Claim
from aura_agent.outbox.hooks import HookCall
from aura_agent.outbox.run_history import run_owners, with_owner
from aura_agent.outbox.run_owner import RunOwners, Source
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.secret import Secret
from aura_agent.units import format_duration

_AT_ONCE = 4
_TAKEN = 100  # more than that wait on disk
_STORE_TROUBLE_S = 5.0


class Caller:
    """Calls the hooks of the config in force, which *config* returns; *learn* is told each secret."""

    def __init__(
        self,
        worker: OutboxWorker,
        observer: Observer,
        host: str,
        config: Callable[[], Config],
        learn: Callable[[Secret], None],
        *,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self._worker = worker
        self._http: httpx.AsyncClient | None = None
        self._observer = observer
        self._host = host
        self._config = config
        self._learn = learn
        self._retry_after_s = retry_after_s
        self._wake = asyncio.Event()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._due: dict[str, deque[HookCall]] = {}  # by job, those that are taken and not begun
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: Config | None = None  # the config that this is of:
        self._after_s: dict[str, float] = {}
        self._look_s: float | None = None  # when to look for undelivered pings, by the loop's clock

    def wake(self) -> None:
        """There may be a call that is due."""
        self._wake.set()

    def saw(self, claim: Claim) -> None:
        """The courier has looked at the queue."""
        if claim.hook_calls:
            self._wake.set()
        if claim.attempts or claim.unresolved or claim.next_due_s is not None:
            self._look_within(min(self._after().values(), default=None))

    async def run(self) -> None:
        """Work until cancelled; calls that are under way are left to ``finish``."""
        self._look_within(min(self._after().values(), default=None))  # pings may wait from before our start
        while True:
            self._wake.clear()
            loop = asyncio.get_running_loop()
            try:
                if self._look_s is not None and self._look_s <= loop.time():
                    await self._look_for_undelivered()
                await self._take()
            except StoreError:
                self._look_within(_STORE_TROUBLE_S)  # the courier tells of it
            try:
                async with asyncio.timeout_at(self._look_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def finish(self, timeout_s: float) -> None:
        """Call what is due, for *timeout_s* at the most; what isn't done by then is left to the next daemon."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._take()
                while self._tasks:
                    await asyncio.wait(self._tasks)
                    await self._take()
        except (TimeoutError, StoreError):
            pass
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """End what is under way, and give it back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        try:
            await self._worker.call(Outbox.release_hook_calls)
        except StoreError:
            pass  # our end gives them back, too

    async def _take(self) -> None:
        """Begin what is due, as far as there is room. Raises StoreError."""
        while room := _TAKEN - sum(map(len, self._due.values())):
            calls = await self._worker.call(partial(Outbox.take_hook_calls, limit=room))
            owners = await self._owners() if calls else None
            for call in [with_owner(call, owners) for call in calls] if owners else ():
                queue = self._due.get(call.job)
                if queue is None:
                    queue = self._due[call.job] = deque()
                    task = asyncio.create_task(self._call_all(call.job, queue), name=f"hooks {call.job}")
                    self._tasks.add(task)
                    task.add_done_callback(self._landed)
                queue.append(call)
            if len(calls) < room:
                return

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()  # there is room again
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._observer.note("agent.crashed", task=task.get_name(), exc_info=problem)

    async def _call_all(self, job: str, queue: deque[HookCall]) -> None:
        try:
            while queue:
                await self._call(queue.popleft())
        finally:
            del self._due[job]

    async def _call(self, call: HookCall) -> None:
        config = self._config()
        job = config.jobs.get(call.job)
        hook = None if job is None else hook_of(job, call.kind)
        if job is not None and hook is not None:
            around = Surroundings(
                host=self._host,
                http=self._client,
                redact=config.attach.redact,
                allow_insecure=config.api.allow_insecure,
                switches_user=True,
                retry_after_s=self._retry_after_s,
                learn=self._learn,
                place=self._free,
            )
            try:
                failures = await call_hook(hook, call, job, around)
            except Exception as problem:  # noqa: BLE001  # the next call is not to suffer for it
                failures = [Failure("hook", f"an error that nobody foresaw: {type(problem).__name__}")]
            facts = {"job": call.job, "hook": call.kind.value, "run_id": call.run_id}
            for failure in failures:
                self._observer.note(
                    "hook.failed", **facts, what=failure.what, reason=failure.reason, output=failure.output or None
                )
            if not failures:
                self._observer.note("hook.called", **facts)
        try:
            await self._worker.call(lambda outbox: outbox.end_hook_call(call.id))
        except StoreError:
            pass  # it stays ours until we end, and is then called once more

    def _client(self) -> httpx.AsyncClient:
        """Return what speaks to webhooks; not the courier's, so that a slow one takes no connection from a ping."""
        if self._http is None:
            self._http = build_http()
        return self._http

    async def _look_for_undelivered(self) -> None:
        """Note a call for each stream that has waited too long, and when to look again. Raises StoreError."""
        self._look_s = None
        after_s = self._after()
        if not after_s:
            return
        undelivered = await self._worker.call(Outbox.undelivered)
        owners = await self._owners() if undelivered else None
        for stream in undelivered:
            job = owners.of(Source(stream.job, stream.heartbeat)) if owners else None
            if job is None or job not in after_s:
                continue
            left_s = after_s[job] - stream.waiting_s
            if not stream.problem:
                left_s += TOTAL_S  # the first attempt may still be under way
            if left_s > 0:
                self._look_within(left_s)
                continue
            why = stream.problem or "it could not be tried yet"
            reason = f"waiting for {format_duration(round(stream.waiting_s))}: {why}"
            await self._worker.call(partial(Outbox.tell_undeliverable, stream=stream, reason=reason))

    async def _owners(self) -> RunOwners:
        """Return whose runs the calls are about, by the config in force. Raises StoreError."""
        return await self._worker.read(partial(run_owners, jobs=self._config().heartbeats()))

    def _look_within(self, seconds: float | None) -> None:
        if seconds is None:
            return
        at_s = asyncio.get_running_loop().time() + seconds
        if self._look_s is None or at_s < self._look_s:
            self._look_s = at_s
            self._wake.set()

    def _after(self) -> dict[str, float]:
        config = self._config()
        if config is not self._known:
            self._known, self._after_s = config, undeliverable_after_s(config)
        return self._after_s

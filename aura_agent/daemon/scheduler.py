"""When jobs start: one timer for the next due job, none while nothing is due.

Sleeps in slices, because the loop's clock stands still in suspend and the wall clock may be set: whatever the clock
does, no slot runs twice (the last fire time of a job is on disk before its run starts), and what was missed goes
through the job's ``catch_up``. Which fire times those are is decided in ``aura_agent.schedule``.
"""

import asyncio
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aura_agent.clock import Clock, until_beat_s
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreBusyError, StoreError, StoreSilentError
from aura_agent.outbox.jobs import Mark
from aura_agent.outbox.worker import OutboxWorker, soon
from aura_agent.schedule.plan import CatchUp, Due, Schedule, go_on, plan_due, reboot_due

SLICE_S = 30.0  # CLOCK_MONOTONIC stops in suspend (clock_gettime(2)): one long sleep would overshoot by the time asleep
_START_S = 0.25  # no start waits for longer than that for its record
_PATIENCE_S = 1.0  # nor does the scheduler itself
_STORE_TROUBLE_S = 5.0
_SET_BACK = timedelta(minutes=1)  # what is less hardly delays a start
_ALL_JOBS = ""  # no job is called so


@dataclass(frozen=True, slots=True)
class Timed:
    """A job that has fire times. *fire* starts a run, or looks at what is watched; *durable*: a slot runs once.

    *busy* tells whether a run goes on; None: runs may go on beside each other.
    """

    name: str
    schedule: Schedule
    fire: Callable[[datetime, str], None]
    catch_up: CatchUp = "latest"
    misfire_grace_s: float = 60.0
    limit: int = 10
    jitter_s: float = 0.0
    durable: bool = True
    busy: Callable[[], bool] | None = None


class Scheduler:
    """Fires jobs on time. ``replace`` sets them; ``run`` goes on until ``end``.

    ``looked_s`` is when it last looked up, by the event loop's clock. ``store_problem`` says why what was started isn't
    on record.
    """

    def __init__(self, worker: OutboxWorker, clock: Clock, observer: Observer, boot_id: str) -> None:
        self._worker = worker
        self._clock = clock
        self._observer = observer
        self._boot_id = boot_id
        self._jobs: dict[str, Timed] = {}
        self._laid_out = False
        self._last: dict[str, datetime] = {}
        self._ahead: dict[str, tuple[datetime, ...]] = {}  # fire times dealt with while the clock was far ahead
        self._schedules: dict[str, str] = {}  # by which the record went
        self._gone: set[str] = set()
        self._on_record: set[str] = set()
        self._heap: list[tuple[datetime, str]] = []
        self._paused: set[str] = set()
        self._in_turn: set[str] = set()  # jobs with several fire times to start, each when the run before it has ended
        self._changed = asyncio.Event()
        self._looked_at = datetime.max.replace(tzinfo=UTC)  # the clock may have been set back before we came
        self._has_booted = self._boot_is_on_record = False
        self._ending = False
        self._recording: asyncio.Future[None] | None = None
        self.looked_s = asyncio.get_running_loop().time()
        self.store_problem = ""

    async def load(self) -> None:
        """Read what earlier daemons left: fire times dealt with, and pauses. Raises StoreError."""
        marks = await self._worker.call(lambda outbox: outbox.jobs.marks())
        self._last = {job: _at(mark.last_fire_ns) for job, mark in marks.items()}
        self._ahead = {job: tuple(map(_at, mark.ahead_ns)) for job, mark in marks.items() if mark.ahead_ns}
        self._schedules = {job: mark.schedule for job, mark in marks.items() if mark.schedule is not None}
        self._on_record = set(marks)
        self._paused = await self._worker.call(lambda outbox: outbox.jobs.paused())

    async def learn_pauses(self) -> None:
        """Heed the pauses on record; those of now may come from a store that couldn't be read. Raises StoreError."""
        self._paused = await self._worker.call(lambda outbox: outbox.jobs.paused())
        self.replace(self._jobs)

    def replace(self, jobs: Mapping[str, Timed]) -> None:
        """Schedule exactly *jobs*. One that was there keeps its place, one with a new schedule begins now."""
        now = self._now()
        before, self._jobs = self._jobs, dict(jobs)
        if not self._laid_out:
            self._gone = self._last.keys() - jobs.keys()
        for name, job in self._jobs.items():
            # A job seen for the first time has missed nothing, and one from the future waits for its own past.
            last = self._last.setdefault(name, now)
            if self._begins_anew(before.get(name), job):
                self._last[name] = max(last, now)
                self._in_turn.discard(name)
                self._on_record.discard(name)
        self._laid_out = True
        self._schedules.clear()
        self._lay_out()
        self._changed.set()

    def _begins_anew(self, old: Timed | None, job: Timed) -> bool:
        if not self._laid_out:  # the places are those of earlier daemons
            written = job.schedule.written()
            return self._schedules.get(job.name, written) != written
        return old is None or old.schedule != job.schedule

    def next_fire(self, name: str) -> datetime | None:
        """Return when the job is due next, jitter included; None if it isn't scheduled, paused, or waits for a boot."""
        job = self._jobs.get(name)
        if job is None or name in self._paused:
            return None
        at = job.schedule.next_after(self._last[name])
        return None if at is None else at + timedelta(seconds=job.jitter_s)

    @property
    def paused(self) -> frozenset[str]:
        return frozenset(self._paused)

    async def pause(self, name: str, *, paused: bool) -> None:
        """Stop or resume the job's fire times, also over restarts; those that pass meanwhile are not made up for."""
        await self._worker.call(lambda outbox: outbox.jobs.set_paused(name, paused=paused))
        if paused:
            self._paused.add(name)
        else:
            self._paused.discard(name)
            self._last[name] = self._now()
            self._on_record.discard(name)  # the next daemon must not make up for the pause either
        self.replace(self._jobs)

    def ended(self, name: str) -> None:
        """A run of the job has ended: if several of its fire times are to be made up for, the next is due."""
        if name in self._in_turn and name in self._jobs and name not in self._paused:
            heapq.heappush(self._heap, (self._last[name], name))
            self._changed.set()

    def end(self) -> None:
        """Let ``run`` return; not by cancellation, which could lose a start that is on record already."""
        self._ending = True
        self._changed.set()

    async def run(self) -> None:
        """Fire until ``end``."""
        while not self._ending:
            self.looked_s = asyncio.get_running_loop().time()
            self._changed.clear()
            sleep_s = 0.0
            try:
                self._heed_clock()
                try:
                    await self._fire_due()
                finally:
                    await self._fire_reboot_jobs()
                sleep_s = self._sleep_s()
                if self.store_problem:
                    self._observer.note("store.recovered")
                self.store_problem = ""
            except StoreError as problem:
                if self.store_problem != str(problem):
                    self._observer.note("store.failed", error=str(problem))
                self.store_problem = str(problem)
                sleep_s = min(_STORE_TROUBLE_S, self._sleep_s())
            try:
                async with asyncio.timeout(sleep_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _sleep_s(self) -> float:
        slice_s = until_beat_s(asyncio.get_running_loop().time(), SLICE_S)
        if not self._heap:
            return slice_s
        return min(slice_s, max(0.0, (self._heap[0][0] - self._now()).total_seconds()))

    async def _fire_due(self) -> None:
        due = self._plan_due()
        # A new job's place too: a fire time that passes before it ever ran, while we are down, is one to catch up.
        new = [job for job in self._jobs.values() if job.name not in self._on_record]
        marks = {job.name: self._mark(job) for job in (*new, *(job for job, _ in due)) if job.durable}
        unrecorded: StoreError | None = None
        if marks or self._gone:
            try:
                await asyncio.wait({self._put_on_record(marks, self._gone)}, timeout=_START_S)
            except StoreError as problem:
                # The job comes first, a full disk or not. Crash before the next try, and the slot may be run again.
                unrecorded = problem
        self._start(due)
        if unrecorded is None and self._recording is not None:
            try:
                await soon(self._recording, _PATIENCE_S)
            except StoreError as problem:
                unrecorded = problem
            else:
                self._recording = None
                self._gone = set()
                self._on_record.update(marks)
        if unrecorded is not None:
            self._on_record.difference_update(marks)
            raise unrecorded

    def _start(self, due: list[tuple[Timed, Due]]) -> None:
        for job, plan in due:
            for group in plan.skipped:
                if job.durable:
                    self._observer.note(
                        "fire_time.skipped",
                        job=job.name,
                        first=group.first.isoformat(),
                        count=group.count if group.exact else f"{group.count} or more",
                        reason=group.reason,
                    )
            for start in plan.start:
                job.fire(start.at, start.reason)

    def _put_on_record(self, marks: dict[str, Mark], gone: set[str]) -> asyncio.Future[None]:
        """Return what is done once the store has *marks*. Raises StoreError: one that isn't done leaves no room."""
        if silence := self._worker.silence:
            raise StoreSilentError(silence)
        if self._recording is not None and not self._recording.done():
            raise StoreBusyError("outbox: the database still takes nothing: is the disk slow, or locked?")
        self._recording = asyncio.ensure_future(self._worker.call(lambda outbox: outbox.jobs.set_marks(marks, gone)))
        return self._recording

    def _mark(self, job: Timed) -> Mark:
        ahead = self._ahead.get(job.name, ())
        return Mark(_ns(self._last[job.name]), tuple(map(_ns, ahead)), job.schedule.written())

    def _heed_clock(self) -> None:
        """See to jobs behind whose fire times the clock has been set. Looking twice does no harm: no watch waits."""
        now = self._now()
        was_set_back, self._looked_at = now < self._looked_at, now
        if not (was_set_back or self._ahead):
            return
        changed, disregarded = False, 0
        for name, job in self._jobs.items():
            before = self._last[name], self._ahead.pop(name, ())
            last, ahead = place = go_on(*before, now) if job.durable else (min(before[0], now), ())
            self._last[name] = last
            if ahead:
                self._ahead[name] = ahead
            if place != before:
                changed = True
                disregarded += len(ahead) > len(before[1])
                self._on_record.discard(name)
        held = [self._last[name] for name in self._jobs if self._last[name] - now > _SET_BACK]
        if held or disregarded:
            until = max(held).isoformat() if held else None
            self._observer.note("clock.set_back", waiting=len(held), until=until, disregarded=disregarded)
        if changed:
            self._lay_out()

    def _plan_due(self) -> list[tuple[Timed, Due]]:
        """Take what is due off the heap, and return it.

        Done before anything is awaited: a reload meanwhile must not find the same fire times due again.
        """
        now = self._now()
        due: dict[str, tuple[Timed, Due]] = {}
        while self._heap and self._heap[0][0] <= now:
            _, name = heapq.heappop(self._heap)
            job, last = self._jobs[name], self._last[name]
            if name in due:
                continue  # in its turn, and laid out anew meanwhile
            plan = self._in_its_turn(
                job,
                plan_due(
                    job.schedule,
                    last,
                    now - timedelta(seconds=job.jitter_s),
                    job.catch_up,
                    job.misfire_grace_s,
                    job.limit,
                ),
            )
            if plan is None:
                continue
            self._last[name] = plan.last_fire
            due[name] = job, plan
            at = self.next_fire(name)
            if at is not None and name not in self._in_turn:
                heapq.heappush(self._heap, (at, name))
        return list(due.values())

    def _in_its_turn(self, job: Timed, plan: Due) -> Due | None:
        """Return what of *plan* may start now; None: nothing before ``ended``.

        Of several fire times that are made up for, each waits for the run before it, whatever ``overlap`` would make
        of it. Those that wait are not dealt with yet: the next daemon finds them too.
        """
        several = len(plan.start) > 1
        if job.busy is None or not (several or job.name in self._in_turn):
            return plan
        if job.busy():
            self._in_turn.add(job.name)
            return None
        if not several:
            self._in_turn.discard(job.name)
            return plan
        self._in_turn.add(job.name)
        return plan.oldest()

    def _lay_out(self) -> None:
        self._heap = [(at, name) for name in self._jobs if (at := self.next_fire(name)) is not None]
        heapq.heapify(self._heap)

    async def _fire_reboot_jobs(self) -> None:
        if self._boot_is_on_record:
            return
        stored = await self._worker.call(lambda outbox: outbox.jobs.reboot_fires())
        if stored.get(_ALL_JOBS) != self._boot_id:
            due = [
                job
                for name, job in self._jobs.items()
                if name not in self._paused
                and reboot_due(job.schedule, boot_id=self._boot_id, last_boot_id=stored.get(name))
            ]
            names = [*(job.name for job in due), _ALL_JOBS]
            try:
                await self._worker.call(lambda outbox: outbox.jobs.set_reboot_fires(names, self._boot_id))
            finally:  # the job comes first here, too
                first, self._has_booted = not self._has_booted, True
                for job in due if first else ():
                    job.fire(self._now(), "the host has booted")
        # A daemon has been here in this boot: what has been added since waits for the next one.
        self._boot_is_on_record = True

    def _now(self) -> datetime:
        return self._clock.read().wall


def _at(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 10**9 + at.microsecond * 1000

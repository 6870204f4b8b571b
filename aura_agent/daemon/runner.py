"""How a job of the config runs: attempts, time-out, expectations, and what its outcome is.

A run's outcome goes into the outbox and nowhere else: whether it becomes a ping is decided there. Between the end of
a job and its durable record nothing may be forgotten: what the database doesn't take goes into the spool, and what
neither takes is offered again until one does. An error that nobody foresaw makes the run a failure, never a success.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Literal

from aura_agent.clock import Clock, Reading
from aura_agent.config.models import Job
from aura_agent.daemon.expectation import unmet_expectation
from aura_agent.daemon.jobspec import spawn_spec
from aura_agent.daemon.slots import Slot, Slots
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.process.attachment import attachment
from aura_agent.process.child import Child
from aura_agent.process.lines import Lines
from aura_agent.process.memory import MemoryPeaks
from aura_agent.process.pump import Pump
from aura_agent.process.spawn import SpawnFailed, spawn
from aura_agent.process.tail import CONTEXT_BYTES, Tail
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Report
from aura_agent.schedule.overlap import decide
from aura_agent.schedule.retry import retry_delay_s
from aura_agent.units import format_duration

DRAIN_S = 1.0  # what a job leaves in the background may hold its pipe for ever
HISTORY_TAIL_BYTES = 10_000
_STORE_TROUBLE_S = 5.0
_REMOVED = "its job has left the config"


@dataclass(slots=True, eq=False)
class Run:
    """One run that is going on, or waits for its turn. ``idle``: no process of it is there, nor is one under way."""

    job_name: str
    job: Job
    run_id: str
    fire_time: datetime
    reason: str
    slot: Slot | None = None
    started: Reading | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_reason: str = ""
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Firing:
    """What became of a fire time, or of somebody's wish to run a job: *reason* is why it waits or is skipped."""

    state: Literal["started", "waiting", "skipped"]
    run_id: str
    reason: str = ""


@dataclass(slots=True)
class _Attempt:
    """How one attempt ended."""

    started: Reading
    ended: Reading
    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    tail: str = ""
    body: bytes | None = None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    io_read_bytes: int | None = None
    io_written_bytes: int | None = None


class Runner:
    """Starts runs and sees them through to their record. *accepted* hears of each report once it is durable.

    *redact* returns the patterns in force of what no ping may take along; *ended* hears of the job when its last run
    that went on has ended. *directory* is the store's, for the spool.
    ``store_problem`` says why an outcome is not on disk yet.
    """

    def __init__(
        self,
        worker: OutboxWorker,
        directory: str,
        clock: Clock,
        observer: Observer,
        boot_id: str,
        accepted: Callable[[Report], None],
        redact: Callable[[], Sequence[str]] = tuple,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._clock = clock
        self._observer = observer
        self._boot_id = boot_id
        self._accepted = accepted
        self._redact = redact
        self._tell_ended = ended
        self._running: dict[str, list[Run]] = {}
        self._waiting: dict[str, Run] = {}
        self._slots = Slots()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._begun: list[tuple[str, str, str | None, Reading]] = []
        self._recording: asyncio.Task[None] | None = None
        self._memory = MemoryPeaks()
        self._idle = asyncio.Event()
        self._idle.set()
        self.store_problem = ""

    def running(self, name: str) -> list[Run]:
        return list(self._running.get(name, ()))

    def waiting(self, name: str) -> str:
        """Return what a run of the job waits for that hasn't begun; empty if none does."""
        if name in self._waiting:
            return "the previous run is still going"
        waiting = (run.slot for run in self._running.get(name, ()) if run.slot is not None)
        return next((self._slots.full(slot) for slot in waiting if not slot.given.is_set()), "")

    def use(self, jobs: Mapping[str, Job], limits: Mapping[str, int]) -> None:
        """Take note of the config in force: its enabled *jobs*, and how many runs may go on in each job group.

        What runs goes on under the config that it began with; a run of a job that is gone ends if its ``when_removed``
        says so. A run that waits for the one before it begins under the new config.
        """
        self._slots.limit(limits)
        for name, run in list(self._waiting.items()):
            if name in jobs:
                run.job = jobs[name]
            elif run.job.enabled:
                self._skip(self._waiting.pop(name), _REMOVED)
        for name in self._running.keys() - jobs.keys():
            for run in self._running[name]:
                if run.job.enabled and run.job.when_removed == "stop":
                    self._ask_to_stop(run, _REMOVED)

    @property
    def count(self) -> int:
        return sum(len(runs) for runs in self._running.values())

    def fire(self, name: str, job: Job, fire_time: datetime, reason: str) -> Firing:
        """A fire time has come, or somebody asks: start, queue or skip a run."""
        run = Run(name, job, os.urandom(16).hex(), fire_time, reason)
        if self._stopping:
            return self._skip(run, "the agent is stopping")
        running = self._running.get(name, [])
        decision = decide(job.overlap, len(running), int(name in self._waiting))
        if decision.action == "skip":
            return self._skip(run, decision.reason)
        if decision.action == "start":
            slot = self._start(run)
            if slot.given.is_set():
                return Firing("started", run.run_id)
            return Firing("waiting", run.run_id, self._slots.full(slot))
        self._waiting[name] = run
        if decision.action == "replace":
            for old in running:
                self._ask_to_stop(old, "replaced by its next run")
        return Firing("waiting", run.run_id, decision.reason)

    async def finish(self, grace_s: float) -> None:
        """No new runs and attempts; what runs has its job's ``stop_grace``, else *grace_s*, and is then told to end.

        Returns once all of it is recorded.
        """
        self._stopping = True
        waiting, self._waiting = self._waiting, {}
        for run in waiting.values():
            self._skip(run, "the agent is stopping")
        loop = asyncio.get_running_loop()
        timers = []
        for run in [run for runs in self._running.values() for run in runs]:
            own_s = run.job.stop_grace
            run_grace_s = 0.0 if run.idle else grace_s if own_s is None else own_s
            timers.append(loop.call_later(run_grace_s, self._ask_to_stop, run, "the agent is stopping"))
        await self._idle.wait()
        for timer in timers:
            timer.cancel()

    def hurry(self, reason: str) -> None:
        """Tell everything that runs to end now."""
        for runs in self._running.values():
            for run in runs:
                self._ask_to_stop(run, reason)

    def _ask_to_stop(self, run: Run, reason: str) -> None:
        if not run.stop.is_set():
            run.stop_reason = reason
            run.stop.set()

    def _skip(self, run: Run, reason: str) -> Firing:
        self._launch(self._record(self._report(run, self._skipped(reason), 1)), f"skip {run.job_name}")
        return Firing("skipped", run.run_id, reason)

    def _skipped(self, reason: str) -> _Attempt:
        now = self._clock.read()
        return _Attempt(now, now, Outcome.SKIPPED, reason=reason)

    def _start(self, run: Run) -> Slot:
        self._running.setdefault(run.job_name, []).append(run)
        slot = run.slot = self._slots.ask(run.job.job_group)
        run.idle = not slot.given.is_set()
        self._launch(self._run(run, slot), f"run {run.job_name}")
        return slot

    def _launch(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        self._idle.clear()
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._observer.note("run.crashed", task=task.get_name(), error=repr(problem), exc_info=problem)
        if not self._tasks:
            self._idle.set()

    def _ended(self, run: Run) -> None:
        runs = self._running[run.job_name]
        runs.remove(run)
        if not runs:
            del self._running[run.job_name]
            waiting = self._waiting.pop(run.job_name, None)
            if waiting is not None and not self._stopping:
                self._start(waiting)
            else:
                self._tell_ended(run.job_name)

    async def _run(self, run: Run, slot: Slot) -> None:
        try:
            attempt, attempts = await self._attempts(run, slot)
            await self._record(self._report(run, attempt, attempts))
        finally:
            self._ended(run)

    async def _attempts(self, run: Run, slot: Slot) -> tuple[_Attempt, int]:
        """Return the deciding attempt, and how many there were. Each has a slot of its own: nobody waits beside it."""
        if not await self._is_its_turn(run, slot):
            self._slots.give_back(slot)
            return self._skipped(run.stop_reason), 1
        attempts = 1
        while True:
            try:
                attempt = await self._attempt_at_last(run, first=attempts == 1)
            finally:
                self._slots.give_back(slot)
            if not await self._is_tried_again(run, attempt, attempts):
                return attempt, attempts
            slot = run.slot = self._slots.ask(run.job.job_group)
            if not await self._is_its_turn(run, slot):
                self._slots.give_back(slot)
                return attempt, attempts
            attempts += 1

    async def _is_its_turn(self, run: Run, slot: Slot) -> bool:
        """Wait until there is room for the run beside the others; False: it was told to end first."""
        if slot.given.is_set():
            return True
        run.idle = True
        given = asyncio.create_task(slot.given.wait(), name=f"turn {run.job_name}")
        stop = asyncio.create_task(run.stop.wait(), name=f"stop {run.job_name}")
        await asyncio.wait({given, stop}, return_when=asyncio.FIRST_COMPLETED)
        given.cancel()
        stop.cancel()
        run.idle = run.stop.is_set()
        return not run.idle

    async def _attempt_at_last(self, run: Run, *, first: bool) -> _Attempt:
        started = self._clock.read()
        try:
            return await self._attempt(run, started, first=first)
        except Exception as problem:  # noqa: BLE001  # whatever it was, the run has an end, and it isn't a success
            self._observer.note("run.crashed", job=run.job_name, run_id=run.run_id, exc_info=problem)
            reason = f"the agent met an error that nobody foresaw: {type(problem).__name__}"
            return _Attempt(started, self._clock.read(), Outcome.FAILED, reason=reason)

    async def _is_tried_again(self, run: Run, attempt: _Attempt, attempts: int) -> bool:
        if attempt.outcome is Outcome.SUCCEEDED or attempts > run.job.retries or self._stopping:
            return False
        run.idle = True
        job = run.job
        delay_s = retry_delay_s(attempts, job.retry_delay, job.retry_backoff, job.retry_max_delay)
        stopped = run.stop.is_set() or await _comes_within(run.stop, delay_s)
        run.idle = False
        return not (stopped or self._stopping)

    async def _attempt(self, run: Run, started: Reading, *, first: bool) -> _Attempt:
        run.started = run.started or started
        try:
            child = spawn(spawn_spec(run.job))
        except SpawnFailed as problem:
            ended = self._clock.read()
            return _Attempt(started, ended, Outcome.NOT_STARTED, problem.exit_code, reason=str(problem))
        if first:
            self._observer.note("run.started", job=run.job_name, run_id=run.run_id, pid=child.pid, why=run.reason)
        beginning = self._begin(run, started)
        tail = Tail(max(HISTORY_TAIL_BYTES, run.job.tail_bytes + CONTEXT_BYTES))
        outputs = [self._read(run, name, fd, tail) for name, fd in (("stdout", child.stdout), ("stderr", child.stderr))]
        self._memory.watch(child.pid)
        try:
            stopped_by = await self._watch_over(run, child, started)
        finally:
            seen_bytes = self._memory.take(child.pid)
        for pump, lines in filter(None, outputs):
            await pump.drained(DRAIN_S)
            pump.release()
            lines.end()
        await beginning
        attempt = await self._conclude(run, child, started, stopped_by)
        attempt.max_rss_bytes = max(attempt.max_rss_bytes or 0, seen_bytes) or None
        attempt.tail = tail.text()
        if run.job.attach == "output" and attempt.outcome is Outcome.SUCCEEDED:
            attempt.body = attachment(tail, run.job.tail_bytes, self._redact())
        return attempt

    def _read(self, run: Run, stream: str, fd: int | None, tail: Tail) -> tuple[Pump, Lines] | None:
        """Begin to read one of the job's pipes; None: it has none."""
        if fd is None:
            return None
        note = partial(self._observer.note, "run.output", job=run.job_name, run_id=run.run_id, stream=stream)
        lines = Lines(lambda text: note(text=text))
        return Pump(fd, tail, lines.feed if run.job.output == "log" else None), lines

    def _begin(self, run: Run, started: Reading) -> asyncio.Task[None]:
        """Put on record that an attempt is under way: a daemon that is killed leaves a lost run, not a silent one.

        Runs that start in one turn of the loop share a transaction, and the task that waits for it.
        """
        self._begun.append((run.run_id, run.job_name, _ref(run.job), started))
        if self._recording is None:
            self._recording = asyncio.create_task(self._record_begun(), name="record begun runs")
        return self._recording

    async def _record_begun(self) -> None:
        begun, self._begun, self._recording = self._begun, [], None
        try:
            await self._worker.call(lambda outbox: outbox.begin(begun))
        except StoreError as problem:
            self._observer.note("store.failed", error=str(problem))

    async def _watch_over(self, run: Run, child: Child, started: Reading) -> tuple[Outcome, str] | None:
        """Wait for the child's end; return what we ended it for, None if it ended by itself."""
        ended = asyncio.create_task(child.wait(), name=f"wait {run.job_name}")
        stop = asyncio.create_task(run.stop.wait(), name=f"stop {run.job_name}")
        timeout_s = run.job.timeout
        if timeout_s is not None:
            timeout_s = max(0.0, timeout_s - (self._clock.read().boot_ns - started.boot_ns) / 1e9)
        try:
            done, _ = await asyncio.wait({ended, stop}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ended in done:
                return None
            from aura_agent.process.tree import ProcessTree  # brings psutil: not before it is needed

            tree = ProcessTree(child.pid, own_group=True)
            tree.signal(signal.SIGTERM)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + run.job.kill_after
            await asyncio.wait({ended}, timeout=run.job.kill_after)
            if not (ended.done() and await tree.gone(deadline - loop.time())):
                tree.signal(signal.SIGKILL)
            await ended
        finally:
            stop.cancel()
        if run.stop.is_set():
            return Outcome.KILLED, run.stop_reason
        return Outcome.TIMED_OUT, f"timed out after {format_duration(run.job.timeout or 0)}"

    async def _conclude(
        self, run: Run, child: Child, started: Reading, stopped_by: tuple[Outcome, str] | None
    ) -> _Attempt:
        status, ended = child.status, self._clock.read()
        assert status is not None
        attempt = _Attempt(started, ended, Outcome.FAILED, status.code, status.signal)
        attempt.cpu_s = status.cpu_user_s + status.cpu_system_s
        attempt.max_rss_bytes = status.max_rss_bytes
        attempt.io_read_bytes, attempt.io_written_bytes = status.io_read_bytes, status.io_written_bytes
        if stopped_by is not None:
            attempt.outcome, attempt.reason = stopped_by
        elif status.signal is not None:
            attempt.outcome, attempt.reason = Outcome.KILLED, str(status)
        elif status.code in run.job.success_codes:
            attempt.reason = await unmet_expectation(run.job, started, ended)
            attempt.outcome = Outcome.FAILED if attempt.reason else Outcome.SUCCEEDED
        else:
            attempt.reason = str(status)
        return attempt

    def _report(self, run: Run, attempt: _Attempt, attempts: int) -> Report:
        job = run.job
        body = attempt.body
        if job.attach == "summary":
            took = format_duration((attempt.ended.boot_ns - attempt.started.boot_ns) / 1e9)
            body = f"exit {attempt.exit_code} after {took}, attempt {attempts}\n".encode()
        return Report(
            run_id=run.run_id,
            boot_id=self._boot_id,
            started=attempt.started,
            ended=attempt.ended,
            outcome=attempt.outcome,
            ref=_ref(job),
            job=run.job_name,
            exit_code=attempt.exit_code,
            signal=attempt.signal,
            attempts=attempts,
            reason=attempt.reason,
            max_age_s=job.max_age,
            replay_all=job.replay == "all",
            body=body if attempt.outcome is Outcome.SUCCEEDED else None,
            tail=attempt.tail,
            cpu_s=attempt.cpu_s,
            max_rss_bytes=attempt.max_rss_bytes,
            io_read_bytes=attempt.io_read_bytes,
            io_written_bytes=attempt.io_written_bytes,
        )

    async def _record(self, report: Report) -> None:
        """Return once *report* is durable; only the end of the daemon lets go of one that no disk takes."""
        while not await self._is_kept(report):
            if self._stopping:
                return  # no disk takes it: the next daemon finds the run lost, which counts as a failure
            await asyncio.sleep(_STORE_TROUBLE_S)
        self._accepted(report)

    async def _is_kept(self, report: Report) -> bool:
        try:
            await self._worker.accept(report)
        except StoreError as problem:
            self._observer.note("store.failed", error=str(problem))
            try:
                spool.write(self._directory, report.run_id, wire.encode("run", report.to_fields()))
            except FileExistsError:
                return True
            except OSError:
                self.store_problem = str(problem)
                return False
        self.store_problem = ""
        return True


def _ref(job: Job) -> str | None:
    return f"heartbeat:{job.heartbeat}" if job.heartbeat else None


async def _comes_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True

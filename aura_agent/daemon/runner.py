"""How a job of the config runs: attempts, time-out, expectations, and what its outcome is.

A run's outcome goes into the outbox and nowhere else: whether it becomes a ping is decided there. Between the end of
a job and its durable record nothing may be forgotten: what the database doesn't take goes into the spool, and what
neither takes is offered again until one does. An error that nobody foresaw makes the run a failure, never a success.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from aura_agent.clock import Clock, Reading
from aura_agent.config.models import Job
from aura_agent.daemon.aside import aside
from aura_agent.daemon.jobspec import spawn_spec
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.rules import Moment
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.process.attachment import attachment
from aura_agent.process.child import Child
from aura_agent.process.lines import Lines
from aura_agent.process.memory import MemoryPeaks
from aura_agent.process.pump import Pump
from aura_agent.process.spawn import SpawnFailed, spawn
from aura_agent.process.tail import CONTEXT_BYTES, Tail
from aura_agent.process.tree import ProcessTree
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Report
from aura_agent.schedule.overlap import decide
from aura_agent.units import format_duration

DRAIN_S = 1.0  # what a job leaves in the background may hold its pipe for ever
HISTORY_TAIL_BYTES = 10_000
_STORE_TROUBLE_S = 5.0
_EXPECTATION_S = 60.0  # for looking at what the run should have made


@dataclass(slots=True, eq=False)
class Run:
    """One run that is going on, or waits for its turn."""

    job_name: str
    job: Job
    run_id: str
    fire_time: datetime
    reason: str
    started: Reading | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_reason: str = ""
    between_attempts: bool = False


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

    *redact* returns the patterns in force of what no ping may take along. *directory* is the store's, for the spool.
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
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._clock = clock
        self._observer = observer
        self._boot_id = boot_id
        self._accepted = accepted
        self._redact = redact
        self._running: dict[str, list[Run]] = {}
        self._waiting: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._memory = MemoryPeaks()
        self._idle = asyncio.Event()
        self._idle.set()
        self.store_problem = ""

    def running(self, name: str) -> list[Run]:
        return list(self._running.get(name, ()))

    @property
    def count(self) -> int:
        return sum(len(runs) for runs in self._running.values())

    def fire(self, name: str, job: Job, fire_time: datetime, reason: str) -> str:
        """A fire time has come, or somebody asks: start, queue or skip a run. Returns its id, or why there is none."""
        run = Run(name, job, os.urandom(16).hex(), fire_time, reason)
        if self._stopping:
            return self._skip(run, "the agent is stopping")
        running = self._running.get(name, [])
        decision = decide(job.overlap, len(running), int(name in self._waiting))
        if decision.action == "skip":
            return self._skip(run, decision.reason)
        if decision.action == "start":
            self._start(run)
            return run.run_id
        self._waiting[name] = run
        if decision.action == "replace":
            for old in running:
                self._ask_to_stop(old, "replaced by its next run")
        return run.run_id

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
            run_grace_s = 0.0 if run.between_attempts else grace_s if own_s is None else own_s
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

    def _skip(self, run: Run, reason: str) -> str:
        now = self._clock.read()
        skipped = _Attempt(now, now, Outcome.SKIPPED, reason=reason)
        self._launch(self._record(self._report(run, skipped, 1)), f"skip {run.job_name}")
        return f"skipped: {reason}"

    def _start(self, run: Run) -> None:
        self._running.setdefault(run.job_name, []).append(run)
        self._launch(self._run(run), f"run {run.job_name}")

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

    async def _run(self, run: Run) -> None:
        try:
            await self._attempts(run)
        finally:
            self._ended(run)

    async def _attempts(self, run: Run) -> None:
        attempts = 0
        while True:
            attempts += 1
            started = self._clock.read()
            try:
                attempt = await self._attempt(run, started, first=attempts == 1)
            except Exception as problem:  # noqa: BLE001  # whatever it was, the run has an end, and it isn't a success
                self._observer.note("run.crashed", job=run.job_name, run_id=run.run_id, exc_info=problem)
                reason = f"the agent met an error that nobody foresaw: {type(problem).__name__}"
                attempt = _Attempt(started, self._clock.read(), Outcome.FAILED, reason=reason)
            if not await self._is_tried_again(run, attempt, attempts):
                break
        await self._record(self._report(run, attempt, attempts))

    async def _is_tried_again(self, run: Run, attempt: _Attempt, attempts: int) -> bool:
        if attempt.outcome is Outcome.SUCCEEDED or attempts > run.job.retries or self._stopping:
            return False
        run.between_attempts = True
        stopped = run.stop.is_set() or await _comes_within(run.stop, run.job.retry_delay)
        run.between_attempts = False
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
        beginning = asyncio.create_task(self._begin(run, started)) if first else None
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
        if beginning is not None:
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

    async def _begin(self, run: Run, started: Reading) -> None:
        """Put on record that the run is under way: a daemon that is killed leaves a lost run, not a silent one."""
        ref = _ref(run.job)
        try:
            await self._worker.call(
                lambda outbox: outbox.begin(
                    run.run_id, run.job_name, ref, Moment(outbox.now().epoch, started.boot_ns, started.wall_ns)
                )
            )
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
            attempt.reason = await _unmet_expectation(run.job, started, ended)
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


async def _unmet_expectation(job: Job, started: Reading, ended: Reading) -> str:
    """Return what the run should have brought about and didn't; empty when all is well."""
    if job.expect is None or job.expect.file is None:
        return ""
    from aura_agent.watch.expect import expect_file

    wanted = job.expect.file
    looking = aside(
        partial(
            expect_file,
            path=wanted.path,
            started_at=started.wall,
            now=ended.wall,
            newer_than_s=None if wanted.newer_than == "start" else wanted.newer_than,
            min_size_bytes=wanted.min_size,
        ),
        "expectation",
    )
    try:
        async with asyncio.timeout(_EXPECTATION_S):
            condition = await looking
    except TimeoutError:
        return f"{wanted.path} could not be looked at within {format_duration(_EXPECTATION_S)}: does its disk hang?"
    except Exception as problem:  # noqa: BLE001  # what can't be looked at can't be vouched for
        return f"{wanted.path} can't be looked at: {problem}"
    return "" if condition.healthy else condition.reason


def _ref(job: Job) -> str | None:
    return f"heartbeat:{job.heartbeat}" if job.heartbeat else None


async def _comes_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True

"""How a job of the config runs: when it may start, how often it is tried, and what is reported of that.

A run's outcome goes on record (``records``) and nowhere else: whether it becomes a ping is decided in the outbox. No
run waits for that.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from aura_agent.clock import Clock, Reading
from aura_agent.config.models import Job
from aura_agent.daemon.attempts import Attempt, Attempts, Run, UnderWay
from aura_agent.daemon.records import Records
from aura_agent.daemon.slots import Slot, Slots
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Outcome, Report
from aura_agent.schedule.overlap import decide
from aura_agent.schedule.retry import retry_delay_s
from aura_agent.units import format_duration

_REMOVED = "its job has left the config"


@dataclass(frozen=True, slots=True)
class Firing:
    """What became of a fire time, or of somebody's wish to run a job: *reason* is why it waits or is skipped."""

    state: Literal["started", "waiting", "skipped"]
    run_id: str
    reason: str = ""


class Runner:
    """Starts runs and sees them through to their record. *accepted* hears of each report once it is durable.

    *redact* returns the patterns in force of what no ping may take along; *ended* hears of the job when its last run
    that went on has ended. *directory* and *unkept*: as for Records.
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
        unkept: Callable[[Report], Coroutine[None, None, None]] | None = None,
    ) -> None:
        self._worker = worker
        self._clock = clock
        self._observer = observer
        self._boot_id = boot_id
        self._tell_ended = ended
        self.records = Records(worker, directory, observer, accepted, self._launch, unkept)
        self._running: dict[str, list[Run]] = {}
        self._waiting: dict[str, Run] = {}
        self._slots = Slots()
        self._attempts = Attempts(clock, observer, redact)
        self._due: list[tuple[Run, Slot]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._record_s = 0.0  # as we stop: for how long outcomes are offered to the disk when the last run has ended
        self._begun: list[tuple[str, str, str | None, Reading]] = []
        self._recording: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def running(self, name: str) -> list[Run]:
        return list(self._running.get(name, ()))

    def waiting(self, name: str) -> str:
        """Return what a run of the job waits for that hasn't begun; empty if none does."""
        if name in self._waiting:
            return "the previous run is still going"
        running = self._running.get(name, ())
        full = (self._slots.full(run.slot) for run in running if run.slot is not None and not run.slot.given.is_set())
        return next((run.waits_for for run in running if run.waits_for), "") or next(full, "")

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
                    run.ask_to_stop(_REMOVED)

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
                old.ask_to_stop("replaced by its next run")
        return Firing("waiting", run.run_id, decision.reason)

    async def finish(self, grace_s: float, record_s: float = 0.0) -> None:
        """No new runs and attempts; what runs has its job's ``stop_grace``, else *grace_s*, and is then told to end.

        Returns once all of it is recorded; what no disk takes is offered again for *record_s* after the last run's end.
        """
        self._stopping, self._record_s = True, record_s
        self.records.end()
        if not self._running:
            self.records.give_up_within(record_s)
        waiting, self._waiting = self._waiting, {}
        for run in waiting.values():
            self._skip(run, "the agent is stopping")
        loop = asyncio.get_running_loop()
        timers = []
        for run in [run for runs in self._running.values() for run in runs]:
            own_s = run.job.stop_grace
            run_grace_s = 0.0 if run.idle else grace_s if own_s is None else own_s
            timers.append(loop.call_later(run_grace_s, run.ask_to_stop, "the agent is stopping"))
        await self._idle.wait()
        for timer in timers:
            timer.cancel()
        self._attempts.close()

    def hurry(self, reason: str) -> None:
        """Tell everything that runs to end now, and offer its outcomes to the disk once."""
        self._record_s = 0.0
        if not self._running:
            self.records.give_up_within(0.0)
        for runs in self._running.values():
            for run in runs:
                run.ask_to_stop(reason)

    def _skip(self, run: Run, reason: str) -> Firing:
        self._launch(self.records.put(self._report(run, self._skipped(reason), 1)), f"skip {run.job_name}")
        return Firing("skipped", run.run_id, reason)

    def _skipped(self, reason: str) -> Attempt:
        now = self._clock.read()
        return Attempt(now, now, Outcome.SKIPPED, reason=reason)

    def _start(self, run: Run) -> Slot:
        self._running.setdefault(run.job_name, []).append(run)
        slot = run.slot = self._slots.ask(run.job.job_group)
        run.idle = not slot.given.is_set()
        if run.idle:
            self._launch(self._run(run, slot, None), f"run {run.job_name}")
        else:
            self._idle.clear()
            self._due.append((run, slot))
            if len(self._due) == 1:
                asyncio.get_running_loop().call_soon(self._start_due)
        return slot

    def _start_due(self) -> None:
        """Start all that is due, one right after the other: nothing else that a run needs comes before the last."""
        due, self._due = self._due, []
        begun = [None if self._attempts.may_hang(run.job) else self._attempts.begin(run) for run, _ in due]
        for (run, slot), attempt in zip(due, begun, strict=True):
            self._launch(self._run(run, slot, attempt), f"run {run.job_name}")

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
        if not self._tasks and not self._due:
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
        if self._stopping and not self._running:
            self.records.give_up_within(self._record_s)

    async def _run(self, run: Run, slot: Slot, begun: UnderWay | Attempt | None) -> None:
        """See *run* through; *begun*: its first attempt, None if its turn is yet to come.

        The job's next run may start before this one is on record: no disk, however slow, delays it.
        """
        try:
            attempt, attempts = await self._deciding(run, slot, begun)
            report = self._report(run, attempt, attempts)
        finally:
            self._begun = [each for each in self._begun if each[0] != run.run_id]
            self._ended(run)
        await self.records.put(report)

    async def _deciding(self, run: Run, slot: Slot, begun: UnderWay | Attempt | None) -> tuple[Attempt, int]:
        """Return the deciding attempt, and how many there were. Each has a slot of its own: nobody waits beside it."""
        if begun is None:
            if not await self._is_its_turn(run, slot):
                self._slots.give_back(slot)
                return self._skipped(run.stop.result()), 1
            begun = await self._attempts.begin_in_time(run)
        attempts = 1
        while True:
            try:
                attempt = await self._see_through(run, begun, attempts)
            finally:
                self._slots.give_back(slot)
            if not await self._is_tried_again(run, attempt, attempts):
                return attempt, attempts
            slot = run.slot = self._slots.ask(run.job.job_group)
            if not await self._is_its_turn(run, slot):
                self._slots.give_back(slot)
                return attempt, attempts
            begun = await self._attempts.begin_in_time(run)
            if isinstance(begun, Attempt) and begun.outcome is Outcome.SKIPPED:
                self._slots.give_back(slot)
                return attempt, attempts  # what has failed stays failed, though the next attempt never began
            attempts += 1

    async def _see_through(self, run: Run, begun: UnderWay | Attempt, number: int) -> Attempt:
        if isinstance(begun, Attempt):
            return begun
        if number == 1:
            pid = begun.child.pid
            self._observer.note("run.started", job=run.job_name, run_id=run.run_id, pid=pid, why=run.reason)
        self._begin(run, begun.started)
        return await self._attempts.ended(run, begun)

    async def _is_its_turn(self, run: Run, slot: Slot) -> bool:
        """Wait until there is room for the run beside the others; False: it was told to end first."""
        if slot.given.is_set():
            return True
        run.idle = True
        given = asyncio.create_task(slot.given.wait(), name=f"turn {run.job_name}")
        either: set[asyncio.Future[Any]] = {given, run.stop}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        given.cancel()
        run.idle = run.stop.done()
        return not run.idle

    async def _is_tried_again(self, run: Run, attempt: Attempt, attempts: int) -> bool:
        if attempt.outcome is Outcome.SUCCEEDED or attempts > run.job.retries or self._stopping:
            return False
        run.idle = True
        job = run.job
        delay_s = retry_delay_s(attempts, job.retry_delay, job.retry_backoff, job.retry_max_delay)
        await asyncio.wait({run.stop}, timeout=delay_s)
        run.idle = False
        return not (run.stop.done() or self._stopping)

    def _begin(self, run: Run, started: Reading) -> None:
        """Put on record that an attempt is under way: a daemon that is killed leaves a lost run, not a silent one.

        Runs that start in one turn of the loop share a transaction, and so do those that start during another one.
        """
        self._begun.append((run.run_id, run.job_name, _ref(run.job), started))
        if self._recording is None:
            self._recording = asyncio.create_task(self._record_begun(), name="record begun runs")

    async def _record_begun(self) -> None:
        try:
            while begun := self._begun:
                self._begun = []
                try:
                    await self._worker.call(partial(Outbox.begin, runs=begun), patient=True)
                except StoreError as problem:
                    self._observer.note("store.failed", error=str(problem))
        finally:
            self._recording = None

    def _report(self, run: Run, attempt: Attempt, attempts: int) -> Report:
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


def _ref(job: Job) -> str | None:
    return f"heartbeat:{job.heartbeat}" if job.heartbeat else None

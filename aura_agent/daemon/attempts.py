"""One attempt of a run: how it is started, watched over and ended, and what it amounts to.

Starting is apart from all the rest, so that whoever has many to start starts them one right after the other. An error
that nobody foresaw makes the attempt a failure, never a success.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock, Reading
from aura_agent.config.models import Job
from aura_agent.daemon.expectation import unmet_expectation
from aura_agent.daemon.jobspec import places_of, spawn_spec
from aura_agent.daemon.slots import Slot
from aura_agent.delivery.observer import Observer
from aura_agent.process.attachment import attachment
from aura_agent.process.child import Child
from aura_agent.process.failure import NOT_EXECUTABLE
from aura_agent.process.lines import Lines
from aura_agent.process.memory import MemoryPeaks
from aura_agent.process.network_places import NetworkPlaces
from aura_agent.process.pump import Pump
from aura_agent.process.spawn import SpawnFailed, spawn
from aura_agent.process.tail import CONTEXT_BYTES, Tail
from aura_agent.report.record import Outcome
from aura_agent.units import format_duration

_LOOK_S = 60.0  # for a disk that may hang to answer
DRAIN_S = 1.0  # what a job leaves in the background may hold its pipe for ever
HISTORY_TAIL_BYTES = 10_000


def _untold() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Run:
    """One run that is going on, or waits for its turn. ``idle``: no process of it is there, nor is one under way.

    ``stop`` is done once the run is told to end, and holds why.
    """

    job_name: str
    job: Job
    run_id: str
    fire_time: datetime
    reason: str
    slot: Slot | None = None
    started: Reading | None = None
    stop: asyncio.Future[str] = field(default_factory=_untold)
    idle: bool = False
    waits_for: str = ""  # what keeps its next attempt from beginning

    def ask_to_stop(self, reason: str) -> None:
        if not self.stop.done():
            self.stop.set_result(reason)


@dataclass(slots=True)
class Attempt:
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


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An attempt whose process has been started."""

    child: Child
    started: Reading


class Attempts:
    """Begins attempts and sees them through. *redact*: the patterns in force of what no ping may take along."""

    def __init__(self, clock: Clock, observer: Observer, redact: Callable[[], Sequence[str]]) -> None:
        self._clock = clock
        self._observer = observer
        self._redact = redact
        self._memory = MemoryPeaks()
        self._network_places = NetworkPlaces()

    def close(self) -> None:
        self._network_places.close()

    def may_hang(self, job: Job) -> bool:
        """Whether what *job* needs to start lies where a look may never end; ``begin`` would hold up all other jobs."""
        return self._network_places.exist() and any(map(self._network_places.holds, places_of(job)))

    async def begin_in_time(self, run: Run) -> UnderWay | Attempt:
        """``begin``, once what the job needs has been looked at beside the event loop, if its disk may hang.

        An attempt that is told to stop before it has begun ends as skipped.
        """
        if self.may_hang(run.job):
            asked = self._clock.read()
            looked = run_in_thread(partial(_look_at, places_of(run.job)), f"look for {run.job_name}")
            either: set[asyncio.Future[Any]] = {looked, run.stop}
            run.idle, run.waits_for = True, "the disk of its directory or program does not answer"
            await asyncio.wait(either, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            run.idle, run.waits_for = run.stop.done(), ""
            if run.stop.done():
                looked.cancel()
                return Attempt(asked, self._clock.read(), Outcome.SKIPPED, reason=run.stop.result())
            if not looked.done():
                looked.cancel()
                within = format_duration(_LOOK_S)
                reason = f"its directory or program could not be looked at within {within}: does its disk hang?"
                return Attempt(asked, self._clock.read(), Outcome.NOT_STARTED, NOT_EXECUTABLE, reason=reason)
        return self.begin(run)

    def begin(self, run: Run) -> UnderWay | Attempt:
        """Start an attempt; return it as ended if that can't be done. See to what is under way with ``ended``."""
        started = self._clock.read()
        run.started = run.started or started
        try:
            return UnderWay(spawn(spawn_spec(run.job)), started)
        except SpawnFailed as problem:
            ended = self._clock.read()
            return Attempt(started, ended, Outcome.NOT_STARTED, problem.exit_code, reason=str(problem))
        except Exception as problem:  # noqa: BLE001  # whatever it was, the run has an end, and it isn't a success
            return self._crashed(run, started, problem)

    async def ended(self, run: Run, begun: UnderWay) -> Attempt:
        """See *begun* to its end."""
        try:
            return await self._see_through(run, begun)
        except Exception as problem:  # noqa: BLE001  # as in begin
            return self._crashed(run, begun.started, problem)

    def _crashed(self, run: Run, started: Reading, problem: Exception) -> Attempt:
        self._observer.note("run.crashed", job=run.job_name, run_id=run.run_id, exc_info=problem)
        reason = f"the agent met an error that nobody foresaw: {type(problem).__name__}"
        return Attempt(started, self._clock.read(), Outcome.FAILED, reason=reason)

    async def _see_through(self, run: Run, begun: UnderWay) -> Attempt:
        child = begun.child
        tail = Tail(max(HISTORY_TAIL_BYTES, run.job.tail_bytes + CONTEXT_BYTES))
        outputs = [
            self._read(run, stream, fd, tail)
            for stream, fd in (("stdout", child.stdout), ("stderr", child.stderr))
            if fd is not None
        ]
        self._memory.watch(child.pid)
        try:
            stopped_by = await self._watch_over(run, child, begun.started)
        finally:
            seen_bytes = self._memory.take(child.pid)
        ended = self._clock.read()
        for pump, lines in outputs:
            await pump.drained(DRAIN_S)
            pump.release()
            if lines is not None:
                lines.end()
        attempt = await _conclude(run, child, begun.started, ended, stopped_by)
        attempt.max_rss_bytes = max(attempt.max_rss_bytes or 0, seen_bytes) or None
        attempt.tail = tail.text(max(HISTORY_TAIL_BYTES, run.job.tail_bytes))
        if run.job.attach == "output" and attempt.outcome is Outcome.SUCCEEDED:
            attempt.body = attachment(tail, run.job.tail_bytes, self._redact())
        return attempt

    def _read(self, run: Run, stream: str, fd: int, tail: Tail) -> tuple[Pump, Lines | None]:
        """Begin to read one of the job's pipes."""
        if run.job.output != "log":
            return Pump(fd, tail), None
        note = partial(self._observer.note, "run.output", job=run.job_name, run_id=run.run_id, stream=stream)
        lines = Lines(lambda text: note(text=text))
        return Pump(fd, tail, lines.feed), lines

    async def _watch_over(self, run: Run, child: Child, started: Reading) -> tuple[Outcome, str] | None:
        """Wait for the child's end; return what we ended it for, None if it ended by itself."""
        ended = child.exited()
        timeout_s = run.job.timeout
        if timeout_s is not None:
            timeout_s = max(0.0, timeout_s - (self._clock.read().boot_ns - started.boot_ns) / 1e9)
        either: set[asyncio.Future[Any]] = {ended, run.stop}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return None
        from aura_agent.process.tree import ProcessTree  # brings psutil: not before it is needed

        tree = ProcessTree(child.pid, own_group=True)
        tree.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + run.job.kill_after
        await asyncio.wait({ended}, timeout=run.job.kill_after)
        if not (ended.done() and await tree.gone(deadline - loop.time())):
            tree.signal(signal.SIGKILL)
        await child.wait()
        if run.stop.done():
            return Outcome.KILLED, run.stop.result()
        return Outcome.TIMED_OUT, f"timed out after {format_duration(run.job.timeout or 0)}"


async def _conclude(
    run: Run, child: Child, started: Reading, ended: Reading, stopped_by: tuple[Outcome, str] | None
) -> Attempt:
    status = child.status
    assert status is not None
    attempt = Attempt(started, ended, Outcome.FAILED, status.code, status.signal)
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


def _look_at(paths: Sequence[str]) -> None:
    """Return once each path has been looked at, whatever came of it."""
    for path in paths:
        with suppress(OSError, ValueError):
            os.stat(path)

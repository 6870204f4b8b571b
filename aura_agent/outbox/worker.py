"""The thread that owns the outbox for an event loop: calls go in, results come out as awaits.

Reports that arrive together become one transaction (group commit): whoever waits for one to be durable waits for the
sync that made it so, and shares it with everybody who came meanwhile.

A disk may hang, and then no call comes back. Who has other work than the store gives up then (``silence``).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from aura_agent.background_thread import BackgroundThread
from aura_agent.errors import StoreBusyError, StoreError, StoreSilentError
from aura_agent.outbox.database import reading
from aura_agent.outbox.reader import Readable, Reader
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Report

T = TypeVar("T")


SILENT_S = 5.0  # no single call of the store takes so long on a disk that works
_LOOK_S = 0.5  # how soon somebody who waits sees that the disk is silent
_LEAST_CPU = 0.05  # of a CPU, for a thread that computes on a machine with much else to do
_KEPT_AT_MOST = 1000  # reports of aura-run in memory, while the disk takes none


class Hanging(NamedTuple):
    """For how long a call of the outbox's thread has had no answer; *computes*: it does so, and waits for no disk."""

    took_s: float
    computes: bool

    @classmethod
    def measured(cls, took_s: float, cpu_s: float) -> "Hanging":
        """Return what a call is at that has used *cpu_s* of CPU time so far."""
        return cls(took_s, computes=cpu_s > took_s * _LEAST_CPU)


class _Timed:
    """A thread whose calls are timed."""

    def __init__(self, name: str) -> None:
        self.thread = BackgroundThread(name)
        self._busy: tuple[float, float, int] | None = None  # since when, its CPU time then, the thread
        self.since_s = 0.0  # when the last call began, by the wall clock

    @contextmanager
    def working(self) -> Iterator[None]:
        """In the thread: one call that somebody waits for."""
        self.since_s = time.time()
        self._busy = time.monotonic(), time.thread_time(), threading.get_ident()
        try:
            yield
        finally:
            self._busy = None

    @property
    def hanging(self) -> Hanging:
        busy = self._busy
        if busy is None:
            return Hanging(0.0, computes=False)
        since_s, cpu_s, ident = busy
        took_s = time.monotonic() - since_s
        try:
            computed_s = time.clock_gettime(time.pthread_getcpuclockid(ident)) - cpu_s
        except OSError:
            computed_s = 0.0
        return Hanging.measured(took_s, computed_s)

    @property
    def is_silent(self) -> bool:
        """Whether the disk has not answered the call under way for long."""
        hanging = self.hanging
        return hanging.took_s >= SILENT_S and not hanging.computes


class OutboxWorker:
    """Runs one outbox's methods one after the other in a thread of its own, and *reader*'s queries in another.

    *gives_up*: calls raise StoreSilentError when the disk does not answer; else they wait for it.
    """

    def __init__(self, outbox: Outbox, reader: Reader | None = None, *, gives_up: bool = False) -> None:
        self._outbox = outbox
        self._reader = reader
        self._gives_up = gives_up
        self._is_leaving = False
        self._writing = _Timed("outbox")
        self._reading = _Timed("outbox reader")
        self._pending: list[tuple[Report, asyncio.Future[bool]]] = []
        self._to_keep: list[tuple[bytes, Report, Callable[[StoreError | None], None]]] = []
        self._being_kept: list[Report] = []
        self._pending_lock = threading.Lock()  # over them, for a moment, never over the disk

    async def call(self, function: Callable[[Outbox], T], *, patient: bool = False) -> T:
        """Return ``function(outbox)``, run in the thread; a caller who leaves doesn't undo what was written.

        *patient*: wait as long as the disk takes. Raises StoreError; StoreSilentError: it may still be done later.
        """

        def guarded() -> T:
            with self._writing.working(), reading():
                return function(self._outbox)

        return await self._answer(self._writing, guarded, patient=patient)

    async def read(self, query: Callable[[Readable], T]) -> T:
        """Return ``query(reader)``: it waits for nobody who writes, if there is a reader. Raises StoreError."""
        reader = self._reader
        if reader is None:
            return await self.call(query)

        def guarded() -> T:
            with self._reading.working(), reading():
                return query(reader)

        try:
            return await self._answer(self._reading, guarded)
        except StoreSilentError:
            raise
        except StoreError:
            return await self.call(query)  # where the file is gone, whoever writes may still have it open

    async def _answer(self, timed: _Timed, function: Callable[[], T], *, patient: bool = False) -> T:
        loop = asyncio.get_running_loop()
        if not self._gives_up:
            return await loop.run_in_executor(timed.thread, function)
        if self._is_leaving or not patient:
            self._check_that_it_answers(timed)
        asked = timed.thread.submit(function)
        answer = asyncio.wrap_future(asked)
        answer.add_done_callback(_forget)  # if we leave, nobody else looks
        try:
            await self._wait(answer, timed, patient=patient)
        finally:
            asked.cancel()  # what has not begun, if we leave
        return answer.result()

    async def _wait(self, answer: "asyncio.Future[T]", timed: _Timed, *, patient: bool) -> None:
        """Return once *answer* is there. Raises StoreSilentError."""
        while not answer.done():
            await asyncio.wait({answer}, timeout=max(_LOOK_S, SILENT_S - timed.hanging.took_s))
            if not answer.done() and timed.is_silent and (self._is_leaving or not patient):
                raise StoreSilentError(self._silence(timed))  # also if it answers just now

    def _check_that_it_answers(self, timed: _Timed) -> None:
        if timed.is_silent:
            raise StoreSilentError(self._silence(timed))

    def leave(self) -> None:
        """Be patient with nobody from now on: the program ends."""
        self._is_leaving = True

    @property
    def hanging(self) -> Hanging:
        """What the outbox's thread is at."""
        return self._writing.hanging

    @property
    def silence(self) -> str:
        """Return that the store's disk does not answer, and since when; empty if it does."""
        return next((self._silence(timed) for timed in (self._writing, self._reading) if timed.is_silent), "")

    def _silence(self, timed: _Timed) -> str:
        return silence(self._outbox.directory or "the store", timed.since_s)

    @property
    def unwritten(self) -> list[Report]:
        """The reports of ``keep`` that are not known to be durable yet."""
        with self._pending_lock:
            return [*self._being_kept, *(report for _, report, _ in self._to_keep)]

    def accept(self, report: Report) -> asyncio.Future[bool]:
        """Return what is done once *report* is durable, with True if its run was new, or fails with StoreError."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        with self._pending_lock:
            self._pending.append((report, accepted))
            first = len(self._pending) == 1
        if first:
            self._writing.thread.submit(self._accept_pending, loop)
        return accepted

    def keep(self, line: bytes, report: Report, kept: Callable[[StoreError | None], None]) -> None:
        """Put *report*, which was read in the ``run`` line *line*, into the inbox; from any thread.

        *kept* is called in the outbox's own thread once it is durable, or with what the store says: for it, everything
        else of the outbox waits. It is called at once where too much waits already.
        """
        with self._pending_lock:
            is_full = len(self._to_keep) >= _KEPT_AT_MOST and self._writing.is_silent
            if not is_full:
                self._to_keep.append((line, report, kept))
            first = len(self._to_keep) == 1
        if is_full:
            kept(StoreSilentError(self.silence))
        elif first:
            self._writing.thread.submit(self._keep_pending)

    async def replace(self, outbox: Outbox, reader: Reader | None, first: Callable[[Outbox], T]) -> T:
        """Work on *outbox* from now on, and close the one before; return ``first(outbox)``, before all other calls.

        Raises StoreError: that failed, and all goes on with *outbox*.
        """

        def change() -> T:
            self._outbox.close()
            self._outbox = outbox
            with self._writing.working(), reading():
                return first(outbox)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writing.thread, change)
        finally:
            before, self._reader = self._reader, reader
            if before is not None:
                await loop.run_in_executor(self._reading.thread, before.close)

    async def close(self) -> None:
        """Close the outbox once all calls before this one are done; where its disk does not answer, leave it."""
        try:
            if self._reader is not None:
                await self._answer(self._reading, self._reader.close)
            await self.call(Outbox.close)
        except StoreSilentError:
            pass
        self._reading.thread.close()
        self._writing.thread.close()

    def _keep_pending(self) -> None:
        with self._writing.working():
            self._keep_what_is_pending()

    def _keep_what_is_pending(self) -> None:
        with self._pending_lock:
            batch, self._to_keep = self._to_keep, []
            self._being_kept = [report for _, report, _ in batch]
        problem = None
        try:
            self._outbox.keep({line: report for line, report, _ in batch})
        except StoreError as trouble:
            problem = trouble
        except Exception as trouble:  # noqa: BLE001  # nobody is to wait in vain for what another has said
            problem = StoreError(f"outbox: an error that nobody foresaw: {type(trouble).__name__}")
        for _, _, kept in batch:
            kept(problem)
        self._being_kept = []

    def _accept_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._pending_lock:
            batch, self._pending = self._pending, []
        try:
            with self._writing.working():
                self._accept_batch(batch, loop)
        except StoreBusyError as problem:
            for _, accepted in batch:
                _soon_in(loop, _fail, accepted, problem)
        except Exception:  # noqa: BLE001  # one report may have spoilt it for all
            for pending in batch:
                try:
                    self._accept_batch([pending], loop)
                except Exception as problem:  # noqa: BLE001  # handed to whoever waits for it
                    _soon_in(loop, _fail, pending[1], problem)

    def _accept_batch(self, batch: list[tuple[Report, asyncio.Future[bool]]], loop: asyncio.AbstractEventLoop) -> None:
        new = set(self._outbox.accept([report for report, _ in batch]))
        _soon_in(loop, _resolve, batch, new)


def silence(what: str, since_s: float) -> str:
    """Return, for people, that *what* has not answered since then, in seconds since the Unix epoch."""
    since = datetime.fromtimestamp(since_s, UTC)
    return f"{what} has not answered since {since:%Y-%m-%dT%H:%M:%SZ}: is its disk slow, frozen, locked or gone?"


def _soon_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        pass  # the loop has closed: nobody waits any more


def _resolve(batch: list[tuple[Report, asyncio.Future[bool]]], new: set[str]) -> None:
    for report, accepted in batch:
        if not accepted.done():
            accepted.set_result(report.run_id in new)


def _fail(accepted: asyncio.Future[bool], problem: Exception) -> None:
    if not accepted.done():
        accepted.set_exception(problem)


async def soon(written: asyncio.Future[T], patience_s: float) -> T:
    """Return what *written* gives, if it is there within *patience_s*; else it goes on all the same.

    For whoever has better things to do than to wait for a slow disk, or for somebody's lock. Raises StoreError.
    """
    done, _ = await asyncio.wait({written}, timeout=patience_s)
    if not done:
        written.add_done_callback(_forget)
        raise StoreBusyError(
            f"outbox: the database has taken nothing for {patience_s:g} s: is the disk slow, or locked?"
        )
    return written.result()


def _forget(written: asyncio.Future[T]) -> None:
    """However it went, nobody waits for it any more."""
    if not written.cancelled():
        written.exception()

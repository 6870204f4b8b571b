"""The thread that owns the outbox for an event loop: calls go in, results come out as awaits.

Reports that arrive together become one transaction (group commit): whoever waits for one to be durable waits for the
sync that made it so, and shares it with everybody who came meanwhile.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from aura_agent.errors import StoreBusyError, StoreError
from aura_agent.outbox.database import reading
from aura_agent.outbox.reader import Readable, Reader
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Report

T = TypeVar("T")


_IDLE = (0.0, 0.0, None)
_LEAST_CPU = 0.05  # of a CPU, for a thread that computes on a machine with much else to do


class Hanging(NamedTuple):
    """For how long a call of the outbox's thread has had no answer; *computes*: it does so, and waits for no disk."""

    took_s: float
    computes: bool

    @classmethod
    def measured(cls, took_s: float, cpu_s: float) -> "Hanging":
        """Return what a call is at that has used *cpu_s* of CPU time so far."""
        return cls(took_s, computes=cpu_s > took_s * _LEAST_CPU)


class OutboxWorker:
    """Runs one outbox's methods one after the other in a thread of its own, and *reader*'s queries in another."""

    def __init__(self, outbox: Outbox, reader: Reader | None = None) -> None:
        self._outbox = outbox
        self._reader = reader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._reading_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox reader")
        self._pending: list[tuple[Report, asyncio.Future[bool]]] = []
        self._to_keep: list[tuple[bytes, Report, Callable[[StoreError | None], None]]] = []
        self._busy: tuple[float, float, int | None] = _IDLE  # since when, its CPU time then, the thread
        self._pending_lock = threading.Lock()  # over both, for a moment, never over the disk

    async def call(self, function: Callable[[Outbox], T]) -> T:
        """Return ``function(outbox)``, run in the thread; a cancelled caller doesn't undo what was written.

        Raises StoreError.
        """

        def guarded() -> T:
            with self._working(), reading():
                return function(self._outbox)

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    async def read(self, query: Callable[[Readable], T]) -> T:
        """Return ``query(reader)``: it waits for nobody who writes, if there is a reader. Raises StoreError."""
        reader = self._reader
        if reader is None:
            return await self.call(query)

        def guarded() -> T:
            with reading():
                return query(reader)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading_thread, guarded)
        except StoreError:
            return await self.call(query)  # where the file is gone, whoever writes may still have it open

    @property
    def hanging(self) -> Hanging:
        """What the outbox's thread is at."""
        since_s, cpu_s, ident = self._busy
        if ident is None:
            return Hanging(0.0, computes=False)
        took_s = time.monotonic() - since_s
        try:
            computed_s = time.clock_gettime(time.pthread_getcpuclockid(ident)) - cpu_s
        except OSError:
            computed_s = 0.0
        return Hanging.measured(took_s, computed_s)

    def accept(self, report: Report) -> asyncio.Future[bool]:
        """Return what is done once *report* is durable, with True if its run was new, or fails with StoreError."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        with self._pending_lock:
            self._pending.append((report, accepted))
            first = len(self._pending) == 1
        if first:
            self._thread.submit(self._accept_pending, loop)
        return accepted

    def keep(self, line: bytes, report: Report, kept: Callable[[StoreError | None], None]) -> None:
        """Put *report*, which was read in the ``run`` line *line*, into the inbox; from any thread.

        *kept* is called in the outbox's own thread once it is durable, or with what the store says: for it, everything
        else of the outbox waits.
        """
        with self._pending_lock:
            self._to_keep.append((line, report, kept))
            first = len(self._to_keep) == 1
        if first:
            self._thread.submit(self._keep_pending)

    async def replace(self, outbox: Outbox, reader: Reader | None, first: Callable[[Outbox], T]) -> T:
        """Work on *outbox* from now on, and close the one before; return ``first(outbox)``, before all other calls.

        Raises StoreError: that failed, and all goes on with *outbox*.
        """

        def change() -> T:
            self._outbox.close()
            self._outbox = outbox
            with reading():
                return first(outbox)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, change)
        finally:
            before, self._reader = self._reader, reader
            if before is not None:
                await loop.run_in_executor(self._reading_thread, before.close)

    async def close(self) -> None:
        """Close the outbox once all calls before this one are done."""
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._reading_thread, self._reader.close)
        await self.call(Outbox.close)
        self._reading_thread.shutdown(wait=False)
        self._thread.shutdown(wait=False)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """In the outbox's thread: one call that somebody waits for."""
        self._busy = time.monotonic(), time.thread_time(), threading.get_ident()
        try:
            yield
        finally:
            self._busy = _IDLE

    def _keep_pending(self) -> None:
        with self._working():
            self._keep_what_is_pending()

    def _keep_what_is_pending(self) -> None:
        with self._pending_lock:
            batch, self._to_keep = self._to_keep, []
        problem = None
        try:
            self._outbox.keep({line: report for line, report, _ in batch})
        except StoreError as trouble:
            problem = trouble
        except Exception as trouble:  # noqa: BLE001  # nobody is to wait in vain for what another has said
            problem = StoreError(f"outbox: an error that nobody foresaw: {type(trouble).__name__}")
        for _, _, kept in batch:
            kept(problem)

    def _accept_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._pending_lock:
            batch, self._pending = self._pending, []
        try:
            with self._working():
                self._accept_batch(batch, loop)
        except StoreBusyError as problem:
            for _, accepted in batch:
                loop.call_soon_threadsafe(_fail, accepted, problem)
        except Exception:  # noqa: BLE001  # one report may have spoilt it for all
            for pending in batch:
                try:
                    self._accept_batch([pending], loop)
                except Exception as problem:  # noqa: BLE001  # handed to whoever waits for it
                    loop.call_soon_threadsafe(_fail, pending[1], problem)

    def _accept_batch(self, batch: list[tuple[Report, asyncio.Future[bool]]], loop: asyncio.AbstractEventLoop) -> None:
        new = set(self._outbox.accept([report for report, _ in batch]))
        loop.call_soon_threadsafe(_resolve, batch, new)


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

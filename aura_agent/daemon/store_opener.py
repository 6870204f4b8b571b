"""Opening the daemon's store. A full, read-only or broken disk keeps no job from running: the store is opened later."""

import asyncio
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

from aura_agent.background_thread import run_in_thread
from aura_agent.delivery.observer import Observer
from aura_agent.errors import DaemonError, StoreError
from aura_agent.outbox.reader import Reader
from aura_agent.outbox.store import Outbox, open_blank_store, open_copy_of_store, open_outbox
from aura_agent.outbox.worker import SILENT_S, OutboxWorker, silence
from aura_agent.private_files import open_private
from aura_agent.report import places
from aura_agent.report.account import Account

_STORE_TROUBLE_S = 5.0
_WRONG_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)


class StoreOpener:
    """The daemon's store in *directory*: opened at once, or as soon as its disk takes something again.

    Jobs don't wait for that. ``problem`` says what keeps it from being opened; empty once it is.
    """

    def __init__(self, directory: str, observer: Observer, stack: AsyncExitStack) -> None:
        self._directory = directory
        self._observer = observer
        self._stack = stack
        self._is_locked = False
        self._opening: asyncio.Future[tuple[Outbox, Reader | None]] | None = None  # on a disk that does not answer
        self.problem = ""

    @property
    def silence(self) -> str:
        """Return that the disk has not answered since we started; empty if it has."""
        return self.problem if self._opening is not None and not self._opening.done() else ""

    async def open(self) -> tuple[Outbox, Reader | None]:
        """Return the store and who reads it beside us; if it can't be opened, a copy in memory, which accepts nothing.

        The copy holds what can be read of the store; of a disk that does not answer, nothing. Raises DaemonError:
        another daemon serves it. Raises StoreError: it is no place for a store, which only people can change: no
        directory, somebody else's, or of a newer version.
        """
        since_s = time.time()
        opening = run_in_thread(self._open_or_copy, "store")
        done, _ = await asyncio.wait({opening}, timeout=SILENT_S)
        if done:
            return opening.result()
        self._opening = opening
        self.problem = silence(self._directory, since_s)
        self._observer.note("store.failed", error=self.problem)
        return open_blank_store("daemon", unusable=self.problem), None

    async def begin(self, worker: OutboxWorker, begin: Callable[[Outbox], list[str]]) -> list[str]:
        """Let *worker* begin to work on what ``open`` returned; *begin* takes it over and returns jobs of lost runs.

        A store that takes nothing after all is exchanged for its copy.
        """
        try:
            return await worker.call(begin, patient=True)  # what earlier daemons left may take a while
        except StoreError as problem:
            if self.problem:
                raise
            copy = await run_in_thread(partial(self._copy, problem), "store")
            return await worker.replace(copy, None, begin)

    async def reopen(
        self, worker: OutboxWorker, begin: Callable[[Outbox], list[str]], opened: Callable[[], Awaitable[None]]
    ) -> None:
        """Try again until the store can be opened and takes something, and let *worker* work on it; then *opened*."""
        while self.problem:
            outbox, reader = await self._next_try()
            if reader is None:
                if outbox is not None:  # a copy: now something of the store can be read
                    await worker.replace(outbox, None, begin)
                continue
            assert outbox is not None
            try:
                lost = await worker.replace(outbox, reader, begin)
            except StoreError as problem:
                await worker.replace(await run_in_thread(partial(self._copy, problem), "store"), None, begin)
                continue
            self.problem = ""
            self._observer.note("store.recovered")
            for job in lost:
                self._observer.note("run.lost", job=job)
            await opened()

    async def _next_try(self) -> tuple[Outbox | None, Reader | None]:
        """Return what has come of opening the store once more; the disk is not asked twice at a time."""
        if self._opening is None:
            await asyncio.sleep(_STORE_TROUBLE_S)
            return await run_in_thread(self._opened, "store")
        try:
            return await asyncio.shield(self._opening)
        except (StoreError, DaemonError) as problem:  # a daemon that the disk kept from ending has it for a moment
            self.problem = str(problem)
            return None, None
        finally:
            if self._opening.done():
                self._opening = None

    def _open_or_copy(self) -> tuple[Outbox, Reader | None]:
        outbox = None
        try:
            self._lock()
            outbox = open_outbox(self._directory, "daemon")
            self._lock()  # the directory may not have been there before
            return outbox, outbox.reader()
        except StoreError as problem:
            if outbox is not None:
                outbox.close()
            if not _may_pass(problem):
                raise
            return self._copy(problem), None

    def _copy(self, problem: StoreError) -> Outbox:
        what = str(problem) if self._directory in str(problem) else f"{self._directory}: {problem}"
        if not self.problem:
            self._observer.note("store.failed", error=what)
        self.problem = what
        return open_copy_of_store(self._directory, "daemon", unusable=self.problem)

    def _opened(self) -> tuple[Outbox | None, Reader | None]:
        try:
            outbox = open_outbox(self._directory, "daemon")
        except StoreError:
            return None, None
        try:
            self._lock()
            return outbox, outbox.reader()
        except (DaemonError, StoreError):
            outbox.close()
            return None, None

    def _lock(self) -> None:
        """Hold the store as its daemon, as long as we live; where no file can be made, go without.

        Raises DaemonError: another one does.
        """
        if self._is_locked:
            return
        path = os.path.join(self._directory, places.DAEMON_LOCK)
        try:
            lock = open_private(path, os.O_RDWR)
        except OSError:
            try:
                lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)  # on a read-only file system
            except OSError:
                return
        self._stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonError(
                f"{self._directory}: another daemon serves this store: stop it, or set another state_dir"
            ) from None
        self._is_locked = True


def _may_pass(problem: StoreError) -> bool:
    """Whether it is the disk's trouble, and not that of whoever chose the place."""
    cause = problem.__cause__
    return isinstance(cause, sqlite3.Error) or (isinstance(cause, OSError) and cause.errno not in _WRONG_PLACE)


def take_over(outbox: Outbox, account: Account | None) -> list[str]:
    """Begin to serve a store with *account*; return the jobs of runs that earlier daemons left without an outcome."""
    outbox.enter(account)
    outbox.unpark()
    return outbox.lose_open_runs()

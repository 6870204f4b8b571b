"""The limiter: every request that uses a token waits here for its turn, whichever process of this host sends it.

One file per token under ``budget/`` in the state directory holds its ledger, changed under a lock. Where that can't be
used (no directory, a full disk, one that hangs), the ledger in memory goes on: a budget is there to be kept, not to
keep work from being done. Users don't share it, as they share no directory that one of them could not spoil for the
others: between users, as between hosts, it is the API's own answers that steer.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from aura_agent.api.errors import ApiError, BudgetSpent, RateLimited
from aura_agent.api.ledger import WINDOWS, Ledger, Purpose
from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.api.wire import Budget
from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock
from aura_agent.private_files import lock, make_directory, open_private
from aura_agent.report.account import account_of
from aura_agent.secret import Secret

DIRECTORY = "budget"
_MAX_BYTES = 1 << 18
_DISK_S = 3.0  # no request waits for longer than that for the file
_LONGEST_SLEEP_S = 30.0  # the loop's clock stands still in a suspend, and answers to others shorten a wait
_UNTOLD_S = 60.0  # a 429 without Retry-After, or with one of zero, which says nothing: the shorter window will be over

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")


def held_s(refusal: RateLimited) -> float:
    """Return for how long a 429 holds back all further requests."""
    return refusal.retry_after_s or _UNTOLD_S


class Limiter:
    """The budget of one *token* at one API.

    *directory* is the state directory, which exists and is ours; None: for this object alone. *boot_id* says which
    boot the clock counts. *on_wait* hears how long (s) a request has to wait, each time one begins to.
    """

    def __init__(
        self,
        token: Secret,
        base_url: str,
        clock: Clock,
        rng: random.Random,
        *,
        directory: str | None = None,
        boot_id: str = "",
        on_wait: Callable[[float], None] = lambda _: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        fingerprint = account_of(base_url, token).fingerprint
        self._path = None if directory is None else os.path.join(directory, DIRECTORY, fingerprint)
        self._clock = clock
        self._rng = rng
        self._boot_id = boot_id
        self._on_wait = on_wait
        self._sleep = sleep
        self._ledger = Ledger(boot_id)
        self._garbled: bytes | None = None
        self._hanging: set[asyncio.Future[None]] = set()  # work on the disk that took too long

    async def admit(self, purpose: Purpose, patience_s: float) -> int:
        """Wait for the turn of a request for *purpose*, and count it; return what ``settle`` knows it by.

        Raises BudgetSpent at once if its turn won't come within *patience_s*.
        """

        def take(ledger: Ledger, now_ns: int) -> tuple[int, int]:
            wait_ns = ledger.wait_ns(purpose, now_ns)
            return wait_ns, 0 if wait_ns else ledger.reserve(now_ns)

        give_up_ns = self._clock.read().boot_ns + patience_s * 1e9
        waiting = False
        while True:
            wait_ns, reserved_ns = await self._change(take)
            if not wait_ns:
                return reserved_ns
            if self._clock.read().boot_ns + wait_ns > give_up_ns:
                raise BudgetSpent(wait_ns / 1e9)
            if not waiting:
                waiting = True
                self._on_wait(wait_ns / 1e9)
            # Each a little later: those who wait for the same moment don't all come back in it.
            await self._sleep(min(wait_ns / 1e9 * (1 + self._rng.uniform(0.0, 0.05)), _LONGEST_SLEEP_S))

    async def settle(self, reserved_ns: int, left: Budget, problem: ApiError | None = None) -> None:
        """Note the answer to a request: what is *left* of the windows, and which *problem* it was, if one.

        A Retry-After says when a window that is used up is over, so what is left of it says nothing more.
        """

        def note(ledger: Ledger, now_ns: int) -> None:
            refusal = problem if isinstance(problem, RateLimited) else None
            says_when = refusal is not None and bool(refusal.retry_after_s)
            ledger.settle(reserved_ns, now_ns, (None, None) if says_when else (left.minute, left.hour))
            if refusal is not None:
                ledger.hold(now_ns + int(after_retry_after_s(held_s(refusal), self._rng) * 1e9))

        await self._change(note)

    async def _change(self, change: Callable[[Ledger, int], T]) -> T:
        """Let *change* work on the ledger as it is now; nobody else does meanwhile."""
        if self._path is None or self._hangs():
            return self._apply(change)
        file = _LockedFile(self._path)
        opening = run_in_thread(file.open, "budget")
        is_open = False
        try:
            is_open = await self._is_done(opening)
        finally:
            if not is_open:
                opening.add_done_callback(lambda _: run_in_thread(partial(file.close, None), "budget"))
        if not is_open:
            return self._apply(change)
        content = None
        try:
            self._catch_up(file.content)
            result = self._apply(change)
            content = msgspec.json.encode(self._ledger)
        finally:
            await self._is_done(run_in_thread(partial(file.close, content), "budget"))
        return result

    def _hangs(self) -> bool:
        """Whether the disk has not answered yet what it was asked before."""
        self._hanging = {work for work in self._hanging if not work.done()}
        return bool(self._hanging)

    async def _is_done(self, work: asyncio.Future[None]) -> bool:
        """Whether *work* on the disk is done soon; if it isn't, the ledger in memory goes on alone."""
        try:
            done, _ = await asyncio.wait({work}, timeout=_DISK_S)
        except asyncio.CancelledError:
            self._hanging.add(work)
            raise
        if not done:
            self._hanging.add(work)
        return bool(done)

    def _catch_up(self, written: bytes | None) -> None:
        """Take what others have written since; ours stays where the file is older, as after a write that failed."""
        if written is None:
            return
        try:
            ledger = msgspec.json.decode(written, type=Ledger)
        except ValueError:
            if written != self._garbled:  # else it can't be replaced either, and that minute has begun
                # What it held is unknown: leave the shorter window alone, and let the answers tell of the longer.
                self._ledger.hold(self._clock.read().boot_ns + WINDOWS[0].length_ns)
                self._garbled = written
            return
        of_this_boot = ledger.boot_id == self._boot_id
        if ledger.written_ns >= self._ledger.written_ns if of_this_boot else self._ledger.written_ns == 0:
            self._ledger = ledger

    def _apply(self, change: Callable[[Ledger, int], T]) -> T:
        now_ns = self._clock.read().boot_ns
        self._ledger.bring_to(self._boot_id, now_ns)
        return change(self._ledger, now_ns)


class _LockedFile:
    """The ledger's file under its lock, for threads: each call may block on the disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock: int | None = None
        self.content: bytes | None = None

    def open(self) -> None:
        """Take the lock, if it can be had, and read the file; 0600 in a directory of 0700."""
        try:
            make_directory(os.path.dirname(self._path))
            self._lock = open_private(self._path + ".lock", os.O_RDWR)
            lock(self._lock)
        except OSError:
            pass  # a ledger that others may write, too, is better than none
        self.content = _read(self._path)

    def close(self, content: bytes | None) -> None:
        """Write *content*, if there is any and it can be done, and give the lock back."""
        try:
            if content is not None:
                _write(self._path, content)
        except OSError:
            pass
        finally:
            if self._lock is not None:
                os.close(self._lock)


def _read(path: str) -> bytes | None:
    """Return what the file holds, None if it isn't there or can't be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(file, _MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(file)


def _write(path: str, content: bytes) -> None:
    """Replace the file as a whole. Raises OSError. A power cut may take it: the next boot's ledger is empty then."""
    made = f"{path}.new"
    file = open_private(made, os.O_WRONLY | os.O_TRUNC)
    try:
        if os.write(file, content) != len(content):
            raise OSError(28, "no space left", made)
    finally:
        os.close(file)
    os.replace(made, path)

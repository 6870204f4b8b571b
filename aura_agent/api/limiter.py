"""The limiter: every request that uses a token waits here for its turn, whichever process of this host sends it.

One file per token under ``budget/`` in the state directory holds its ledger, changed under a lock. Where that can't be
used (no directory, a full disk), the ledger in memory goes on: a budget is there to be kept, not to keep work from
being done. Users don't share it, as they share no directory that one of them could not spoil for the others: between
users, as between hosts, it is the API's own answers that steer.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import TypeVar

import msgspec

from aura_agent.api.errors import ApiError, BudgetSpent, RateLimited
from aura_agent.api.ledger import WINDOWS, Ledger, Purpose
from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.api.wire import Budget
from aura_agent.clock import Clock
from aura_agent.private_files import make_directory, open_private
from aura_agent.report.account import account_of
from aura_agent.secret import Secret

DIRECTORY = "budget"
_MAX_BYTES = 1 << 18
_LOCK_TRIES, _LOCK_PAUSE_S = 200, 0.005  # it is held for a moment only; a process that was stopped must not stop us
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
        if self._path is None:
            return self._apply(change)
        async with _locked(self._path):
            self._catch_up(self._path)
            result = self._apply(change)
            with suppress(OSError):
                _write(self._path, msgspec.json.encode(self._ledger))
            return result

    def _catch_up(self, path: str) -> None:
        """Take what others have written since; ours stays where the file is older, as after a write that failed."""
        written = _read(path)
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


@asynccontextmanager
async def _locked(path: str) -> AsyncIterator[None]:
    """Hold the lock of the file at *path*, if it can be had; 0600 in a directory of 0700."""
    try:
        make_directory(os.path.dirname(path))
        lock = open_private(path + ".lock", os.O_RDWR)
    except OSError:
        yield
        return
    try:
        for _ in range(_LOCK_TRIES):
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                break
            except OSError:
                await asyncio.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(lock)


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

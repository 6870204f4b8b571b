"""The thread that owns the outbox for an event loop: calls go in, results come out as awaits.

Reports that arrive together become one transaction (group commit): whoever waits for a report's acceptance waits for
the sync that made it durable, and shares it with everybody who came meanwhile.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Report

T = TypeVar("T")


class OutboxWorker:
    """Runs one outbox's methods one after the other in a thread of its own."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._pending: list[tuple[Report, asyncio.Future[bool]]] = []

    async def call(self, function: Callable[[Outbox], T]) -> T:
        """Return ``function(outbox)``, run in the thread; a cancelled caller doesn't undo what was written."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, self._outbox)

    async def accept(self, report: Report) -> bool:
        """Return once *report* is durable: True if its run was new. Raises StoreError."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        self._pending.append((report, accepted))
        if len(self._pending) == 1:
            loop.run_in_executor(self._thread, self._accept_pending, loop)
        return await accepted

    async def close(self) -> None:
        """Close the outbox once all calls before this one are done."""
        await self.call(Outbox.close)
        self._thread.shutdown(wait=False)

    def _accept_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        # Appending and this swap both hold the interpreter's lock: each report is in exactly one batch.
        batch, self._pending = self._pending, []
        try:
            new = set(self._outbox.accept([report for report, _ in batch]))
        except Exception as problem:  # noqa: BLE001  # handed to everybody who waits for it
            loop.call_soon_threadsafe(_fail, batch, problem)
        else:
            loop.call_soon_threadsafe(_resolve, batch, new)


def _resolve(batch: list[tuple[Report, asyncio.Future[bool]]], new: set[str]) -> None:
    for report, accepted in batch:
        if not accepted.done():
            accepted.set_result(report.run_id in new)


def _fail(batch: list[tuple[Report, asyncio.Future[bool]]], problem: Exception) -> None:
    for _, accepted in batch:
        if not accepted.done():
            accepted.set_exception(problem)

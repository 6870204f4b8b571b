"""Looks at the disk and at processes, aside from the event loop and from everything else.

Each in a daemonic thread of its own: a network file system that hangs holds up neither other looks nor the look-up of
host names, which share the loop's own threads, nor the end of the program.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def aside(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Start *function* in a thread and return what will hold its result, or what it raised."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, problem: Exception | None) -> None:
        if future.done():
            return
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, problem = None, None
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001  # handed to whoever waits for it
            problem = exc
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            pass  # the loop has closed: nobody waits any more

    threading.Thread(target=work, name=name, daemon=True).start()
    return future

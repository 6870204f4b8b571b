"""Threads for what may block on a disk, beside the event loop: nothing ever joins them, the end of the program least.

A file system that hangs (NFS, a frozen disk) then holds up neither the loop, nor other work, nor the look-up of host
names, which shares the loop's own threads.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class BackgroundThread(Executor):
    """One thread that does what it is given, one thing after the other. It begins with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Return what will hold the result of the call; from any thread."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as problem:  # noqa: BLE001  # handed to whoever waits for it
                future.set_exception(problem)

        self._work.put(work)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return future

    def close(self) -> None:
        """End the thread once all is done that it was given; waits for nothing."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def run_in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Start *function* in a thread of its own and return what will hold its result, or what it raised."""
    thread = BackgroundThread(name)
    future = asyncio.wrap_future(thread.submit(function))
    thread.close()
    return future

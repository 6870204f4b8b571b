"""An event loop whose time is told by nobody: where it would sleep, it goes on at the time that it waited for."""

import asyncio
import selectors
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aura_agent.clock import Reading

# Timers are never early. Without it a loop that is half a year old stands still: asyncio takes a timer for due if it
# is so by a nanosecond, which floats of that size don't know.
_LATE_S = 1e-6


class TravellingLoop(asyncio.SelectorEventLoop):
    """Threads are as real as ever, and time stands still while one works; only timers cost nothing."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self._working = 0
        super().__init__(_Selector(self._pass))

    def time(self) -> float:
        return self.elapsed_s

    def run_in_executor(  # type: ignore[override]  # its type variables say no more to us
        self, executor: Any, func: Any, *args: Any
    ) -> "asyncio.Future[Any]":
        future = super().run_in_executor(executor, func, *args)
        self._working += 1
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: object) -> None:
        self._working -= 1

    def _pass(self, seconds: float) -> bool:
        """Let time pass; False: somebody works."""
        if not self._working:
            self.elapsed_s += seconds + _LATE_S
        return not self._working


class TravellingClock:
    """The loop's time as both clocks, begun at *start*; ``step_s`` is by how much the wall clock was set since."""

    def __init__(self, loop: TravellingLoop, start: datetime) -> None:
        self._loop = loop
        self._start_ns = int(start.timestamp()) * 10**9
        self.step_s = 0

    def read(self) -> Reading:
        boot_ns = round(self._loop.elapsed_s * 1e9)
        return Reading(boot_ns, self._start_ns + boot_ns + self.step_s * 10**9)

    @property
    def wall(self) -> datetime:
        return self.read().wall.astimezone(UTC)


class _Selector(selectors.DefaultSelector):
    def __init__(self, let_pass: Callable[[float], bool]) -> None:
        super().__init__()
        self._let_pass = let_pass

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        return ready if ready or self._let_pass(timeout) else super().select(None)

"""One timer for the next instant at which something is due: nothing polls while nothing is.

It may ring late (a busy loop, a suspend) or early (a wall clock that was set): whoever is rung looks at the clock.
"""

import asyncio
from collections.abc import Callable

from aura_agent.clock import Clock

_SHORTEST_S = 0.001
_LONGEST_S = 3600.0  # the loop's clock stands still in a suspend: look again now and then


class Alarm:
    """Calls *ring* with the time it is (µs since the epoch) at the instant that was set last. Belongs to one loop."""

    def __init__(self, clock: Clock, ring: Callable[[int], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self.due_us: int | None = None

    def now_us(self) -> int:
        """Wall time, in microseconds since the epoch."""
        return self._clock.read().wall_ns // 1000

    def set(self, due_us: int | None) -> None:
        """Ring at *due_us* and at no other time; None: not at all."""
        self.stop()
        self.due_us = due_us
        if due_us is not None:
            delay_s = min(max((due_us - self.now_us()) / 1e6, _SHORTEST_S), _LONGEST_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._rung)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rung(self) -> None:
        self._timer = None
        self._ring(self.now_us())

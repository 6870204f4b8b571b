"""The judge: opens the incidents of missed deadlines, on one timer for the next of them.

Nothing polls and no heartbeat has a task of its own. The timer may be late (a busy loop, a suspend, a wall clock that
jumps): whoever reads or writes calls ``settle`` first, so that nobody sees a heartbeat that should have gone down.
"""

import asyncio
import sqlite3

from aura_agent.clock import Clock
from aura_agent.devserver.database import transaction
from aura_agent.devserver.tables import heartbeats

_SHORTEST_S = 0.001
_LONGEST_S = 3600.0  # the loop's clock stands still in a suspend: look again now and then


class Judge:
    """Judges the heartbeats of one database. Belongs to one event loop."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._next_us: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Judge what fell due while nobody watched, and watch from now on."""
        self._judge(self.now_us())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def now_us(self) -> int:
        return self._clock.read().wall_ns // 1000

    def settle(self, now_us: int) -> None:
        """Bring the incidents up to *now_us*; costs a comparison while nothing is due."""
        if self._next_us is not None and now_us > self._next_us:
            self._judge(now_us)

    def expect(self, deadline_us: int | None) -> None:
        """A row waits for *deadline_us* from now on. A deadline that moved back needs no word: the timer looks."""
        if deadline_us is not None and (self._next_us is None or deadline_us < self._next_us):
            self._arm(deadline_us, self.now_us())

    def _judge(self, now_us: int) -> None:
        rows = heartbeats.overdue(self._db, now_us)
        if rows:
            with transaction(self._db):
                for row in rows:
                    heartbeats.apply_rules(self._db, row, now_us)
        self._arm(heartbeats.next_deadline_us(self._db), now_us)

    def _arm(self, deadline_us: int | None, now_us: int) -> None:
        self.stop()
        self._next_us = deadline_us
        if deadline_us is not None:
            delay_s = min(max((deadline_us + 1 - now_us) / 1e6, _SHORTEST_S), _LONGEST_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._judge(self.now_us())

"""The judge: opens the incidents of missed deadlines, on one timer for the next of them.

Nothing polls and no heartbeat has a task of its own. Since the timer may be late, whoever reads or writes calls
``settle`` first, so that nobody sees a heartbeat that should have gone down.
"""

import sqlite3

from aura_agent.clock import Clock
from aura_agent.devserver.alarm import Alarm
from aura_agent.devserver.database import transaction
from aura_agent.devserver.tables import heartbeats


class Judge:
    """Judges the heartbeats of one database. Belongs to one event loop."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db = db
        self._alarm = Alarm(clock, self._judge)

    def start(self) -> None:
        """Judge what fell due while nobody watched, and watch from now on."""
        self._judge(self._alarm.now_us())

    def stop(self) -> None:
        self._alarm.stop()

    def settle(self, now_us: int) -> None:
        """Bring the incidents up to *now_us*; costs a comparison while nothing is due."""
        if self._alarm.due_us is not None and now_us >= self._alarm.due_us:
            self._judge(now_us)

    def expect(self, deadline_us: int | None) -> None:
        """A row waits for *deadline_us* from now on. A deadline that moved back needs no word: the timer looks."""
        if deadline_us is not None and (self._alarm.due_us is None or deadline_us < self._alarm.due_us):
            self._alarm.set(_late_us(deadline_us))

    def _judge(self, now_us: int) -> None:
        rows = heartbeats.overdue(self._db, now_us)
        if rows:
            with transaction(self._db):
                for row in rows:
                    heartbeats.apply_rules(self._db, row, now_us)
        self._alarm.set(_late_us(heartbeats.next_deadline_us(self._db)))


def _late_us(deadline_us: int | None) -> int | None:
    """Return the first instant at which a ping is late: at the deadline itself it is still in time."""
    return None if deadline_us is None else deadline_us + 1

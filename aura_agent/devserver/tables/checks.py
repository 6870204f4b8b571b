"""The checks of monitors: what each probe found. The newest thousand of a monitor are kept."""

import sqlite3
import uuid
from dataclasses import dataclass

from aura_agent.devserver.paging import Page
from aura_agent.devserver.probes import Verdict

KEPT = 1000
_COLUMNS = "id, monitor_id, status, status_code, response_time_ms, checked_us"


@dataclass(frozen=True, slots=True)
class Check:
    """One row; *status_code* and *response_time_ms* are None where no answer came."""

    id: str
    monitor_id: str
    status: Verdict
    status_code: int | None
    response_time_ms: int | None
    checked_us: int

    @property
    def created_us(self) -> int:
        return self.checked_us


def new_id() -> str:
    return str(uuid.uuid4())


def add(db: sqlite3.Connection, check: Check) -> None:
    """Store *check*, and forget the monitor's oldest ones past those that are kept."""
    db.execute(
        f"INSERT INTO checks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (
            check.id,
            check.monitor_id,
            check.status,
            check.status_code,
            check.response_time_ms,
            check.checked_us,
        ),
    )
    db.execute(
        "DELETE FROM checks WHERE id IN (SELECT id FROM checks WHERE monitor_id = ?"
        " ORDER BY checked_us DESC, id DESC LIMIT -1 OFFSET ?)",
        (check.monitor_id, KEPT),
    )


def page_of(db: sqlite3.Connection, monitor_id: str, page: Page) -> list[Check]:
    """Return *page* and one row more."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM checks WHERE monitor_id = ? AND (checked_us, id) < (?, ?)"
        " ORDER BY checked_us DESC, id DESC LIMIT ?",
        (monitor_id, page.before_us, page.before_id, page.limit + 1),
    )
    return [Check(*row) for row in rows]


def all_of(db: sqlite3.Connection, monitor_id: str) -> list[Check]:
    """Return every check of the monitor that is kept, oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM checks WHERE monitor_id = ? ORDER BY checked_us, id", (monitor_id,))
    return [Check(*row) for row in rows]

"""Incidents. A missed deadline opens at most one, however often it is judged."""

import sqlite3
import uuid
from dataclasses import dataclass, replace
from typing import Literal

from aura_agent.devserver.paging import Page

_COLUMNS = "id, heartbeat_id, monitor_id, started_us, resolved_us, resolution_notes, created_us"


@dataclass(frozen=True, slots=True)
class Incident:
    """One row; instants in microseconds since the epoch."""

    id: str
    heartbeat_id: str | None
    monitor_id: str | None
    started_us: int
    resolved_us: int | None
    resolution_notes: str | None
    created_us: int

    @property
    def status(self) -> Literal["open", "resolved"]:
        return "open" if self.resolved_us is None else "resolved"


def open_for_heartbeat(
    db: sqlite3.Connection, organization_id: str, heartbeat_id: str, *, started_us: int, now_us: int
) -> None:
    """Open the incident of the deadline *started_us*, unless it exists (resolved by hand, perhaps)."""
    db.execute(
        "INSERT INTO incidents (id, organization_id, heartbeat_id, started_us, created_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (heartbeat_id, started_us) DO NOTHING",
        (str(uuid.uuid4()), organization_id, heartbeat_id, started_us, now_us),
    )


def resolve_for_heartbeat(db: sqlite3.Connection, heartbeat_id: str, now_us: int) -> None:
    """Resolve what is open for *heartbeat_id*."""
    db.execute(
        "UPDATE incidents SET resolved_us = ? WHERE heartbeat_id = ? AND resolved_us IS NULL", (now_us, heartbeat_id)
    )


def open_for_monitor(db: sqlite3.Connection, organization_id: str, monitor_id: str, started_us: int) -> None:
    """Open an incident of *monitor_id*, which a check at *started_us* found down."""
    db.execute(
        "INSERT INTO incidents (id, organization_id, monitor_id, started_us, created_us) VALUES (?, ?, ?, ?, ?)",
        (str(uuid.uuid4()), organization_id, monitor_id, started_us, started_us),
    )


def resolve_for_monitor(db: sqlite3.Connection, monitor_id: str, now_us: int) -> None:
    """Resolve what is open for *monitor_id*."""
    db.execute(
        "UPDATE incidents SET resolved_us = ? WHERE monitor_id = ? AND resolved_us IS NULL", (now_us, monitor_id)
    )


def delete_of_monitor(db: sqlite3.Connection, monitor_id: str) -> None:
    db.execute("DELETE FROM incidents WHERE monitor_id = ?", (monitor_id,))


def resolve(db: sqlite3.Connection, incident: Incident, notes: str | None, now_us: int) -> Incident:
    """Resolve *incident* by hand."""
    db.execute("UPDATE incidents SET resolved_us = ?, resolution_notes = ? WHERE id = ?", (now_us, notes, incident.id))
    return replace(incident, resolved_us=now_us, resolution_notes=notes)


def find(db: sqlite3.Connection, organization_id: str, incident_id: str) -> Incident | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM incidents WHERE id = ? AND organization_id = ?",  # a constant
        (incident_id, organization_id),
    ).fetchone()
    return None if row is None else Incident(*row)


def page_of(db: sqlite3.Connection, organization_id: str, page: Page) -> list[Incident]:
    """Return *page* and one row more."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM incidents WHERE organization_id = ? AND (created_us, id) < (?, ?)"
        " ORDER BY created_us DESC, id DESC LIMIT ?",
        (organization_id, page.before_us, page.before_id, page.limit + 1),
    )
    return [Incident(*row) for row in rows]


def all_of(db: sqlite3.Connection) -> list[Incident]:
    """Return every incident, oldest first."""
    return [Incident(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM incidents ORDER BY created_us, rowid")]

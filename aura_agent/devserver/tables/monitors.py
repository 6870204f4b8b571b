"""Monitors. ``found`` is what the last check found; ``due_us`` when the next is due, None while it is under way.

A check that finds the monitor down after it was not opens an incident, one that finds it up resolves what is open. So
an incident that was resolved by hand is not opened again as long as the monitor stays down.
"""

import sqlite3
import uuid
from dataclasses import dataclass, replace

from aura_agent.devserver import probes
from aura_agent.devserver.paging import Page
from aura_agent.devserver.tables import checks, incidents
from aura_agent.devserver.tables.checks import Check

_COLUMNS = "id, organization_id, team_id, name, url, check_interval, paused, found, due_us, created_us, updated_us"


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """One row: lengths in seconds, instants in microseconds since the epoch."""

    id: str
    organization_id: str
    team_id: str | None
    name: str
    url: str
    check_interval: int
    paused: int
    found: probes.MonitorStatus
    due_us: int | None
    created_us: int
    updated_us: int

    @property
    def status(self) -> probes.MonitorStatus:
        return "paused" if self.paused else self.found


def create(
    db: sqlite3.Connection,
    organization_id: str,
    *,
    name: str,
    url: str,
    check_interval: int,
    now_us: int,
    team_id: str | None = None,
    monitor_id: str | None = None,
) -> MonitorRow:
    """Create a monitor whose first check is due at once."""
    row = MonitorRow(
        id=monitor_id or str(uuid.uuid4()),
        organization_id=organization_id,
        team_id=team_id,
        name=name,
        url=url,
        check_interval=check_interval,
        paused=False,
        found="pending",
        due_us=now_us,
        created_us=now_us,
        updated_us=now_us,
    )
    db.execute(
        "INSERT INTO monitors (id, organization_id, team_id, name, url, check_interval, due_us, created_us, updated_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.id, organization_id, team_id, name, url, check_interval, now_us, now_us, now_us),
    )
    return row


def update(db: sqlite3.Connection, before: MonitorRow, after: MonitorRow, now_us: int) -> MonitorRow:
    """Write what a client may change. A pause ends all checking; whatever else changes it makes a check due at once."""
    after = replace(after, updated_us=now_us)
    if after.paused:
        after = replace(after, found="pending", due_us=None)
        incidents.resolve_for_monitor(db, after.id, now_us)
    elif (after.url, after.check_interval, after.paused) != (before.url, before.check_interval, before.paused):
        after = replace(after, due_us=now_us)
    db.execute(
        "UPDATE monitors SET team_id = ?, name = ?, url = ?, check_interval = ?, paused = ?, found = ?, due_us = ?,"
        " updated_us = ? WHERE id = ?",
        (
            after.team_id,
            after.name,
            after.url,
            after.check_interval,
            after.paused,
            after.found,
            after.due_us,
            now_us,
            after.id,
        ),
    )
    return after


def take_due(db: sqlite3.Connection, now_us: int, limit: int) -> list[MonitorRow]:
    """Return up to *limit* monitors whose check is due, earliest first, and note that their checks are under way."""
    due = db.execute(
        f"SELECT {_COLUMNS} FROM monitors WHERE due_us <= ? ORDER BY due_us LIMIT ?", (now_us, limit)
    ).fetchall()
    db.executemany("UPDATE monitors SET due_us = NULL WHERE id = ?", [(row["id"],) for row in due])
    return [MonitorRow(*row) for row in due]


def record(db: sqlite3.Connection, probed: MonitorRow, check: Check, due_us: int) -> None:
    """Take the *check* of *probed*, and await the next at *due_us*.

    One that was deleted, paused or given another URL meanwhile is left alone: the check tells nothing about it.
    """
    row = find_by_id(db, probed.id)
    if row is None or row.paused or row.url != probed.url:
        return
    checks.add(db, check)
    if check.status == "up":
        incidents.resolve_for_monitor(db, row.id, check.checked_us)
    elif row.found != "down":
        incidents.open_for_monitor(db, row.organization_id, row.id, check.checked_us)
    db.execute(
        "UPDATE monitors SET found = ?, due_us = coalesce(due_us, ?) WHERE id = ?", (check.status, due_us, row.id)
    )


def resume_checks(db: sqlite3.Connection, now_us: int) -> None:
    """Make due again what a server that ended in mid-check left behind."""
    db.execute("UPDATE monitors SET due_us = ? WHERE due_us IS NULL AND NOT paused", (now_us,))


def delete(db: sqlite3.Connection, row: MonitorRow) -> None:
    """Delete the monitor, its checks and its incidents."""
    incidents.delete_of_monitor(db, row.id)
    db.execute("DELETE FROM monitors WHERE id = ?", (row.id,))


def find(db: sqlite3.Connection, organization_id: str, monitor_id: str) -> MonitorRow | None:
    row = find_by_id(db, monitor_id)
    return row if row is not None and row.organization_id == organization_id else None


def find_by_id(db: sqlite3.Connection, monitor_id: str) -> MonitorRow | None:
    """Whoever it belongs to: not for answering a client."""
    row = db.execute(f"SELECT {_COLUMNS} FROM monitors WHERE id = ?", (monitor_id,)).fetchone()
    return None if row is None else MonitorRow(*row)


def find_by_id_or_name(db: sqlite3.Connection, wanted: str) -> list[MonitorRow]:
    """Return the monitors, of any organization, with this id or else this name, oldest first."""
    by_id = find_by_id(db, wanted)
    if by_id is not None:
        return [by_id]
    rows = db.execute(f"SELECT {_COLUMNS} FROM monitors WHERE name = ? ORDER BY rowid", (wanted,))
    return [MonitorRow(*row) for row in rows]


def page_of(db: sqlite3.Connection, organization_id: str, page: Page) -> list[MonitorRow]:
    """Return *page* and one row more."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM monitors WHERE organization_id = ? AND (created_us, id) < (?, ?)"
        " ORDER BY created_us DESC, id DESC LIMIT ?",
        (organization_id, page.before_us, page.before_id, page.limit + 1),
    )
    return [MonitorRow(*row) for row in rows]


def next_due_us(db: sqlite3.Connection) -> int | None:
    """Return when the next check is due."""
    earliest: int | None = db.execute("SELECT min(due_us) FROM monitors WHERE due_us IS NOT NULL").fetchone()[0]
    return earliest

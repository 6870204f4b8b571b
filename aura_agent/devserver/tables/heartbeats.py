"""Heartbeats, and what the rules make of each one.

``deadline_us`` is the instant after which a row must be judged, None once there is nothing to wait for; whatever
changes a row ends in ``apply_rules``, so the incidents always agree with the status.
"""

import secrets
import sqlite3
import uuid
from dataclasses import dataclass, replace

from aura_agent.devserver import rules
from aura_agent.devserver.paging import Page
from aura_agent.devserver.tables import incidents

_COLUMNS = (
    "id, organization_id, team_id, name, expected_interval, grace_period, paused, ping_key,"
    " last_ping_us, resumed_us, deadline_us, created_us, updated_us"
)


@dataclass(frozen=True, slots=True)
class HeartbeatRow:
    """One row: lengths in seconds, instants in microseconds since the epoch."""

    id: str
    organization_id: str
    team_id: str | None
    name: str
    expected_interval: int
    grace_period: int
    paused: int
    ping_key: str
    last_ping_us: int | None
    resumed_us: int | None
    deadline_us: int | None
    created_us: int
    updated_us: int

    @property
    def facts(self) -> rules.Facts:
        return rules.Facts(
            self.expected_interval, self.grace_period, self.last_ping_us, self.resumed_us, bool(self.paused)
        )


def create(
    db: sqlite3.Connection,
    organization_id: str,
    *,
    name: str,
    expected_interval: int,
    grace_period: int,
    now_us: int,
    team_id: str | None = None,
    heartbeat_id: str | None = None,
) -> HeartbeatRow:
    """Create a heartbeat with a new, unguessable ping key."""
    row = HeartbeatRow(
        id=heartbeat_id or str(uuid.uuid4()),
        organization_id=organization_id,
        team_id=team_id,
        name=name,
        expected_interval=expected_interval,
        grace_period=grace_period,
        paused=False,
        ping_key=_new_key(),
        last_ping_us=None,
        resumed_us=None,
        deadline_us=None,
        created_us=now_us,
        updated_us=now_us,
    )
    db.execute(
        "INSERT INTO heartbeats (id, organization_id, team_id, name, expected_interval, grace_period, ping_key,"
        " created_us, updated_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.id, organization_id, team_id, name, expected_interval, grace_period, row.ping_key, now_us, now_us),
    )
    return row


def update(db: sqlite3.Connection, row: HeartbeatRow, now_us: int) -> HeartbeatRow:
    """Write what a client may change of *row*, and judge it anew."""
    row = replace(row, updated_us=now_us)
    db.execute(
        "UPDATE heartbeats SET name = ?, team_id = ?, expected_interval = ?, grace_period = ?, paused = ?,"
        " resumed_us = ?, ping_key = ?, updated_us = ? WHERE id = ?",
        (
            row.name,
            row.team_id,
            row.expected_interval,
            row.grace_period,
            row.paused,
            row.resumed_us,
            row.ping_key,
            now_us,
            row.id,
        ),
    )
    return apply_rules(db, row, now_us)


def with_new_key(row: HeartbeatRow) -> HeartbeatRow:
    """Return *row* with another ping key: the old URL is gone."""
    return replace(row, ping_key=_new_key())


def record_ping(db: sqlite3.Connection, row: HeartbeatRow, now_us: int) -> HeartbeatRow:
    """A ping of *row* has arrived."""
    was_waiting = row.deadline_us is not None
    deadline_us = rules.deadline_us(replace(row.facts, last_ping_us=now_us))
    row = replace(row, last_ping_us=now_us, deadline_us=deadline_us)
    db.execute("UPDATE heartbeats SET last_ping_us = ?, deadline_us = ? WHERE id = ?", (now_us, deadline_us, row.id))
    if not was_waiting:
        incidents.resolve_for_heartbeat(db, row.id, now_us)
    return row


def apply_rules(db: sqlite3.Connection, row: HeartbeatRow, now_us: int) -> HeartbeatRow:
    """Open or resolve incidents as the rules say for *now_us*, and note when to look again."""
    missed_us = rules.missed_us(row.facts, now_us)
    if missed_us is None:
        incidents.resolve_for_heartbeat(db, row.id, now_us)
        deadline_us = rules.deadline_us(row.facts)
    else:
        incidents.open_for_heartbeat(db, row.organization_id, row.id, started_us=missed_us, now_us=now_us)
        deadline_us = None
    db.execute("UPDATE heartbeats SET deadline_us = ? WHERE id = ?", (deadline_us, row.id))
    return replace(row, deadline_us=deadline_us)


def delete(db: sqlite3.Connection, row: HeartbeatRow) -> None:
    """Delete the heartbeat and its incidents."""
    db.execute("DELETE FROM heartbeats WHERE id = ?", (row.id,))


def find(db: sqlite3.Connection, organization_id: str, heartbeat_id: str) -> HeartbeatRow | None:
    return _one(db, "id = ? AND organization_id = ?", (heartbeat_id, organization_id))


def find_by_id(db: sqlite3.Connection, heartbeat_id: str) -> HeartbeatRow | None:
    """Whoever it belongs to: not for answering a client."""
    return _one(db, "id = ?", (heartbeat_id,))


def find_by_key(db: sqlite3.Connection, ping_key: str) -> HeartbeatRow | None:
    return _one(db, "ping_key = ?", (ping_key,))


def find_by_id_or_name(db: sqlite3.Connection, wanted: str) -> list[HeartbeatRow]:
    """Return the heartbeats, of any organization, with this id or else this name, oldest first."""
    by_id = find_by_id(db, wanted)
    if by_id is not None:
        return [by_id]
    rows = db.execute(f"SELECT {_COLUMNS} FROM heartbeats WHERE name = ? ORDER BY rowid", (wanted,))
    return [HeartbeatRow(*row) for row in rows]


def page_of(db: sqlite3.Connection, organization_id: str, page: Page) -> list[HeartbeatRow]:
    """Return *page* and one row more."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM heartbeats WHERE organization_id = ? AND (created_us, id) < (?, ?)"
        " ORDER BY created_us DESC, id DESC LIMIT ?",
        (organization_id, page.before_us, page.before_id, page.limit + 1),
    )
    return [HeartbeatRow(*row) for row in rows]


def overdue(db: sqlite3.Connection, now_us: int) -> list[HeartbeatRow]:
    """Return those whose deadline has passed and who were not judged yet, earliest first."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM heartbeats WHERE deadline_us < ? ORDER BY deadline_us",
        (now_us,),
    )
    return [HeartbeatRow(*row) for row in rows]


def next_deadline_us(db: sqlite3.Connection) -> int | None:
    """Return the earliest deadline that somebody waits for."""
    earliest: int | None = db.execute(
        "SELECT min(deadline_us) FROM heartbeats WHERE deadline_us IS NOT NULL"
    ).fetchone()[0]
    return earliest


def _one(db: sqlite3.Connection, where: str, values: tuple[str, ...]) -> HeartbeatRow | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM heartbeats WHERE {where}", values).fetchone()  # constants
    return None if row is None else HeartbeatRow(*row)


def _new_key() -> str:
    return secrets.token_urlsafe(24)

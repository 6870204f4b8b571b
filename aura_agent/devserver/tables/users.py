"""Users, their roles in organizations, teams and who is in them."""

import sqlite3
import uuid
from collections.abc import Iterable

from aura_agent.devserver.permissions import Role

OWNER = "owner"  # the user whom every organization has from the start


def ensure(db: sqlite3.Connection, name: str, now_us: int) -> str:
    """Return the id of the user *name*, who is created if missing."""
    row = db.execute("SELECT id FROM users WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return str(row["id"])
    user_id = str(uuid.uuid4())
    db.execute("INSERT INTO users (id, name, created_us) VALUES (?, ?, ?)", (user_id, name, now_us))
    return user_id


def add_unnamed(db: sqlite3.Connection, now_us: int) -> str:
    """Return the id of a new user, whose name is that id."""
    user_id = str(uuid.uuid4())
    db.execute("INSERT INTO users (id, name, created_us) VALUES (?, ?, ?)", (user_id, user_id, now_us))
    return user_id


def set_role(db: sqlite3.Connection, user_id: str, organization_id: str, role: Role | None) -> None:
    """Give the user *role* in the organization; None: the user leaves it."""
    if role is None:
        where = (user_id, organization_id)
        db.execute("DELETE FROM memberships WHERE user_id = ? AND organization_id = ?", where)
    else:
        db.execute(
            "INSERT INTO memberships (user_id, organization_id, role) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET role = excluded.role",
            (user_id, organization_id, role),
        )


def role_of(db: sqlite3.Connection, user_id: str, organization_id: str) -> Role | None:
    row = db.execute(
        "SELECT role FROM memberships WHERE user_id = ? AND organization_id = ?", (user_id, organization_id)
    ).fetchone()
    return None if row is None else row["role"]


def ensure_team(
    db: sqlite3.Connection, organization_id: str, name: str, now_us: int, *, team_id: str | None = None
) -> str:
    """Return the id of the organization's team *name*, which is created if missing, with *team_id* if given."""
    row = db.execute("SELECT id FROM teams WHERE organization_id = ? AND name = ?", (organization_id, name)).fetchone()
    if row is not None:
        return str(row["id"])
    created = team_id or str(uuid.uuid4())
    db.execute(
        "INSERT INTO teams (id, organization_id, name, created_us) VALUES (?, ?, ?, ?)",
        (created, organization_id, name, now_us),
    )
    return created


def team_exists(db: sqlite3.Connection, organization_id: str, team_id: str) -> bool:
    where = (team_id, organization_id)
    return db.execute("SELECT 1 FROM teams WHERE id = ? AND organization_id = ?", where).fetchone() is not None


def set_teams(db: sqlite3.Connection, user_id: str, organization_id: str, team_ids: Iterable[str]) -> None:
    """Put the user into these teams of the organization and into no other of it."""
    db.execute(
        "DELETE FROM team_members WHERE user_id = ? AND team_id IN (SELECT id FROM teams WHERE organization_id = ?)",
        (user_id, organization_id),
    )
    db.executemany(
        "INSERT INTO team_members (team_id, user_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(team_id, user_id) for team_id in team_ids],
    )


def teams_of(db: sqlite3.Connection, user_id: str, organization_id: str) -> frozenset[str]:
    """Return the ids of the organization's teams that the user is in."""
    rows = db.execute(
        "SELECT team_id FROM team_members JOIN teams ON teams.id = team_id WHERE user_id = ? AND organization_id = ?",
        (user_id, organization_id),
    )
    return frozenset(row["team_id"] for row in rows)

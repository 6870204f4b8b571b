"""Organizations and what their plans allow."""

import sqlite3
import uuid
from typing import Literal

from aura_agent.devserver.tables import users

FIRST = "dev"  # the one that every embedded Aura has
Limited = Literal["monitors", "heartbeats"]


def ensure(db: sqlite3.Connection, name: str, now_us: int) -> str:
    """Return the id of the organization *name*, which is created if missing, with its owner."""
    row = db.execute("SELECT id FROM organizations WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return str(row["id"])
    organization_id = str(uuid.uuid4())
    db.execute("INSERT INTO organizations (id, name, created_us) VALUES (?, ?, ?)", (organization_id, name, now_us))
    users.set_role(db, users.ensure(db, users.OWNER, now_us), organization_id, "owner")
    return organization_id


def set_plan(
    db: sqlite3.Connection, organization_id: str, *, max_monitors: int | None = None, max_heartbeats: int | None = None
) -> None:
    """Change how many of each the organization may have; None leaves a limit as it is."""
    db.execute(
        "UPDATE organizations SET max_monitors = coalesce(?, max_monitors),"
        " max_heartbeats = coalesce(?, max_heartbeats) WHERE id = ?",
        (max_monitors, max_heartbeats, organization_id),
    )


def plan_limit(db: sqlite3.Connection, organization_id: str, what: Limited) -> int | None:
    """Return the organization's limit of *what* if it is reached; None: there is room for one more."""
    limit: int
    count: int
    limit, count = db.execute(
        f"SELECT max_{what}, (SELECT count(*) FROM {what} WHERE organization_id = organizations.id)"
        " FROM organizations WHERE id = ?",
        (organization_id,),
    ).fetchone()
    return limit if count >= limit else None

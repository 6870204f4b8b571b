"""API tokens: each belongs to one organization and acts on behalf of one user. Only a token's hash is stored."""

import hashlib
import secrets
import sqlite3
import uuid
from dataclasses import dataclass

from aura_agent.devserver.permissions import Role, Scope
from aura_agent.devserver.tables import users

_PREFIX = "aura_dev_"  # not aura_live_: nobody should mistake one for the hosted service's


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token speaks for, as things stand. *role* is None if its owner has left the organization."""

    token_id: str
    organization_id: str
    user_id: str
    scope: Scope
    role: Role | None
    teams: frozenset[str]


def generate(db: sqlite3.Connection, organization_id: str, user_id: str, now_us: int, scope: Scope = "write") -> str:
    """Return a new random token; the database keeps its hash alone."""
    token = _PREFIX + secrets.token_urlsafe(24)
    put(db, organization_id, user_id, token, label="generated", scope=scope, now_us=now_us, generated=True)
    return token


def drop_generated(db: sqlite3.Connection) -> None:
    """Forget the tokens that earlier starts generated: nobody can know them any more."""
    db.execute("DELETE FROM tokens WHERE generated")


def put(
    db: sqlite3.Connection,
    organization_id: str,
    user_id: str,
    token: str,
    *,
    label: str,
    scope: Scope,
    now_us: int,
    generated: bool = False,
) -> None:
    """Store *token*, or change whose it is and what it may do."""
    db.execute(
        "INSERT INTO tokens (hash, id, organization_id, user_id, label, scope, generated, created_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (hash) DO UPDATE SET organization_id = excluded.organization_id, user_id = excluded.user_id,"
        " label = excluded.label, scope = excluded.scope, generated = excluded.generated",
        (_hash(token), str(uuid.uuid4()), organization_id, user_id, label, scope, generated, now_us),
    )


def revoke(db: sqlite3.Connection, token: str) -> bool:
    """Delete *token*; False: there is none."""
    return db.execute("DELETE FROM tokens WHERE hash = ?", (_hash(token),)).rowcount == 1


def find(db: sqlite3.Connection, token: str) -> Caller | None:
    """Return whom *token* speaks for; None: it is not one of ours."""
    row = db.execute(
        "SELECT id, organization_id, user_id, scope FROM tokens WHERE hash = ?", (_hash(token),)
    ).fetchone()
    if row is None:
        return None
    owner = (row["user_id"], row["organization_id"])
    return Caller(
        token_id=row["id"],
        organization_id=row["organization_id"],
        user_id=row["user_id"],
        scope=row["scope"],
        role=users.role_of(db, *owner),
        teams=users.teams_of(db, *owner),
    )


def _hash(token: str) -> bytes:
    # Plain SHA-256 will do: the token is random, there is nothing to guess.
    return hashlib.sha256(token.encode()).digest()

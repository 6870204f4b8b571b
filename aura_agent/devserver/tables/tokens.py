"""Organizations and their API tokens. Only a token's hash is stored."""

import hashlib
import secrets
import sqlite3
import uuid
from dataclasses import dataclass
from typing import Literal

Scope = Literal["read", "write"]

_PREFIX = "aura_dev_"  # not aura_live_: nobody should mistake one for the hosted service's


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token speaks for."""

    token_id: str
    organization_id: str
    scope: Scope


def ensure_organization(db: sqlite3.Connection, name: str, now_us: int) -> str:
    """Return the id of the organization *name*, which is created if missing."""
    row = db.execute("SELECT id FROM organizations WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return str(row["id"])
    organization_id = str(uuid.uuid4())
    db.execute("INSERT INTO organizations (id, name, created_us) VALUES (?, ?, ?)", (organization_id, name, now_us))
    return organization_id


def generate(db: sqlite3.Connection, organization_id: str, now_us: int, scope: Scope = "write") -> str:
    """Return a new random token; the database keeps its hash alone."""
    token = _PREFIX + secrets.token_urlsafe(24)
    put(db, organization_id, token, label="generated", scope=scope, now_us=now_us, generated=True)
    return token


def drop_generated(db: sqlite3.Connection) -> None:
    """Forget the tokens that earlier starts generated: nobody can know them any more."""
    db.execute("DELETE FROM tokens WHERE generated")


def put(
    db: sqlite3.Connection,
    organization_id: str,
    token: str,
    *,
    label: str,
    scope: Scope,
    now_us: int,
    generated: bool = False,
) -> None:
    """Store *token*, or change what it may do."""
    db.execute(
        "INSERT INTO tokens (hash, id, organization_id, label, scope, generated, created_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (hash) DO UPDATE SET organization_id = excluded.organization_id,"
        " label = excluded.label, scope = excluded.scope, generated = excluded.generated",
        (_hash(token), str(uuid.uuid4()), organization_id, label, scope, generated, now_us),
    )


def find(db: sqlite3.Connection, token: str) -> Caller | None:
    """Return whom *token* speaks for; None: it is not one of ours."""
    row = db.execute("SELECT id, organization_id, scope FROM tokens WHERE hash = ?", (_hash(token),)).fetchone()
    return None if row is None else Caller(row["id"], row["organization_id"], row["scope"])


def _hash(token: str) -> bytes:
    # Plain SHA-256 will do: the token is random, there is nothing to guess.
    return hashlib.sha256(token.encode()).digest()

"""The embedded Aura's SQLite database: opening it, its schema, transactions.

One connection, used by the event loop's thread alone: a statement takes microseconds, less than handing it to another
thread. A file is opened exclusively (two servers on one file would each believe in their own timer), is 0600 (it
holds ping keys), and outlives a killed process; a power cut may take the last moments, which a development server may.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from aura_agent.errors import StoreError
from aura_agent.private_files import open_private

# One step per version of the schema, never edited once released; ``user_version`` counts the steps that a file has.
_STEPS = (
    """
    CREATE TABLE organizations (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_us INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tokens (
        hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE,
        organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        label TEXT NOT NULL, scope TEXT NOT NULL CHECK (scope IN ('read', 'write')),
        generated INTEGER NOT NULL, created_us INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE heartbeats (
        id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        team_id TEXT, name TEXT NOT NULL, expected_interval INTEGER NOT NULL, grace_period INTEGER NOT NULL,
        paused INTEGER NOT NULL DEFAULT 0, ping_key TEXT NOT NULL UNIQUE,
        last_ping_us INTEGER, resumed_us INTEGER, deadline_us INTEGER,
        created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX heartbeats_listed ON heartbeats (organization_id, created_us, id);
    CREATE INDEX heartbeats_due ON heartbeats (deadline_us) WHERE deadline_us IS NOT NULL;
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        heartbeat_id TEXT REFERENCES heartbeats ON DELETE CASCADE, monitor_id TEXT,
        started_us INTEGER NOT NULL, resolved_us INTEGER, resolution_notes TEXT,
        created_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX incidents_listed ON incidents (organization_id, created_us, id);
    CREATE UNIQUE INDEX incidents_of_heartbeat ON incidents (heartbeat_id, started_us);
    """,
    # Users with roles, teams, monitors, integrations, plans. The tokens of a file from before get an owner who may do
    # what they could do: everything. A heartbeat's team was free text; now there is a team of that name.
    """
    ALTER TABLE organizations ADD COLUMN max_monitors INTEGER NOT NULL DEFAULT 10000;
    ALTER TABLE organizations ADD COLUMN max_heartbeats INTEGER NOT NULL DEFAULT 10000;
    CREATE TABLE users (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_us INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE memberships (
        user_id TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
        organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
        PRIMARY KEY (user_id, organization_id)
    ) STRICT;
    CREATE TABLE teams (
        id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        name TEXT NOT NULL, created_us INTEGER NOT NULL, UNIQUE (organization_id, name)
    ) STRICT;
    CREATE TABLE team_members (
        team_id TEXT NOT NULL REFERENCES teams ON DELETE CASCADE,
        user_id TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
        PRIMARY KEY (team_id, user_id)
    ) STRICT;
    INSERT INTO users SELECT lower(hex(randomblob(16))), 'owner', created_us
        FROM organizations ORDER BY created_us LIMIT 1;
    INSERT INTO memberships SELECT users.id, organizations.id, 'owner' FROM users, organizations;
    INSERT INTO teams SELECT lower(hex(randomblob(16))), organization_id, team_id, min(created_us)
        FROM heartbeats WHERE team_id IS NOT NULL GROUP BY organization_id, team_id;
    INSERT INTO team_members SELECT teams.id, users.id FROM teams, users;
    UPDATE heartbeats SET team_id = (
        SELECT id FROM teams WHERE name = team_id AND teams.organization_id = heartbeats.organization_id
    ) WHERE team_id IS NOT NULL;

    CREATE TABLE owned_tokens (
        hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE,
        organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        user_id TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
        label TEXT NOT NULL, scope TEXT NOT NULL CHECK (scope IN ('read', 'write')),
        generated INTEGER NOT NULL, created_us INTEGER NOT NULL
    ) STRICT;
    INSERT INTO owned_tokens
        SELECT hash, tokens.id, organization_id, users.id, label, scope, generated, tokens.created_us
        FROM tokens, users;
    DROP TABLE tokens;
    ALTER TABLE owned_tokens RENAME TO tokens;

    CREATE TABLE monitors (
        id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        team_id TEXT, name TEXT NOT NULL, url TEXT NOT NULL, check_interval INTEGER NOT NULL,
        paused INTEGER NOT NULL DEFAULT 0,
        found TEXT NOT NULL DEFAULT 'pending' CHECK (found IN ('pending', 'up', 'down')),
        due_us INTEGER, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX monitors_listed ON monitors (organization_id, created_us, id);
    CREATE INDEX monitors_due ON monitors (due_us) WHERE due_us IS NOT NULL;
    CREATE TABLE checks (
        id TEXT PRIMARY KEY, monitor_id TEXT NOT NULL REFERENCES monitors ON DELETE CASCADE,
        status TEXT NOT NULL CHECK (status IN ('up', 'down')), status_code INTEGER, response_time_ms INTEGER,
        checked_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX checks_listed ON checks (monitor_id, checked_us, id);
    CREATE INDEX incidents_of_monitor ON incidents (monitor_id, started_us) WHERE monitor_id IS NOT NULL;
    CREATE TABLE integrations (
        id TEXT PRIMARY KEY, organization_id TEXT NOT NULL REFERENCES organizations ON DELETE CASCADE,
        platform TEXT NOT NULL, url_host TEXT NOT NULL, created_us INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX integrations_listed ON integrations (organization_id, created_us, id);
    """,
)


def open_database(path: str | None) -> sqlite3.Connection:
    """Open the database in *path* (created if missing), or a new one in memory.

    Raises StoreError: not usable, not ours, made by a newer version, or open in another server.
    """
    if path is not None:
        _create_private(path)
    db = sqlite3.connect(path or ":memory:", isolation_level=None)
    try:
        db.execute("PRAGMA busy_timeout = 500")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        _upgrade(db, path or ":memory:")
    except sqlite3.Error as exc:
        db.close()
        reason = "another dev-server has it open" if "locked" in str(exc) else str(exc)
        raise StoreError(
            f"{path}: can't be used as the embedded Aura's database: {reason}; choose another --db"
        ) from exc
    except StoreError:
        db.close()
        raise
    db.row_factory = sqlite3.Row
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _create_private(path: str) -> None:
    try:
        os.close(open_private(path, os.O_RDWR))
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}; choose another --db") from exc


def _upgrade(db: sqlite3.Connection, path: str) -> None:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_STEPS):
        raise StoreError(f"{path}: made by a newer aura-agent (schema {version}); upgrade, or choose another --db")
    for number, step in enumerate(_STEPS[version:], start=version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
    # Takes the file's lock now rather than at the first write.
    db.executescript("BEGIN IMMEDIATE; COMMIT;")

"""What a database file keeps, and when it is refused."""

import hashlib
import os
import sqlite3
import stat
from pathlib import Path

import httpx
import pytest

from aura_agent.devserver.server import DevServer
from aura_agent.errors import AuraError, StoreError
from tests.devserver.clocks import StillClock
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio

# What the first version made, with something in every table.
_FIRST_VERSION = """
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
    INSERT INTO organizations VALUES ('o1', 'dev', 1), ('o2', 'another', 2);
    INSERT INTO heartbeats VALUES
        ('h1', 'o1', 'ops', 'backup', 60, 0, 0, 'key1', 1000000, NULL, NULL, 3, 3),
        ('h2', 'o1', NULL, 'plain', 60, 0, 0, 'key2', NULL, NULL, NULL, 4, 4),
        ('h3', 'o2', 'ops', 'theirs', 60, 0, 0, 'key3', NULL, NULL, NULL, 4, 4);
    INSERT INTO incidents VALUES ('i1', 'o1', 'h1', NULL, 61000000, NULL, NULL, 61000001);
    PRAGMA user_version = 1;
"""


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def test_a_second_start_finds_everything_but_the_old_token(tmp_path: Path, anyone: httpx.AsyncClient) -> None:
    """Heartbeats keep id, state and ping key; the former start's token is dropped, a new one printed."""
    path = str(tmp_path / "aura.db")
    async with DevServer(db=path) as aura:
        heartbeat = aura.create_heartbeat("backup")
        await anyone.post(heartbeat.ping_url)
        before, old_token, kept_token = aura.status("backup"), aura.token, heartbeat.ping_url.rpartition("/")[2]

    async with DevServer(db=path) as aura, client(aura, aura.token) as api, client(aura, old_token) as former:
        assert aura.status("backup") == before
        assert aura.heartbeat("backup").ping_url.endswith(kept_token)
        assert aura.token != old_token
        assert (await api.get("/heartbeats")).json()["data"][0]["id"] == heartbeat.id
        assert (await former.get("/heartbeats")).status_code == 401


async def test_what_fell_due_while_the_server_was_down_is_judged_at_the_start(
    tmp_path: Path, clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """A heartbeat that went late meanwhile has its incident at once."""
    path = str(tmp_path / "aura.db")
    async with DevServer(db=path, clock=clock) as aura:
        await anyone.post(aura.create_heartbeat("backup", 60, 0).ping_url)
    clock.advance(3600)

    async with DevServer(db=path, clock=clock) as aura:
        assert aura.service.db.execute("SELECT count(*) FROM incidents").fetchone()[0] == 1
        assert aura.status("backup").status == "down"


async def test_the_file_is_private_and_holds_no_token(tmp_path: Path) -> None:
    """0600 under any umask, and only the token's hash."""
    path = tmp_path / "aura.db"
    before = os.umask(0)
    try:
        async with DevServer(db=str(path)) as aura:
            modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
            token = aura.token
    finally:
        os.umask(before)

    assert modes == {0o600}
    assert token.encode() not in path.read_bytes()


async def test_a_file_of_the_first_version_goes_on_with_all_that_is_in_it(
    tmp_path: Path, anyone: httpx.AsyncClient
) -> None:
    """Tokens, heartbeats, ping URLs and incidents stay; a team that was mere text is one, and its makers are in it."""
    path = tmp_path / "aura.db"
    old = sqlite3.connect(path)
    old.executescript(_FIRST_VERSION)
    old.execute("INSERT INTO tokens VALUES (?, 't1', 'o1', 'CI', 'write', 0, 5)", (_sha256("a-token-from-before"),))
    old.execute("INSERT INTO tokens VALUES (?, 't2', 'o2', 'CI', 'read', 0, 5)", (_sha256("another-from-before"),))
    old.commit()
    old.close()

    async with (
        DevServer(db=str(path)) as aura,
        client(aura, "a-token-from-before") as api,
        client(aura, "another-from-before") as other,
    ):
        [backup, plain] = sorted((await api.get("/heartbeats")).json()["data"], key=lambda row: row["name"])
        [incident] = (await api.get("/incidents")).json()["data"]
        assert (backup["id"], backup["status"], backup["expected_interval"]) == ("h1", "down", 60)
        assert backup["team_id"] == aura.create_team("ops")
        assert plain["team_id"] is None
        assert (incident["id"], incident["heartbeat_id"], incident["status"]) == ("i1", "h1", "open")
        assert (await anyone.post(aura.heartbeat("h1").ping_url)).is_success
        assert aura.heartbeat("h1").ping_url.endswith("/key1")
        assert (await api.patch("/heartbeats/h1", json={"name": "nightly"})).status_code == 200
        [theirs] = (await other.get("/heartbeats")).json()["data"]
        assert theirs["team_id"] == aura.create_team("ops", "another") != backup["team_id"]
        assert (await other.post("/heartbeats", json={"name": "x"})).status_code == 403
        assert (await api.delete("/heartbeats/h1")).status_code == 204
    async with DevServer(db=str(path)) as aura, client(aura, "a-token-from-before") as api:
        assert [row["id"] for row in (await api.get("/heartbeats")).json()["data"]] == ["h2"]


async def test_two_servers_do_not_share_a_file(tmp_path: Path) -> None:
    """The second one says who is in the way, and leaves the first alone."""
    path = str(tmp_path / "aura.db")
    async with DevServer(db=path) as aura:
        with pytest.raises(StoreError, match="another dev-server has it open"):
            await DevServer(db=path).start()
        aura.create_heartbeat("backup")


@pytest.mark.parametrize("content", [b"not a database, but longer than a header of SQLite would be" * 20, None])
async def test_a_file_that_is_no_database_of_ours_is_refused_and_left_alone(
    tmp_path: Path, content: bytes | None
) -> None:
    """Something else's file, or one of a newer version: one line, nothing written."""
    path = tmp_path / "aura.db"
    if content is None:
        newer = sqlite3.connect(path)
        newer.execute("PRAGMA user_version = 999")
        newer.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"aura\.db: .*; .*choose another --db"):
        await DevServer(db=str(path)).start()

    if content is not None:
        assert path.read_bytes() == before


async def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    """One line with the path."""
    with pytest.raises(StoreError, match="No such file or directory"):
        await DevServer(db=str(tmp_path / "missing" / "aura.db")).start()


async def test_a_port_that_is_taken_is_named(aura: DevServer) -> None:
    """One line with the port and what to do."""
    with pytest.raises(AuraError, match=f"port {aura.port} .* choose another"):
        await DevServer(port=aura.port).start()

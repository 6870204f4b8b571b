"""What a database file keeps, and when it is refused."""

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

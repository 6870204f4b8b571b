"""Whose heartbeat a name means: several Aura accounts on one store, and heartbeats that are renamed."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import Site
from tests.waiting import wait_until

JOB = '[jobs.backup]\nheartbeat = "backup"\nschedule = "0 4 * * *"\ncommand = ["true"]\n'
_WEEKS_NS = 15 * 86400 * 10**9


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ThreadedDevServer]:
    """Another Aura."""
    with ThreadedDevServer() as server:
        yield server


def _at(aura: ThreadedDevServer, token: str = "") -> dict[str, str]:
    """Return the environment of a crontab that names that Aura."""
    return {"AURA_API_URL": aura.base_url, "AURA_TOKEN": token or aura.token}


def _pings(aura: ThreadedDevServer, heartbeat_id: str) -> int:
    return len(aura.pings(heartbeat_id))


def _run(site: Site, *options: str, env: dict[str, str], command: str = "true") -> None:
    done = site.run(*options, "-H", "backup", "--", command, env=site.environment | env)
    assert done.returncode == (0 if command == "true" else 1), done.stderr


def test_each_of_two_apis_gets_its_own_pings_from_one_store(site: Site, other: ThreadedDevServer) -> None:
    """The name was looked up at the first one, then token and base URL name another, then the first again."""
    mine = site.server.create_heartbeat("backup", 86400).id
    theirs = other.create_heartbeat("backup", 86400).id

    for aura in (site.server, other, site.server, other):
        _run(site, env=_at(aura))

    assert (_pings(site.server, mine), _pings(other, theirs)) == (2, 2)
    assert len([each for each in other.requests() if each.path.endswith("/heartbeats")]) == 1


def test_each_of_two_organizations_gets_its_own_pings_from_one_store(site: Site) -> None:
    """The base URL is the same; the token decides."""
    token = site.server.create_token("read", "second")
    mine = site.server.create_heartbeat("backup", 86400).id
    theirs = site.server.create_heartbeat("backup", 86400, organization="second").id

    _run(site, env=_at(site.server))
    _run(site, env=_at(site.server, token))

    assert (_pings(site.server, mine), _pings(site.server, theirs)) == (1, 1)


def test_rotated_token_sends_what_waited_for_the_old_one(site: Site) -> None:
    """It sees the same heartbeats, so it is the same organization."""
    old = site.server.create_token("read")
    beat = site.server.create_heartbeat("backup", 86400).id
    _run(site, "--no-wait", env=_at(site.server, old))
    site.server.revoke_token(old)

    _run(site, env=_at(site.server, old))
    assert _pings(site.server, beat) == 0
    _run(site, env=_at(site.server))

    assert _pings(site.server, beat) == 1
    assert {row["state"] for row in site.queue("--all")} == {"delivered", "superseded"}


def test_run_is_not_sent_with_the_token_of_a_later_one(site: Site, other: ThreadedDevServer) -> None:
    """It was only spooled; who comes next has another Aura, where a heartbeat has the same name."""
    mine = site.server.create_heartbeat("backup", 86400).id
    theirs = other.create_heartbeat("backup", 86400).id
    _run(site, env=_at(site.server))
    _run(site, env=_at(other), command="false")
    _run(site, "--no-wait", env=_at(site.server))

    _run(site, env=_at(other))
    assert (_pings(site.server, mine), _pings(other, theirs)) == (2, 1)

    _run(site, "--no-wait", env=_at(site.server), command="false")
    _run(site, env=_at(other), command="true")
    assert (_pings(site.server, mine), _pings(other, theirs)) == (2, 2)


def test_daemon_reloaded_with_another_organizations_token_pings_there(site: Site) -> None:
    """Names of the config are looked for anew, and what waits for the first goes to the first."""
    token = site.server.create_token("read", "second")
    mine = site.server.create_heartbeat("backup", 86400).id
    theirs = site.server.create_heartbeat("backup", 86400, organization="second").id
    site.configure(JOB)
    site.start()
    site.agent("trigger", "backup")
    wait_until(lambda: _pings(site.server, mine) == 1, what="a ping to the first")

    (site.home / "token").write_text(token)
    assert site.agent("reload").returncode == 0
    site.agent("trigger", "backup")
    wait_until(lambda: _pings(site.server, theirs) == 1, what="a ping to the second")

    assert _pings(site.server, mine) == 1


def test_daemon_pings_the_new_heartbeat_of_a_name_after_a_rename(site: Site) -> None:
    """Somebody has listed since, for whatever reason; check agrees with what is pinged."""
    before = site.server.create_heartbeat("backup", 86400).id
    site.configure(JOB)
    site.start()
    site.agent("trigger", "backup")
    wait_until(lambda: _pings(site.server, before) == 1, what="a ping before the rename")

    site.server.update_heartbeat(before, name="backup-old")
    after = site.server.create_heartbeat("backup", 86400, 7200).id
    site.server.create_heartbeat("new", 86400)
    site.agent("ping", "new")
    assert ("backup-old",) in site.rows("SELECT name FROM heartbeats")
    site.agent("trigger", "backup")
    wait_until(lambda: _pings(site.server, after) == 1, what="a ping to the new one")

    assert _pings(site.server, before) == 1
    assert site.agent("check", "--online").returncode == 0


def test_aura_run_without_a_daemon_finds_a_rename_in_a_week(site: Site) -> None:
    """The ping goes out by the cache at once; then an old listing is asked for anew, and the next run knows."""
    before = site.server.create_heartbeat("backup", 86400).id
    _run(site, env=_at(site.server))
    site.server.update_heartbeat(before, name="backup-old")
    after = site.server.create_heartbeat("backup", 86400).id

    site.server.clear_received()
    _run(site, env=_at(site.server))
    assert [each.path for each in site.server.requests() if "/heartbeats" in each.path] == []
    _age(site)
    _run(site, env=_at(site.server))
    assert _pings(site.server, before) == 2
    _run(site, env=_at(site.server))

    assert (_pings(site.server, before), _pings(site.server, after)) == (2, 1)


def test_failed_listing_leaves_the_cached_heartbeat_in_use(site: Site) -> None:
    """A rename can't be seen while the API is down, and nothing waits for it."""
    beat = site.server.create_heartbeat("backup", 86400).id
    _run(site, env=_at(site.server))
    _age(site)
    site.server.set_fault("status", target="api", status=503)

    _run(site, env=_at(site.server))

    assert _pings(site.server, beat) == 2


def _age(site: Site) -> None:
    """Let two weeks pass for what the store knows of Aura."""
    connection = sqlite3.connect(site.state / "outbox.db", timeout=30)
    with connection:
        for table, column in (
            ("heartbeats", "listed_wall_ns"),
            ("heartbeats", "url_wall_ns"),
            ("scopes", "listed_wall_ns"),
        ):
            connection.execute(f"UPDATE {table} SET {column} = {column} - ?", (_WEEKS_NS,))
    connection.close()


@pytest.mark.parametrize("respell", [lambda url: url.replace("http:", "HTTP:"), lambda url: url + "#nightly"])
def test_failure_by_another_spelling_withdraws_the_success(site: Site, respell: Callable[[str], str]) -> None:
    """Both are of one heartbeat, although no name says so."""
    url = site.server.create_heartbeat("beat").ping_url
    for spelling, command in ((url, "true"), (respell(url), "false")):
        site.extra["AURA_PING_URL"] = spelling
        site.run("--no-wait", "--", command)

    flushed = site.agent("queue", "flush")

    assert (flushed.returncode, site.server.pings("beat")) == (0, [])
    assert [row["state"] for row in site.queue("--all")] == ["invalidated"]

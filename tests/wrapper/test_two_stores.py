"""One user, two stores: what is reported to the daemon withdraws what the user's own store would still send."""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aura_agent.outbox.handover import handed_over, to_hand_over
from aura_agent.outbox.store import open_outbox
from aura_agent.wrapper.handover import hand_over
from tests.e2e.sites import AURA_RUN, Site
from tests.waiting import wait_until
from tests.wrapper.daemons import answering


@pytest.fixture
def user(site: Site) -> Site:
    """A user with a token and a store of their own, beside a daemon that is started later. No ping is answered."""
    for name in ("one", "two"):
        site.server.create_heartbeat(name, expected_interval=3600)
    site.server.set_fault(target="ping", kind="hang")
    return site


def _own(site: Site) -> dict[str, str]:
    return site.environment | {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.home / "own"),
        "AURA_SOCKET": str(site.home / "run/agent.sock"),
        "AURA_API_URL": site.server.base_url,
        "AURA_TOKEN": site.server.token,
    }


def _query(site: Site, query: str) -> list[tuple[object, ...]]:
    """Return rows of the user's own outbox."""
    with closing(sqlite3.connect(f"file:{site.home}/own/outbox.db?mode=ro", uri=True, timeout=30)) as own:
        return own.execute(query).fetchall()


def _starts_on_record(site: Site) -> int:
    """Return how many runs are on record in the user's own store as going on; a record is written at once."""
    return sum(bool(record.stat().st_size) for record in (site.home / "own").glob("runs/*"))


@contextmanager
def _success_under_way(site: Site) -> Iterator["subprocess.Popen[bytes]"]:
    """Have an aura-run that delivers a success of "one" from the user's own store, and gets no answer."""
    argv = [AURA_RUN, "-H", "one", "--wait", "60s", "--", "true"]
    with subprocess.Popen(argv, env=_own(site), cwd=site.home, stdin=subprocess.DEVNULL) as delivering:
        try:
            wait_until(lambda: site.server.pings("one"), what="a ping under way")
            yield delivering
        finally:
            delivering.kill()


@contextmanager
def _daemon_that_answers(site: Site, verb: str) -> Iterator[None]:
    (site.home / "run").mkdir()
    with answering(str(site.home / "run/agent.sock"), verb, "so it is"):
        yield


def _arrived(site: Site, heartbeat: str = "one") -> int:
    return sum(ping.accepted for ping in site.server.pings(heartbeat))


def test_a_failure_reported_to_the_daemon_withdraws_what_is_under_way(user: Site) -> None:
    """The attempt gets no answer, and isn't made again, though the daemon that heard of the failure is gone."""
    with _success_under_way(user) as delivering:
        user.start()
        assert user.run("-H", "one", "--", "false", env=_own(user)).returncode == 1
        user.kill()
        user.server.clear_faults()
        delivering.wait(timeout=60)

    assert _arrived(user) == 0
    assert _query(user, "SELECT state FROM entries") == [("invalidated",)]


def test_what_is_under_way_is_forwarded_once_a_daemon_serves(user: Site) -> None:
    """The attempt ends without an answer: the daemon sends it from there."""
    with _success_under_way(user) as delivering:
        user.start()
        user.server.clear_faults()
        delivering.wait(timeout=60)
        wait_until(lambda: _arrived(user) == 1, what="the daemon's ping")

    assert [row["state"] for row in user.queue("--all")] == ["delivered"]
    assert _query(user, "SELECT state FROM entries") == [("dropped",)]


def test_a_run_lost_beside_the_daemon_withdraws_what_is_under_way(user: Site) -> None:
    """Its wrapper was killed, and the daemon that saw it hang up is gone."""
    with _success_under_way(user) as delivering:
        user.start()
        argv = [AURA_RUN, "-H", "one", "--", "sleep", "1000"]
        with subprocess.Popen(argv, env=_own(user), stdin=subprocess.DEVNULL, process_group=0) as run:
            wait_until(lambda: _starts_on_record(user), what="its start on record")
            os.killpg(run.pid, signal.SIGKILL)
        user.kill()
        user.server.clear_faults()
        delivering.wait(timeout=60)

    assert _arrived(user) == 0


def test_a_failure_is_put_into_an_own_outbox_that_is_locked(user: Site) -> None:
    """Somebody is at it as the daemon is told; the daemon goes, and the next aura-run delivers what waits."""
    user.run("-H", "one", "--wait", "3s", "--", "true", env=_own(user))
    user.start()
    with closing(sqlite3.connect(user.home / "own" / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert user.run("-H", "one", "--", "false", env=_own(user)).returncode == 1
    user.kill()
    user.server.clear_faults()
    user.run("-H", "two", "--wait", "20s", "--", "true", env=_own(user))

    assert (_arrived(user, "one"), _arrived(user, "two")) == (0, 1)


def test_a_failure_beside_a_longer_run_withdraws_its_success(user: Site) -> None:
    """The longer one began earlier; as it ends no daemon is there."""
    user.server.clear_faults()
    user.start()
    argv = [AURA_RUN, "-H", "one", "--", "sh", "-c", "read x"]
    with subprocess.Popen(argv, env=_own(user), stdin=subprocess.PIPE) as longer:
        wait_until(lambda: _starts_on_record(user), what="its start on record")
        assert user.run("-H", "one", "--", "false", env=_own(user)).returncode == 1
        user.kill()
        longer.communicate(b"\n", timeout=60)

    assert longer.returncode == 0
    assert _arrived(user) == 0


def test_a_failure_in_the_socket_of_a_frozen_daemon_withdraws_what_waits(user: Site) -> None:
    """It wakes up with a success that is due, and reads what came meanwhile before it sends."""
    user.start()
    user.run("-H", "one", "--", "true", env=_own(user))
    wait_until(lambda: user.server.pings("one"), what="a first try")
    assert user.daemon is not None
    user.daemon.send_signal(signal.SIGSTOP)
    assert user.run("-H", "one", "--no-wait", "--", "false", env=_own(user)).returncode == 1
    user.server.clear_faults()
    user.daemon.send_signal(signal.SIGCONT)

    wait_until(lambda: not user.waiting(), what="nothing that waits")
    assert _arrived(user) == 0
    assert [row["state"] for row in user.queue("--all")] == ["invalidated"]


def test_a_failure_is_only_reported_to_the_daemon_where_nothing_waits(user: Site) -> None:
    """The common path writes nothing of its own."""
    (user.home / "own").mkdir(mode=0o700)
    user.start()

    assert user.run("-H", "one", "--", "false", env=_own(user)).returncode == 1

    assert [path for path in Path(user.home / "own").rglob("*") if path.is_file()] == []


def test_store_is_not_forwarded_to_the_daemon_that_serves_it(site: Site) -> None:
    """One that comes up while an aura-run delivers: given to itself, a queued ping would count as given away."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.refuse()
    assert site.run("--no-wait", "-H", "beat", "--", "true").returncode == 0
    site.start()
    assert [row["state"] for row in site.queue()] == ["waiting"]
    outbox = open_outbox(str(site.state), "run")
    with closing(outbox):
        given = [report.run_id for report in to_hand_over(outbox)]

        assert hand_over(str(site.state), f"{site.home}/run/agent.sock")
        assert handed_over(outbox, given) == 0

    assert [row["state"] for row in site.queue()] == ["waiting"]


def _flush(site: Site) -> "subprocess.CompletedProcess[str]":
    return site.agent("queue", "flush", env=_own(site))


def test_flush_of_an_own_store_forwards_to_the_daemon_that_serves(user: Site) -> None:
    """The daemon knows of a later failure that the user's store was never told of: nothing is sent."""
    user.run("-H", "one", "--no-wait", "--", "true", env=_own(user))
    user.start()
    user.run("-H", "one", "--", "false")
    user.server.clear_faults()

    done = _flush(user)

    assert (done.returncode, done.stdout, done.stderr) == (0, "forwarded to the daemon, which sends them\n", "")
    assert _query(user, "SELECT state FROM entries") == [("dropped",)]
    wait_until(lambda: user.queue("--all"), what="the forwarded ping")
    assert [row["state"] for row in user.queue("--all")] == ["invalidated"]
    assert _arrived(user) == 0


def test_flush_of_an_own_store_sends_nothing_beside_a_frozen_daemon(user: Site) -> None:
    """It may know of failures, and cannot say so."""
    user.run("-H", "one", "--no-wait", "--", "true", env=_own(user))
    user.start()
    assert user.daemon is not None
    user.daemon.send_signal(signal.SIGSTOP)
    user.server.clear_faults()
    done = _flush(user)
    user.daemon.send_signal(signal.SIGCONT)

    assert done.returncode == 1
    assert "the daemon at" in done.stderr
    assert "does not answer" in done.stderr
    assert _arrived(user) == 0
    assert _flush(user).returncode == 0
    wait_until(lambda: _arrived(user) == 1, what="the daemon's ping")


def test_flush_of_an_own_store_sends_where_the_daemon_refuses_this_user(user: Site) -> None:
    """Nobody else would."""
    user.run("-H", "one", "--no-wait", "--", "true", env=_own(user))
    user.server.clear_faults()

    with _daemon_that_answers(user, "refused"):
        done = _flush(user)

    assert (done.returncode, _arrived(user)) == (0, 1)


def test_flush_of_an_own_store_sends_nothing_beside_a_busy_daemon(user: Site) -> None:
    """Its disk takes nothing now: it may hold failures in memory."""
    user.run("-H", "one", "--no-wait", "--", "true", env=_own(user))
    user.server.clear_faults()

    with _daemon_that_answers(user, "busy"):
        done = _flush(user)

    assert (done.returncode, _arrived(user)) == (1, 0)
    assert "takes no reports now" in done.stderr
    assert _query(user, "SELECT state FROM entries") == [("waiting",)]

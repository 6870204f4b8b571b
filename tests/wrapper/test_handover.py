"""What waits in a user's own store goes to the daemon as soon as one answers."""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_RUN, Site
from tests.waiting import wait_until


@pytest.fixture
def user(site: Site) -> Site:
    """A user with a store of their own and without a token, beside a daemon that has one."""
    for name in ("one", "two"):
        site.server.create_heartbeat(name, expected_interval=3600)
    return site


def _own(site: Site) -> dict[str, str]:
    return site.environment | {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.home / "own"),
        "AURA_SOCKET": str(site.home / "run/agent.sock"),
    }


def _left(site: Site) -> list[Path]:
    return list((site.home / "own" / "spool").glob("*.report"))


@pytest.mark.parametrize("flags", [["--no-wait"], ["--wait", "1s"]], ids=["spool", "outbox"])
def test_what_waited_without_a_daemon_is_handed_over_first(user: Site, flags: list[str]) -> None:
    """From the spool or from the user's outbox, without a token of the user's, and only once."""
    without = user.run(*flags, "-H", "one", "--", "true", env=_own(user))
    user.start()
    with_one = user.run("-H", "two", "--", "true", env=_own(user))

    wait_until(lambda: {ping.name for ping in user.server.pings()} == {"one", "two"})
    again = user.run("-H", "two", "--", "true", env=_own(user))
    wait_until(lambda: len(user.server.pings("two")) == 2)
    assert (without.returncode, with_one.returncode, again.returncode) == (0, 0, 0)
    assert with_one.stderr == again.stderr == b""
    assert _left(user) == []
    assert len(user.server.pings("one")) == 1
    wait_until(lambda: user.waiting() == 0)


def test_a_failure_from_without_a_daemon_withdraws_what_waits_with_it(user: Site) -> None:
    """The daemon's outbox holds a success; a later failure reached only the user's outbox."""
    user.server.refuse()
    user.start()
    user.run("-H", "one", "--", "true", env=_own(user))
    user.kill()
    user.run("-H", "one", "--wait", "1s", "--", "false", env=_own(user))
    user.start()
    user.run("-H", "two", "--", "true", env=_own(user))

    wait_until(lambda: {row["heartbeat"]: row["state"] for row in user.queue("--all")}.get("one") == "invalidated")
    user.server.accept()
    wait_until(lambda: user.server.pings("two"))
    assert user.server.pings("one") == []


def test_a_run_that_was_lost_without_a_daemon_withdraws_what_waits_with_it(user: Site) -> None:
    """Its wrapper was killed while no daemon was there; the user's next aura-run finds the record, and tells."""
    user.server.refuse()
    user.start()
    user.run("-H", "one", "--", "true", env=_own(user))
    user.kill()
    lost = subprocess.Popen(
        [AURA_RUN, "-H", "one", "--", "sleep", "1000"], env=_own(user), stdin=subprocess.DEVNULL, process_group=0
    )
    runs = user.home / "own" / "runs"
    wait_until(lambda: runs.exists() and any(record.stat().st_size for record in runs.iterdir()))
    os.killpg(lost.pid, signal.SIGKILL)
    lost.wait()
    user.start()
    user.run("-H", "two", "--", "true", env=_own(user))

    wait_until(lambda: {row["heartbeat"]: row["state"] for row in user.queue("--all")}.get("one") == "invalidated")
    assert list(runs.iterdir()) == []


def test_a_daemon_that_was_restarted_meanwhile_takes_the_report(user: Site) -> None:
    """The connection from before is dead; the new daemon is asked, and nothing stays in the user's store."""
    user.start()
    job = subprocess.Popen(
        [AURA_RUN, "-H", "one", "--", "sh", "-c", "echo ready; read x"],
        env=_own(user),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stdin is not None
    job.stdout.readline()
    user.kill()
    user.start()
    job.stdin.write(b"\n")
    job.communicate()

    assert job.returncode == 0
    wait_until(lambda: len(user.server.pings("one")) == 1)
    assert list((user.home / "own" / "runs").iterdir()) == _left(user) == []


def _spool_out_of_reach(store: Path) -> None:
    (store / "spool").symlink_to("spool")


def _spool_with_a_directory(store: Path) -> None:
    (store / "spool" / "aaaaaaaa.report").mkdir(parents=True)


def _spool_with_a_fifo(store: Path) -> None:
    (store / "spool").mkdir()
    os.mkfifo(store / "spool" / "aaaaaaaa.report")
    os.utime(store / "spool" / "aaaaaaaa.report", (1, 1))


def _spool_with_garbage(store: Path) -> None:
    (store / "spool").mkdir()
    (store / "spool" / "aaaaaaaa.report").write_bytes(b"garbage")
    os.utime(store / "spool" / "aaaaaaaa.report", (1, 1))


def _outbox_of_garbage(store: Path) -> None:
    (store / "outbox.db").write_bytes(b"\x00garbage" * 1000)


@pytest.mark.parametrize(
    "spoil",
    [_spool_out_of_reach, _spool_with_a_directory, _spool_with_a_fifo, _spool_with_garbage, _outbox_of_garbage],
)
def test_a_store_of_no_use_keeps_no_report_from_the_daemon(user: Site, spoil: Callable[[Path], None]) -> None:
    """Who has a daemon doesn't need it: one line tells, once, and both pings arrive."""
    (user.home / "own").mkdir(mode=0o700)
    spoil(user.home / "own")
    user.start()
    first, again = (user.run("-H", name, "--", "true", env=_own(user)) for name in ("one", "two"))

    wait_until(lambda: {ping.name for ping in user.server.pings()} == {"one", "two"})
    assert (first.returncode, again.returncode, again.stderr) == (0, 0, b"")
    assert len(first.stderr.splitlines()) == 1
    assert str(user.home / "own").encode() in first.stderr


def test_an_outbox_that_somebody_keeps_locked_holds_up_no_report(user: Site) -> None:
    """Nor does the report of an earlier run, which can be read; that it went is noted later, and it counts once."""
    user.run("-H", "one", "--wait", "1s", "--", "true", env=_own(user))
    user.start()
    with closing(sqlite3.connect(user.home / "own" / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = user.run("-H", "two", "--", "true", env=_own(user), timeout=9)
    wait_until(lambda: user.server.pings("two"), what="its ping, before a later one takes its place")
    again = user.run("-H", "two", "--", "true", env=_own(user))

    assert (ended.returncode, ended.stderr, again.returncode, again.stderr) == (0, b"", 0, b"")
    wait_until(lambda: len(user.server.pings("two")) == 2)
    wait_until(lambda: user.server.pings("one"))
    wait_until(lambda: user.waiting() == 0)
    assert len(user.server.pings("one")) == 1

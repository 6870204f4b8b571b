"""The daemon's disk under its hands: full and full again, failing, gone, or locked by somebody else."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.e2e.powercut import PowerCut
from tests.e2e.sites import Site
from tests.machine import loop_devices, needs, tmpfs
from tests.waiting import wait_until


@pytest.fixture
def small(site: Site) -> Iterator[Path]:
    """The site's state directory on a file system of its own, of 1 MiB."""
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(site.state)], check=True)
    try:
        yield site.state
    finally:
        if site.daemon is not None:
            site.kill()
        subprocess.run(["umount", str(site.state)], check=True)


@pytest.mark.root
@needs(tmpfs)
def test_a_disk_that_is_full_again_and_again_costs_nothing_that_was_accepted(site: Site, small: Path) -> None:
    """Filled in the middle of whatever is being written, emptied, filled again: each accepted success arrives."""
    site.configure('[jobs.beat]\nreplay = "all"\nattach = "output"\n')
    site.server.create_heartbeat("beat", expected_interval=86_400)
    site.start()
    accepted = []
    for number in range(6):
        filler = subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={small}/filler{number}", "bs=512"], stderr=subprocess.DEVNULL
        )
        for part in range(3):
            tag = f"{number}.{part}"
            ended = site.run("-j", "beat", "--wait", "20s", "--", "echo", tag)
            assert ended.returncode == 0
            accepted.append(tag)
        filler.wait()
        for filled in small.glob("filler*"):
            filled.unlink()
    wait_until(lambda: site.waiting() == 0, what="an empty outbox")

    told = [ping.body.strip() for ping in site.server.pings("beat")]
    assert set(told) == set(accepted)
    wait_until(lambda: site.agent("status", "--json").returncode == 0 and _is_healthy(site), what="health")


@pytest.mark.root
@needs(tmpfs)
def test_a_full_disk_stops_no_job_and_no_ping(site: Site, small: Path) -> None:
    """The daemon starts what is due on time and sends it from memory; once there is room, all of it is on record."""
    site.configure(f'[jobs.beat]\nevery = "1s"\nshell = "echo >> {site.home}/ran"\n')
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.start()
    wait_until(lambda: site.server.pings("beat"), what="a ping before")
    with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"0" * 512)
    wait_until(lambda: site.events("store.failed"), what="a word about the disk")
    heard, ran = len(site.server.pings("beat")), (site.home / "ran").stat().st_size
    wait_until(lambda: (site.home / "ran").stat().st_size > ran + 2, what="runs on a full disk")
    wait_until(lambda: len(site.server.pings("beat")) > heard + 2, what="their pings")
    (small / "filler").unlink()
    wait_until(lambda: _is_healthy(site), what="health")
    wait_until(lambda: site.rows("SELECT count(*) FROM runs")[0][0] >= (site.home / "ran").stat().st_size - 1)


def _is_healthy(site: Site) -> bool:
    return '"healthy": true' in site.agent("status", "--json").stdout


@pytest.mark.root
@needs(loop_devices)
@pytest.mark.parametrize("with_daemon", [True, False])
@pytest.mark.parametrize("spoil", [PowerCut.fail, PowerCut.turn_read_only])
def test_a_disk_that_fails_costs_a_line_and_not_the_pings_to_come(
    site: Site, tmp_path: Path, spoil: Callable[[PowerCut], None], with_daemon: bool
) -> None:
    """EIO, or read-only for the kernel's fear: jobs end as they end, a success is told, a failure is not.

    Once the disk is mended, what was accepted before is sent too.
    """
    for name in ("beat", "kept"):
        site.server.create_heartbeat(name, expected_interval=3600)
    with PowerCut(tmp_path) as disk:
        site.extra["AURA_STATE_DIR"] = str(disk.path / "state")
        if with_daemon:
            site.start()
        assert site.run("-H", "beat", "--", "true").returncode == 0
        wait_until(lambda: len(site.server.pings("beat")) == 1)
        site.server.refuse()
        assert site.run("-H", "kept", "--no-wait", "--", "true").returncode == 0
        spoil(disk)
        site.server.accept()

        good = site.run("-H", "beat", "--", "true")
        bad = site.run("-H", "beat", "--", "sh", "-c", "exit 8")

        assert (good.returncode, bad.returncode) == (0, 8)
        assert len((good.stderr + bad.stderr).splitlines()) == 1
        assert len(site.server.pings("beat")) == 2
        if with_daemon:
            assert site.daemon is not None
            assert site.daemon.poll() is None
            status = site.agent("status")
            assert (status.returncode, len(status.stderr.splitlines())) in ((0, 0), (1, 1)), status.stderr
            assert site.events("store.failed")
            site.kill()
        disk.unmount()
        disk.mount()
        assert [row["state"] for row in site.queue()] == ["waiting"]
        assert site.agent("queue", "flush").returncode == 0
        assert len(site.server.pings("kept")) == 1


def test_a_database_of_a_newer_version_is_left_alone(site: Site) -> None:
    """After a downgrade the daemon doesn't guess what the file means: a line says so, and jobs are told of without it."""
    site.server.create_heartbeat("beat")
    assert site.run("-H", "beat", "--", "true").returncode == 0
    with closing(sqlite3.connect(site.state / "outbox.db")) as database:
        database.execute("PRAGMA user_version=1000")

    refused = site.agent("run")
    ended = site.run("-H", "beat", "--", "true")

    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "newer aura-agent" in refused.stderr
    assert (ended.returncode, len(ended.stderr.splitlines())) == (0, 1)
    assert b"newer aura-agent" in ended.stderr
    assert len(site.server.pings("beat")) == 2
    assert site.rows("PRAGMA user_version") == [(1000,)]


def test_a_state_directory_that_is_removed_under_the_daemon(site: Site) -> None:
    """Jobs and wrappers go on and their pings arrive; the daemon says what is wrong, and a restart mends it."""
    for name in ("beat", "tick"):
        site.server.create_heartbeat(name, expected_interval=3600)
    site.configure('[jobs.tick]\nevery = "1s"\ncommand = ["true"]\n')
    site.start()
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: len(site.server.pings("beat")) == 1 and site.server.pings("tick"))
    shutil.rmtree(site.state)

    heard = len(site.server.pings("tick"))
    wait_until(lambda: len(site.server.pings("tick")) > heard + 1, what="pings of the daemon's job after that")

    ended = site.run("-H", "beat", "--", "true")
    assert (ended.returncode, ended.stderr) == (0, b"")
    wait_until(lambda: len(site.server.pings("beat")) == 2, what="the ping of a run after that")
    wait_until(lambda: site.events("store.failed"), what="a word about the store")
    assert "was removed" in site.events("store.failed")[0]["error"]
    assert site.stop() == 0
    site.start()
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: site.waiting() == 0)


def test_a_database_that_others_keep_locked_is_a_state_not_a_crash(site: Site) -> None:
    """What is reported meanwhile is kept beside it, and sent afterwards; ``make chaos`` locks it for a minute.

    Jobs and watches go on, and their pings arrive: what is known of their heartbeats can be read.
    """
    for name in ("beat", "alive", "tick"):
        site.server.create_heartbeat(name, expected_interval=3600)
    watch = f'[jobs.alive]\nevery = "1s"\nwatch.file = {{ path = "{site.config}" }}\n'
    site.configure(f'{watch}[jobs.tick]\nevery = "1s"\ncommand = ["true"]\n')
    site.start()
    wait_until(lambda: site.server.pings("alive") and site.server.pings("tick"), what="the first pings")
    with closing(sqlite3.connect(site.state / "outbox.db", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        for name in ("alive", "tick"):
            heard = len(site.server.pings(name))
            wait_until(lambda: len(site.server.pings(name)) > heard + 1, what=f"pings of {name} meanwhile")  # noqa: B023
        ended = site.run("-H", "beat", "--no-wait", "--", "true")
        status = site.agent("status", "--json")
        if "AURA_CHAOS_CYCLES" in os.environ:
            wait_until(lambda: site.events("store.failed"), timeout_s=120, what="a word about the lock")
    again = site.run("-H", "beat", "--no-wait", "--", "true")  # it takes the first one along
    wait_until(lambda: site.server.pings("beat"), what="the ping")

    assert [(each.returncode, each.stderr) for each in (ended, again)] == [(0, b"")] * 2
    assert (status.returncode, status.stderr) == (0, "")
    wait_until(lambda: site.waiting() == 0)
    assert site.stop() == 0

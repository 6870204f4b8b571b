"""A store that takes nothing more: what can be read there still counts, and jobs run from the daemon's start on."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_RUN, Site
from tests.machine import needs, tmpfs
from tests.waiting import wait_until

_WAITS = ("sh", "-c", "read x < gate")  # a job that goes on until somebody writes to the pipe


@pytest.fixture
def small(site: Site) -> Iterator[Path]:
    """The site's state directory on a file system of its own, with room for the log of a database."""
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", str(site.state)], check=True)
    try:
        yield site.state
    finally:
        if site.daemon is not None:
            site.stop()
        while os.path.ismount(site.state):
            subprocess.run(["umount", "-l", str(site.state)], check=True)


def _fill(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"0" * 512)


def _make_room(directory: Path) -> None:
    (directory / "filler").unlink()


def _turn_read_only(directory: Path) -> None:
    """Whoever opens a file from now on may only read."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    remount = ["mount", "-o", "remount,ro,bind", str(directory)]
    # Somebody may have opened a file in between, for a moment.
    wait_until(lambda: subprocess.run(remount, capture_output=True, check=False).returncode == 0)


def _turn_writable(directory: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw,bind", str(directory)], check=True)


def _begin_long_run(site: Site) -> "subprocess.Popen[bytes]":
    """Start a run that ``_end`` ends well; return once it is on record."""
    if not (site.home / "gate").exists():
        os.mkfifo(site.home / "gate")
    run = subprocess.Popen(
        [AURA_RUN, "-H", "beat", "--", *_WAITS], env=site.environment, cwd=site.home, stderr=subprocess.PIPE
    )
    wait_until(lambda: list((site.state / "runs").glob("*")), what="a start record")
    return run


def _end(site: Site, run: "subprocess.Popen[bytes]") -> None:
    (site.home / "gate").write_text("\n")
    _, error = run.communicate(timeout=60)
    assert run.returncode == 0, error


def _newer_version(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "outbox.db")) as database:
        database.execute("PRAGMA user_version=1000")


@pytest.mark.root
@needs(tmpfs)
@pytest.mark.parametrize("with_daemon", [False, True], ids=["alone", "daemon"])
@pytest.mark.parametrize("failed_in", ["database", "spool"])
@pytest.mark.parametrize("spoil", [_fill, _turn_read_only], ids=["full", "read-only"])
def test_no_success_is_sent_that_a_failure_on_record_withdraws(
    site: Site, small: Path, spoil: Callable[[Path], None], failed_in: str, with_daemon: bool
) -> None:
    """The disk takes nothing when the good run ends, but it can be read, and a later run has failed."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    assert site.run("-H", "beat", "--", "true").returncode == 0
    run = _begin_long_run(site)
    assert site.run("-H", "beat", "--no-wait", "--", "sh", "-c", "exit 3").returncode == 3
    if failed_in == "database":
        assert site.agent("history").returncode == 0  # it applies what the spool holds
        assert not list((small / "spool").glob("*.report"))
    if with_daemon:
        site.start()
    spoil(small)

    _end(site, run)

    assert len(site.server.pings("beat")) == 1


@pytest.mark.root
@needs(tmpfs)
@pytest.mark.parametrize("queued_in", ["database", "spool"])
@pytest.mark.parametrize(
    ("spoil", "mend"), [(_fill, _make_room), (_turn_read_only, _turn_writable)], ids=["full", "read-only"]
)
def test_a_success_sent_from_memory_does_not_send_the_queue_again(
    site: Site, small: Path, spoil: Callable[[Path], None], mend: Callable[[Path], None], queued_in: str
) -> None:
    """The store can't note what was sent: each later run would send all of the queue once more."""
    site.configure('[jobs.beat]\nreplay = "all"\nattach = "output"\n')
    site.server.create_heartbeat("beat", expected_interval=86_400)
    assert site.run("-j", "beat", "--", "echo", "first").returncode == 0
    for tag in ("queued-1", "queued-2"):
        assert site.run("-j", "beat", "--no-wait", "--", "echo", tag).returncode == 0
    if queued_in == "database":
        assert site.agent("history").returncode == 0  # it applies what the spool holds
        assert not list((small / "spool").glob("*.report"))
    spoil(small)

    for tag in ("later-1", "later-2"):
        assert site.run("-j", "beat", "--", "echo", tag).returncode == 0

    mend(small)
    assert site.agent("queue", "flush").returncode == 0

    sent = [ping.body.strip() for ping in site.server.pings("beat")]
    assert sent == ["first", "later-1", "later-2", "queued-1", "queued-2"]


@pytest.mark.root
@needs(tmpfs)
def test_a_success_that_nothing_speaks_against_is_sent(site: Site, small: Path) -> None:
    """With the ping URL that can be read there: no token and no API is needed for that."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    assert site.run("-H", "beat", "--", "true").returncode == 0
    assert site.run("-H", "beat", "--", "sh", "-c", "exit 3").returncode == 3
    _fill(small)
    (site.home / "token").unlink()
    asked = len([request for request in site.server.requests() if not request.path.startswith("/ping/")])

    assert site.run("-H", "beat", "--", "true").returncode == 0

    assert len(site.server.pings("beat")) == 2
    assert len([request for request in site.server.requests() if not request.path.startswith("/ping/")]) == asked


def test_a_failure_in_a_store_of_a_newer_version_counts(site: Site) -> None:
    """What it knows of the run that failed can be read, as far as nothing of that was changed."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    assert site.run("-H", "beat", "--", "true").returncode == 0
    run = _begin_long_run(site)
    assert site.run("-H", "beat", "--", "sh", "-c", "exit 3").returncode == 3
    _newer_version(site.state)

    _end(site, run)

    assert len(site.server.pings("beat")) == 1


def test_a_lost_run_on_record_counts_where_the_store_is_newer(site: Site) -> None:
    """A start record whose wrapper was killed withdraws what started before it."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    assert site.run("-H", "beat", "--", "true").returncode == 0
    run = _begin_long_run(site)
    killed = subprocess.Popen(
        [AURA_RUN, "-H", "beat", "--", "sh", "-c", "echo $$; read x"],
        env=site.environment,
        cwd=site.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    wait_until(lambda: len(list((site.state / "runs").glob("*"))) == 2, what="a second start record")
    killed.kill()
    killed.communicate()
    _newer_version(site.state)

    _end(site, run)

    assert len(site.server.pings("beat")) == 1


@pytest.mark.root
@needs(tmpfs)
@pytest.mark.parametrize("before", ["nothing", "a store", "a store whose daemon was killed"])
@pytest.mark.parametrize("spoil", ["full", "read-only"])
def test_a_daemon_starts_on_a_disk_that_takes_nothing(site: Site, small: Path, before: str, spoil: str) -> None:
    """Its job runs on time and is pinged, status says what can't be kept, and all is well once the disk is."""
    site.configure(f'[jobs.beat]\nevery = "1s"\nshell = "echo >> {site.home}/ran"\n')
    site.server.create_heartbeat("beat", expected_interval=3600)
    if before != "nothing":
        site.start()
        wait_until(lambda: site.server.pings("beat"), what="a ping before")
        site.kill() if before.endswith("killed") else site.stop()
    (site.home / "ran").unlink(missing_ok=True)
    heard = len(site.server.pings("beat"))
    _fill(small) if spoil == "full" else _turn_read_only(small)

    site.start()
    wait_until(lambda: len(site.server.pings("beat")) > heard + 1, what="pings from memory")
    status = site.agent("status")
    assert status.returncode == 0, status.stderr
    assert "problem: " in status.stdout
    assert '"healthy": false' in site.agent("status", "--json").stdout

    (small / "filler").unlink(missing_ok=True) if spoil == "full" else _turn_writable(small)
    wait_until(lambda: site.events("store.recovered"), what="a store that works")
    wait_until(lambda: '"healthy": true' in site.agent("status", "--json").stdout, what="health")
    runs = len((site.home / "ran").read_text())
    wait_until(lambda: site.rows("SELECT count(*) FROM runs")[0][0] >= runs - 1, what="their runs on record")


@pytest.mark.root
@needs(tmpfs)
def test_a_pause_holds_where_the_store_can_only_be_read(site: Site, small: Path) -> None:
    """What was decided before is known; a new pause is refused, as it would not outlive the daemon."""
    site.configure(
        f'[jobs.beat]\nevery = "1s"\nshell = "echo >> {site.home}/ran"\n[jobs.other]\nevery = "1s"\nshell = ":"\n'
    )
    for name in ("beat", "other"):
        site.server.create_heartbeat(name, expected_interval=3600)
    site.start()
    assert site.agent("pause", "beat").returncode == 0
    assert site.stop() == 0
    (site.home / "ran").unlink(missing_ok=True)
    heard = len(site.server.pings("other"))
    _turn_read_only(small)

    site.start()
    wait_until(lambda: len(site.server.pings("other")) > heard + 2, what="runs of the other job")
    refused = site.agent("pause", "other")

    assert not (site.home / "ran").exists()
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


@pytest.mark.root
@needs(tmpfs)
def test_a_second_daemon_is_refused_on_a_read_only_store_too(site: Site, small: Path) -> None:
    """The lock needs no room."""
    site.configure()
    site.start()
    assert site.stop() == 0
    _turn_read_only(small)
    site.start()

    second = site.agent("run", env=site.environment | {"AURA_SOCKET": str(site.home / "other/agent.sock")})

    assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
    assert "another daemon" in second.stderr

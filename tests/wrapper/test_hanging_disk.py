"""A store whose disk hangs, or whose locks somebody keeps: the job runs, hears signals, and its status is passed on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.powercut import PowerCut
from tests.e2e.sites import AURA_RUN, Site
from tests.machine import loop_devices, needs
from tests.waiting import wait_until
from tests.wrapper.runs import QUEUE, Host

_ROOT = needs(loop_devices)
_HOLD = "import fcntl, os, sys\nfile = os.open(sys.argv[1], os.O_RDONLY)\nfcntl.flock(file, fcntl.LOCK_EX)\n"
_HOLD += "print(flush=True)\nos.kill(os.getpid(), 19)\n"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Have *path* locked by a process that is stopped."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_a_stopped_holder_of_boots_keeps_no_job(host: Host) -> None:
    """It runs and hears its signal; what it reports is stored all the same: the database knows the boot."""
    host.state.mkdir()
    (host.state / "boots").write_text("an-older-boot\n")
    ready = host.home / "ready"
    with _held(host.state / "boots"):
        run = host.start(*QUEUE, "--", "sh", "-c", f"trap 'exit 9' TERM; : > {ready}; while :; do sleep 0.01; done")
        wait_until(ready.exists, what="the job")
        run.send_signal(signal.SIGTERM)

        run.communicate(timeout=60)
        assert run.returncode == 9

    assert host.report()["code"] == "9"


def test_a_stopped_holder_of_a_note_is_another_run(host: Host) -> None:
    """--no-overlap asks for the lock without waiting."""
    assert host.run(*QUEUE, "--no-overlap", "--", "true").returncode == 0
    (note,) = (host.state / "locks").iterdir()

    with _held(note):
        assert host.run(*QUEUE, "--no-overlap", "--", "true").returncode == 75


def test_a_stopped_holder_of_the_store_keeps_no_damaged_database_in_use(site: Site) -> None:
    """Who would set it aside gives up, and says why; the run is stored."""
    site.server.create_heartbeat("beat")
    site.state.mkdir(mode=0o700)
    (site.state / "outbox.db").write_bytes(b"no database" * 1000)

    with _held(site.state):
        ended = site.run("-H", "beat", "--wait", "5s", "--", "sh", "-c", "exit 3")

    assert ended.returncode == 3
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: site.server.pings("beat"), what="the ping, once nobody holds it")


@pytest.fixture
def disk(site: Site, tmp_path: Path) -> Iterator[PowerCut]:
    """The site's store on a file system of its own; never left frozen."""
    with PowerCut(tmp_path) as made:
        site.extra["AURA_STATE_DIR"] = str(made.path / "state")
        site.server.create_heartbeat("beat", expected_interval=3600)
        try:
            yield made
        finally:
            _thaw(made)


def _freeze(disk: PowerCut) -> None:
    subprocess.run(["fsfreeze", "-f", str(disk.path)], check=True)


def _thaw(disk: PowerCut) -> None:
    subprocess.run(["fsfreeze", "-u", str(disk.path)], check=False, stderr=subprocess.DEVNULL)


def _has_ended_badly(site: Site) -> bool:
    history = site.agent("history", "--json").stdout
    return '"outcome": "failed"' in history or '"outcome": "lost"' in history


def _start(site: Site, *arguments: str) -> "subprocess.Popen[bytes]":
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([AURA_RUN, *arguments], env=site.environment, cwd=site.home, **pipes)  # type: ignore[call-overload,no-any-return]


@pytest.mark.root
@_ROOT
@pytest.mark.parametrize("options", [[], ["--no-overlap"], ["--timeout", "100s"], ["--no-wait"]], ids=" ".join)
def test_a_frozen_store_delays_no_job_and_no_signal(site: Site, disk: PowerCut, options: list[str]) -> None:
    """The job's output ends with it, too: no process that hangs has it open."""
    ready = site.home / "ready"
    assert site.run("-H", "beat", "--no-wait", "--", "true").returncode == 0
    _freeze(disk)

    script = f"trap 'echo bye; exit 9' TERM; : > {ready}; while :; do sleep 0.01; done"
    run = _start(site, "-H", "beat", *options, "--", "sh", "-c", script)
    wait_until(ready.exists, what="the job")
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)

    assert (run.returncode, output) == (9, b"bye\n")
    assert not site.server.pings("beat")


@pytest.mark.root
@_ROOT
def test_a_success_on_a_frozen_store_is_told_from_memory(site: Site, disk: PowerCut) -> None:
    """One line names the disk; a later run on a disk that works again is told as ever."""
    assert site.run("-H", "beat", "--", "true").returncode == 0
    _freeze(disk)

    ended = site.run("-H", "beat", "--", "true")

    assert ended.returncode == 0
    assert b"its disk doesn't answer" in ended.stderr
    wait_until(lambda: len(site.server.pings("beat")) >= 2, what="the ping from memory")
    _thaw(disk)
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: len(site.server.pings("beat")) >= 3, what="the next one")


@pytest.mark.root
@_ROOT
def test_a_store_that_freezes_while_the_job_runs(site: Site, disk: PowerCut) -> None:
    """Its start is on record, its end isn't at once: it is as soon as the disk answers."""
    ready, go = site.home / "ready", site.home / "go"
    script = f": > {ready}; while [ ! -e {go} ]; do sleep 0.01; done; exit 4"
    run = _start(site, "-H", "beat", "--", "sh", "-c", script)
    records = disk.path / "state/runs"
    wait_until(lambda: ready.exists() and records.exists() and any(records.iterdir()), what="a start record")
    _freeze(disk)
    go.touch()

    run.communicate(timeout=60)
    assert run.returncode == 4

    _thaw(disk)
    wait_until(lambda: _has_ended_badly(site), what="the run in the history")


@pytest.mark.root
@_ROOT
def test_a_store_that_freezes_during_delivery(site: Site, disk: PowerCut) -> None:
    """The bound on the wait holds though no signal gets through to what hangs."""
    site.server.refuse()
    run = _start(site, "-H", "beat", "--wait", "2s", "--", "true")
    wait_until((disk.path / "state/outbox.db").exists, what="a delivery")
    _freeze(disk)

    run.communicate(timeout=60)
    assert run.returncode == 0

"""A daemon whose store's disk hangs: a file system that is frozen under it, and thawed again."""

import asyncio
import json
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aura_agent.api.ledger import Purpose
from aura_agent.api.limiter import Limiter
from aura_agent.clock import SystemClock
from aura_agent.secret import Secret
from tests.e2e.powercut import PowerCut
from tests.e2e.sites import Site
from tests.machine import loop_devices, needs
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    needs(loop_devices),
]

_HANGS = "has not answered since"


class Disk:
    """A file system of its own for a store, that can be frozen: whoever writes then waits until it is thawed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "-f", str(self.path)], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "-u", str(self.path)], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def _disk(directory: Path) -> Iterator[Disk]:
    with PowerCut(directory) as mounted:
        disk = Disk(mounted.path)
        try:
            yield disk
        finally:
            disk.thaw()


@pytest.fixture
def disk(site: Site, tmp_path: Path) -> Iterator[Disk]:
    """The disk of the site's store. It is thawed before anything else ends, or nothing of it could."""
    with _disk(tmp_path) as disk:
        site.extra["AURA_STATE_DIR"] = str(disk.path / "state")
        yield disk
        disk.thaw()
        if site.daemon is not None:
            site.kill()


@pytest.fixture
def ran(site: Site) -> Path:
    """What each run of the job ``tick`` adds a line to; it runs every second."""
    site.server.create_heartbeat("tick", expected_interval=3600)
    ran = site.home / "ran"
    site.configure(f'[jobs.tick]\nevery = "1s"\nshell = "echo >> {ran}"\n')
    return ran


@pytest.fixture
def frozen(site: Site, disk: Disk, ran: Path) -> Disk:
    """The site's disk, frozen after pings of its job."""
    site.start()
    wait_until(lambda: site.server.pings("tick"), what="a first ping")
    disk.freeze()
    wait_for_runs(ran, 1)
    return disk


def wait_for_runs(ran: Path, count: int) -> None:
    before = ran.stat().st_size if ran.exists() else 0
    wait_until(lambda: ran.exists() and ran.stat().st_size >= before + count, 60, what=f"{count} more runs")


def has_left(pid: int) -> bool:
    """Whether the process is over but for calls that the kernel doesn't return from while the disk is frozen."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def history(site: Site, job: str) -> list[dict[str, object]]:
    listed = site.agent("history", job, "--json")
    assert listed.returncode == 0, listed.stderr
    runs: list[dict[str, object]] = json.loads(listed.stdout)
    return runs


def test_jobs_run_on_time_and_no_outcome_is_lost(site: Site, frozen: Disk, ran: Path) -> None:
    """No run waits for the record of the one before, so none is skipped; all are on record once the disk answers."""
    wait_for_runs(ran, 10)
    frozen.thaw()
    count = ran.stat().st_size

    wait_until(lambda: len(history(site, "tick")) >= count, what="the outcome of each run")
    assert {run["outcome"] for run in history(site, "tick")} == {"succeeded"}


def test_successes_are_sent_from_memory(site: Site, frozen: Disk, ran: Path) -> None:
    """Nothing can be read, so each is sent on its own word; the disk, once thawed, has them as well."""
    before = len(site.server.pings("tick"))
    wait_until(lambda: len(site.server.pings("tick")) >= before + 3, 60, what="pings while the disk is frozen")
    frozen.thaw()

    wait_until(lambda: site.events("store.recovered"), 60, what="that the disk answers again")
    wait_until(lambda: not site.queue(), 60, what="an empty queue")


def test_a_success_that_a_later_failure_contradicts_is_not_sent_from_memory(site: Site, disk: Disk) -> None:
    """The failure is in the store, which can't be read; the daemon remembers it."""
    site.server.create_heartbeat("twice", expected_interval=3600)
    gate = site.home / "gate"
    site.configure(
        '[jobs.twice]\nevery = "1d"\noverlap = "allow"\n'
        f'shell = "mkdir {site.home}/first && until test -e {gate}; do sleep 0.1; done"\n'
    )
    site.start()
    for _ in range(2):  # the second run fails: the directory is there
        assert site.agent("trigger", "twice").returncode == 0
        wait_until((site.home / "first").exists)
    wait_until(lambda: site.events("run.finished"), what="the failure")
    disk.freeze()
    gate.touch()

    wait_until(lambda: site.events("ping.postponed"), 60, what="the judgement of the success")
    disk.thaw()
    wait_until(lambda: len(site.events("run.finished")) == 2, 60, what="the success on record")
    assert not site.server.pings("twice")


def test_status_answers_and_names_the_disk(site: Site, frozen: Disk, ran: Path) -> None:
    wait_until(lambda: _HANGS in site.agent("status").stdout, 60, what="a status that says so")

    status = site.agent("status")

    assert status.returncode == 0, status.stderr
    assert f"problem: {frozen.path}/state {_HANGS}" in status.stdout
    assert "tick" in status.stdout


def test_commands_that_change_the_store_answer(site: Site, frozen: Disk, ran: Path) -> None:
    """They say in one line why it can't be done; the daemon goes on."""
    for command in (["pause", "tick"], ["reload"]):
        refused = site.agent(*command)

        assert refused.returncode == 1
        assert _HANGS in refused.stderr
        assert refused.stderr.count("\n") == 1
    wait_for_runs(ran, 2)


def test_sigterm_ends_a_daemon_whose_disk_hangs(site: Site, frozen: Disk) -> None:
    """It says so, and leaves; what the kernel has not returned from is all that is left of it."""
    assert site.daemon is not None
    daemon = site.daemon
    daemon.terminate()

    wait_until(lambda: has_left(daemon.pid), 30, what="that the daemon has left")
    assert _HANGS in site.log.read_text()
    frozen.thaw()
    assert daemon.wait(timeout=60) == 1
    site.daemon = None


def test_a_new_daemon_starts_beside_what_is_left_of_the_last(site: Site, frozen: Disk, ran: Path) -> None:
    """What is left holds the store's lock until the disk is thawed; the new one uses the store then."""
    assert site.daemon is not None
    last = site.daemon
    last.terminate()
    wait_until(lambda: has_left(last.pid), 30, what="that the daemon has left")
    site.start()
    wait_for_runs(ran, 2)
    frozen.thaw()
    last.wait(timeout=60)

    wait_until(lambda: site.events("store.recovered"), 60, what="that the new daemon uses the store")
    wait_until(lambda: not site.queue(), 60, what="an empty queue")
    assert site.stop() == 0


def test_an_aura_run_leaves_a_daemon_whose_disk_hangs(site: Site, frozen: Disk) -> None:
    """Its job and its status don't wait for the daemon."""
    ended = site.run("-H", "beat", "--wait", "1s", "--", "sh", "-c", "exit 6")

    assert ended.returncode == 6


def test_a_daemon_starts_on_a_disk_that_hangs(site: Site, disk: Disk, ran: Path) -> None:
    """Jobs run and are pinged from the first minute on; the store is used once its disk answers."""
    disk.freeze()
    site.start()

    wait_until(lambda: len(site.server.pings("tick")) >= 2, 60, what="pings of the job")
    assert _HANGS in site.agent("status").stdout
    disk.thaw()
    wait_until(lambda: site.events("store.recovered"), 60, what="that the disk answers")
    wait_until(lambda: history(site, "tick"), what="runs on record")
    assert site.stop() == 0


def test_a_daemon_that_started_on_a_disk_that_hangs_can_be_stopped(site: Site, disk: Disk, ran: Path) -> None:
    disk.freeze()
    site.start()
    wait_for_runs(ran, 1)
    assert site.daemon is not None
    daemon = site.daemon
    daemon.terminate()

    wait_until(lambda: has_left(daemon.pid), 30, what="that the daemon has left")
    disk.thaw()
    daemon.wait(timeout=60)
    site.daemon = None


@pytest.mark.timeout(300)  # it looks at itself once a minute
def test_own_heartbeat_is_silent_and_the_watchdog_fed(site: Site, disk: Disk, ran: Path) -> None:
    """A restart would end the jobs, which run, and mend no disk; so systemd is only told what is wrong."""
    site.server.create_heartbeat("self", expected_interval=60)
    site.configure(f'[jobs.tick]\nevery = "1s"\nshell = "echo >> {ran}"\n', agent='heartbeat = "self"')
    with _supervised(site) as said:
        site.start()
        wait_until(lambda: site.server.pings("tick"), what="a ping of the job")
        disk.freeze()
        wait_until(lambda: any(_HANGS in line for line in said()), 60, what="a status that names the disk")
        pings, fed = len(site.server.pings("self")), said().count("WATCHDOG=1")

        wait_until(lambda: _own_condition(site) is False, 90, what="a look at itself")
        assert said().count("WATCHDOG=1") > fed
        assert len(site.server.pings("self")) == pings
        disk.thaw()
        wait_until(lambda: len(site.server.pings("self")) > pings, 90, what="a ping of its own after that")


def _own_condition(site: Site) -> object:
    changes = [change for change in site.events("watch.changed") if change["job"] == "aura-agent itself"]
    return changes[-1]["healthy"] if changes else None


@contextmanager
def _supervised(site: Site) -> Iterator[Callable[[], list[str]]]:
    """Listen as systemd does; give a function that returns the lines the daemon has sent so far."""
    lines: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(site.home / "notify"))
        site.extra |= {"NOTIFY_SOCKET": str(site.home / "notify"), "WATCHDOG_USEC": "4000000"}

        def listen() -> None:
            while message := listener.recv(4096):
                lines.extend(message.decode().splitlines())

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield lambda: list(lines)
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(site.home / "notify"))
            listening.join()


def test_the_budget_of_a_token_waits_for_no_disk(disk: Disk) -> None:
    """The ledger in memory goes on; the event loop turns meanwhile."""
    limiter = Limiter(
        Secret("token"), "http://127.0.0.1", SystemClock(), random.Random(1), directory=str(disk.path), boot_id="boot"
    )
    disk.freeze()
    turned = False

    async def turn() -> None:
        nonlocal turned
        await asyncio.sleep(0)
        turned = True

    async def ask() -> int:
        turning = asyncio.create_task(turn())
        reserved_ns = await limiter.admit(Purpose.NEEDED, 1.0)
        await turning
        return reserved_ns

    thaw = threading.Timer(40, disk.thaw)  # a loop that hangs would not end the test
    thaw.start()
    try:
        assert asyncio.run(ask()) > 0
        assert thaw.is_alive(), "the budget waited for the disk"
    finally:
        thaw.cancel()
    assert turned

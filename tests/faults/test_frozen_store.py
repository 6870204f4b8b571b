"""A daemon whose store's disk hangs: a file system that is frozen under it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.powercut import PowerCut
from tests.e2e.sites import Site
from tests.machine import loop_devices, needs
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    needs(loop_devices),
]


@pytest.fixture
def frozen(site: Site, tmp_path: Path) -> Iterator[PowerCut]:
    """The site's store on a file system of its own, frozen after a first run of its job."""
    ran = site.home / "ran"
    with PowerCut(tmp_path) as disk:
        site.extra["AURA_STATE_DIR"] = str(disk.path / "state")
        site.configure(f'[jobs.tick]\nevery = "1s"\nshell = "echo >> {ran}"\n')
        site.start()
        wait_until(ran.exists, what="a first run")
        subprocess.run(["fsfreeze", "-f", str(disk.path)], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["fsfreeze", "-u", str(disk.path)], check=False, stderr=subprocess.DEVNULL)


def test_jobs_of_the_daemon_run_on_and_it_hears_signals(site: Site, frozen: PowerCut) -> None:
    """More than one run after the first that can't be recorded; then it is told to stop, and ends once it can."""
    ran = site.home / "ran"
    before = ran.stat().st_size
    wait_until(lambda: ran.stat().st_size >= before + 3, timeout_s=60, what="runs on a frozen disk")
    assert site.daemon is not None
    site.daemon.terminate()
    wait_until(lambda: site.events("agent.stopping"), what="that it is stopping")
    subprocess.run(["fsfreeze", "-u", str(frozen.path)], check=True)

    assert site.daemon.wait(timeout=60) == 0
    site.daemon = None


def test_an_aura_run_leaves_a_daemon_whose_disk_hangs(site: Site, frozen: PowerCut) -> None:
    """Its job and its status don't wait for the daemon."""
    ended = site.run("-H", "beat", "--wait", "1s", "--", "sh", "-c", "exit 6")

    assert ended.returncode == 6

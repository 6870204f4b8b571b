"""What a job expects may lie on a disk that hangs: that costs this job's report its answer, and nobody else's."""

import time
from pathlib import Path

import pytest

from aura_agent.report import wire
from aura_agent.wrapper.daemon import Daemon
from tests.e2e.sites import Site
from tests.hanging import fuse, hanging
from tests.machine import needs
from tests.waiting import wait_until


def _success(run_id: str, **fields: str) -> bytes:
    boot_ns, wall_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    instants = {"start_boot_ns": boot_ns, "start_ns": wall_ns, "end_boot_ns": boot_ns, "end_ns": wall_ns}
    facts = {key: str(value) for key, value in instants.items()}
    return wire.encode("run", {"run": run_id, "outcome": "succeeded", "code": "0", **facts, **fields})


@pytest.mark.root
@needs(fuse)
def test_an_expected_file_on_a_disk_that_hangs_makes_nobody_else_wait(site: Site, tmp_path: Path) -> None:
    """Other reports are kept at once, the daemon stays healthy, and ends in time."""
    for name in ("slow", "quick"):
        site.server.create_heartbeat(name)
    place = tmp_path / "hanging"
    place.mkdir()
    site.configure(f'[jobs.slow]\ncommand = ["/bin/true", "slow"]\nexpect.file = {{ path = "{place}/made" }}\n')
    site.start()
    with hanging(place):
        waiting = Daemon(str(site.home / "run/agent.sock"), 60)
        waiting._send(_success("a" * 16, job="slow", ref="heartbeat:slow", settings="daemon"))

        assert site.run("-H", "quick", "--", "true").returncode == 0
        wait_until(lambda: site.server.pings("quick"), what="another's ping")
        assert '"healthy": true' in site.agent("status", "--json").stdout
        assert site.server.pings("slow") == []
        assert site.stop() == 0
        waiting.close()

    assert site.server.pings("slow") == []


@pytest.mark.root
@needs(fuse)
def test_a_success_is_kept_once_the_disk_has_answered(site: Site, tmp_path: Path) -> None:
    """As a failure, if it answers with an error."""
    site.server.create_heartbeat("slow")
    place = tmp_path / "hanging"
    place.mkdir()
    site.configure(f'[jobs.slow]\ncommand = ["/bin/true", "slow"]\nexpect.file = {{ path = "{place}/made" }}\n')
    site.start()
    daemon = Daemon(str(site.home / "run/agent.sock"), 60)
    with hanging(place):
        daemon._send(_success("a" * 16, job="slow", ref="heartbeat:slow", settings="daemon"))
        assert site.run("-H", "slow", "--", "false").returncode == 1
    daemon.hand_over(_success("b" * 16, job="x"))
    daemon.close()

    wait_until(lambda: site.rows("SELECT 1 FROM runs WHERE run_id = 'aaaaaaaaaaaaaaaa'"), what="its outcome")
    assert site.rows("SELECT outcome FROM runs WHERE run_id = 'aaaaaaaaaaaaaaaa'") == [("failed",)]
    assert site.server.pings("slow") == []

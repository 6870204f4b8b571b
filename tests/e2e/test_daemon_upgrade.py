"""The package, its dependencies and Python's own library are removed under a daemon: it goes on, and ends when told."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.sites import Site
from tests.waiting import wait_until
from tests.wrapper.installations import Installation

_JOBS = """
[jobs.slow]
heartbeat = "slow"
schedule = "@yearly"
shell = "sleep 1000"
timeout = "0.5s"
kill_after = "1s"
[jobs.made]
heartbeat = "made"
every = "1s"
shell = "echo > {home}/made"
expect.file = {{ path = "{home}/made" }}
[jobs.ends]
heartbeat = "ends"
every = "1s"
overlap = "forbid"
shell = "echo $$ > {home}/pid; sleep 1000"
stop_grace = "0.1s"
[jobs.init]
heartbeat = "init"
every = "1s"
watch.process = {{ pattern = "Installation|python" }}
"""


@pytest.mark.parametrize("change", [Installation.remove_with_stdlib, Installation.replace])
def test_daemon_goes_on_when_its_files_are_replaced(site: Site, change: Callable[[Installation], None]) -> None:
    """Pings, expectations, reports, failed commands: the jobs go on; SIGTERM ends jobs and daemon."""
    for name in ("slow", "made", "ends", "init", "beat"):
        site.server.create_heartbeat(name)
    site.configure(_JOBS.format(home=site.home), agent='log_level = "debug"\n[status]\nlisten = "127.0.0.1:0"')
    installation = Installation(site.home / "old")
    with site.log.open("wb") as log:
        daemon = installation.start(site.environment, "run", program="aura-agent", stderr=log)
    try:
        wait_until(lambda: site.events("modules.loaded"), what="late modules")
        change(installation)
        refused = site.agent("status")
        before = len(site.server.pings("made"))
        reported = site.run(
            "-H", "beat", "--", "true", env=site.environment | {"AURA_SOCKET": f"{site.home}/run/agent.sock"}
        )
        wait_until(lambda: len(site.server.pings("made")) > before and site.server.pings("beat"), what="pings")
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=60)

    assert daemon.returncode == 0, site.log.read_text()
    assert (refused.returncode, reported.returncode) == (1, 0)
    assert [event for name in ("agent.crashed", "run.crashed") for event in site.events(name)] == []
    assert site.events("http.failed")
    assert not Path(f"/proc/{(site.home / 'pid').read_text().strip()}").exists()

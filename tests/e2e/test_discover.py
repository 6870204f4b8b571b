"""A newcomer's first minutes: from a crontab to heartbeats in Aura that are pinged."""

import json

import pytest

from aura_agent.discover.crontab import read_table
from tests.discover import crond
from tests.e2e.sites import Site


@pytest.mark.parametrize("command", ["/bin/true", "cat | grep -q in && true%in"])
def test_discover_then_sync_then_cron_pings(site: Site, command: str) -> None:
    """The heartbeat is created as often as cron runs the job, and the line that cron has now pings it."""
    for place in ("etc", "usr/sbin"):
        (site.home / place).mkdir(parents=True)
    (site.home / "usr/sbin/crond").write_text("CRON_TZ")  # the copy of a host with cronie
    crontab = site.home / "etc/crontab"
    crontab.write_text(f"0 3 * * * root {command}\n")
    told = site.agent("discover", "--root", str(site.home), "-c", str(site.config), "--write", "--json")
    assert told.returncode == 0, told.stderr
    heartbeat = json.loads(told.stdout)["jobs"][0]["heartbeat"]

    synced = site.agent("sync")
    entry = read_table(crontab.read_text(), "system")[0].entry
    assert entry is not None
    ran = crond.run(entry.command + entry.given, site.environment, site.home)

    assert (synced.returncode, ran.returncode, ran.stdout, ran.stderr) == (0, 0, b"", b"")
    assert site.server.status(heartbeat).expected_interval == 86_400
    assert len(site.server.pings(heartbeat)) == 1

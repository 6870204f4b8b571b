"""The daemon as process 1, a container's entrypoint: in a pid namespace of its own. Takes root."""

import os
import signal
import subprocess

import pytest

from tests.e2e.sites import AURA_AGENT, Site
from tests.machine import needs, pid_namespaces
from tests.waiting import wait_until
from tests.wrapper.runs import children

pytestmark = [pytest.mark.root, needs(pid_namespaces)]

_JOB = '''
[jobs.parent]
every = "1h"
retries = 2
retry_delay = "10ms"
shell = """
  before=$(wc -l <ended)
  for n in 1 2 3 4 5; do (sh -c "echo >>ended" &); done
  until test $(wc -l <ended) = $((before + 5)); do sleep .02; done
  test $before = 10
"""
cwd = "{home}"
'''


def test_process_1_reaps_what_jobs_leave_behind(site: Site) -> None:
    """Zombies would use up the container's processes; and each attempt's own status is taken by who waits for it."""
    site.server.create_heartbeat("parent")
    site.configure(_JOB.format(home=site.home))
    (site.home / "ended").touch()
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with site.log.open("ab") as log:
        outside = subprocess.Popen([*namespace, AURA_AGENT, "run"], env=site.environment, cwd=site.home, stderr=log)
    try:
        wait_until(lambda: site.events("agent.started"))
        (init,) = children(outside.pid)

        assert site.agent("trigger", "parent").returncode == 0
        wait_until(lambda: site.server.pings("parent"))
        wait_until(lambda: children(init) == [], what="a process 1 without zombies")

        (run,) = site.events("run.finished")
        assert (run["outcome"], run["attempts"]) == ("succeeded", 3)
        os.kill(init, signal.SIGTERM)
        assert outside.wait(timeout=30) == 0
    finally:
        outside.kill()
        outside.wait()

"""A run in a time namespace: its CLOCK_BOOTTIME is another, its boot is the host's (time_namespaces(7))."""

import subprocess
import time

import pytest

from tests.e2e.sites import AURA_RUN, Site
from tests.machine import needs, time_namespaces
from tests.waiting import wait_until
from tests.wrapper.runs import QUEUE, Host

pytestmark = [
    pytest.mark.root,
    needs(time_namespaces),
]
_AHEAD = ["unshare", "--time", "--boottime", "100000", "--fork"]


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("offset_s", ["100000", "-1"])
def test_a_report_has_the_hosts_boottime(host: Host, offset_s: str) -> None:
    """Whichever way the namespace's clock is off."""
    began_ns = _boot_ns()

    subprocess.run(
        ["unshare", "--time", "--boottime", offset_s, "--fork", AURA_RUN, *QUEUE, "--", "true"],
        env=host.environment,
        cwd=host.home,
        check=True,
    )

    report = host.report()
    assert began_ns <= int(report["start_boot_ns"]) <= int(report["end_boot_ns"]) <= _boot_ns()


def test_a_failure_on_the_host_withdraws_an_earlier_success_from_a_namespace(site: Site) -> None:
    """Its start isn't put behind all that are to come."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.refuse()
    inside = [*_AHEAD, AURA_RUN, "-H", "beat", "--no-wait", "--", "true"]
    subprocess.run(inside, env=site.environment, cwd=site.home, check=True)
    site.run("-H", "beat", "--no-wait", "--", "false")
    site.server.accept()

    site.agent("queue", "flush")

    assert [row["state"] for row in site.queue("--all")] == ["invalidated"]
    assert not site.server.pings("beat")


@pytest.mark.parametrize("with_daemon", [True, False])
def test_a_success_in_a_namespace_is_delivered_and_so_are_later_ones(site: Site, with_daemon: bool) -> None:
    """Neither waits for the offset to pass, also where the wrapper delivers by itself."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    if with_daemon:
        site.start()

    subprocess.run([*_AHEAD, AURA_RUN, "-H", "beat", "--", "true"], env=site.environment, cwd=site.home, check=True)
    wait_until(lambda: len(site.server.pings("beat")) == 1, what="the namespace's ping")
    site.run("-H", "beat", "--", "true")

    wait_until(lambda: len(site.server.pings("beat")) == 2, what="the next one")

"""Outages, kills and power cuts: what was accepted arrives, the newest of each heartbeat, and nothing is left over."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from aura_agent.report import spool, wire
from tests.e2e.powercut import PowerCut
from tests.e2e.sites import AURA_RUN, Site
from tests.machine import loop_devices, needs
from tests.waiting import wait_until

_BEATS = [f"beat-{number}" for number in range(10)]


def test_fifty_runs_in_an_outage_and_three_kills_while_draining(site: Site) -> None:
    """Aura refuses connections; afterwards it is slow, and the daemon dies three times while it drains."""
    for name in _BEATS:
        site.server.create_heartbeat(name, expected_interval=3600)
    site.server.refuse()
    for number in range(5):
        for name in _BEATS:
            ended = site.run("--no-wait", "-H", name, "--attach", "output", "--", "echo", f"run {number}")
            assert (ended.returncode, ended.stderr) == (0, b"")
    site.server.accept()
    site.server.set_fault("slow", target="all", delay_s=0.3)

    for kill in range(3):
        heard = len(site.server.pings())
        site.start()
        wait_until(lambda heard=heard: len(site.server.pings()) > heard, what=f"a ping before kill {kill}")  # type: ignore[misc]
        site.kill()
    site.start()
    wait_until(lambda: site.waiting() == 0, timeout_s=60, what="an empty outbox")

    newest = {name: site.server.pings(name)[-1].body.strip() for name in _BEATS}
    assert newest == dict.fromkeys(_BEATS, "run 4")
    assert {row["state"] for row in site.queue("--all")} == {"delivered", "superseded"}
    assert site.stop() == 0


@pytest.mark.parametrize("with_daemon", [False, True], ids=["spool", "socket"])
def test_killed_at_any_moment_what_was_accepted_is_kept(site: Site, with_daemon: bool) -> None:
    """kill -9 of aura-run, 100 times at random: where it returned 0, the ping is in the outbox."""
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    rng = random.Random(seed)
    site.server.refuse()
    if with_daemon:
        site.start()
    returned = 0
    for number in range(100):
        wrapper = subprocess.Popen(
            [AURA_RUN, "--no-wait", "-H", f"beat-{number}", "--", "true"],
            env=site.environment,
            cwd=site.home,
            stderr=subprocess.DEVNULL,
        )
        try:
            wrapper.wait(rng.uniform(0.0, 0.3))
        except subprocess.TimeoutExpired:
            wrapper.kill()
            wrapper.wait()
        if wrapper.returncode == 0:
            returned += 1
            assert f"heartbeat:beat-{number}" in _accepted(site)
    assert returned > 0
    assert all(spool.read(path, 0) for path in spool.waiting(str(site.state)))


def _accepted(site: Site) -> set[str]:
    spooled = [spool.read(path, 0) for path in spool.waiting(str(site.state))]
    refs = {wire.decode(record)[1]["ref"] for record in spooled if record}
    if (site.state / "outbox.db").exists():
        kept = site.rows("SELECT refs.ref FROM refs JOIN entries USING (stream_id) UNION ALL SELECT line FROM inbox")
        refs |= {text if isinstance(text, str) else wire.decode(text)[1]["ref"] for (text,) in kept}
    return refs


@pytest.mark.root
@needs(loop_devices)
@pytest.mark.parametrize("with_daemon", [False, True], ids=["spool", "socket"])
def test_a_power_cut_right_after_the_acknowledgement(site: Site, tmp_path: Path, with_daemon: bool) -> None:
    """The machine loses power the moment aura-run has returned: the report is on disk."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.refuse()
    with PowerCut(tmp_path) as disk:
        site.extra["AURA_STATE_DIR"] = str(disk.path / "state")
        if with_daemon:
            site.start()
        ended = site.run("--no-wait", "-H", "beat", "--", "true")
        disk.cut()
        if with_daemon:
            site.kill()
        disk.mount()

        assert (ended.returncode, ended.stderr) == (0, b"")
        assert [(row["heartbeat"], row["state"]) for row in site.queue()] == [("beat", "waiting")]
        site.server.accept()
        flushed = site.agent("queue", "flush")
        assert flushed.returncode == 0, flushed.stderr
        assert len(site.server.pings("beat")) == 1


def test_a_ping_that_arrived_without_our_knowing_is_sent_again_once(site: Site) -> None:
    """The connection drops after Aura took it: at least once, and then it is over."""
    site.server.create_heartbeat("beat")
    site.server.set_fault("drop_after", target="ping", times=1)
    site.start()
    site.run("-H", "beat", "--", "true")

    wait_until(lambda: site.waiting() == 0 and len(site.server.pings("beat")) == 2)


def test_without_a_daemon_aura_run_delivers_by_itself(site: Site) -> None:
    """Within --wait; what an outage left behind goes along the next time."""
    site.server.create_heartbeat("one")
    site.server.create_heartbeat("two")
    site.server.refuse()
    assert site.run("-H", "one", "--wait", "1s", "--", "true").returncode == 0
    assert site.waiting() == 1
    site.server.accept()
    wait_until(lambda: site.run("-H", "two", "--", "true").returncode == 0 and len(site.server.pings()) >= 2)

    assert site.waiting() == 0
    assert {ping.name for ping in site.server.pings()} == {"one", "two"}


def test_with_no_flags_at_all_the_heartbeat_is_found_by_name(site: Site) -> None:
    """`aura-run -- ./backup.sh` pings the heartbeat named backup, and HOST/backup before it."""
    script = site.home / "backup.sh"
    script.write_text("#!/bin/sh\nexit ${1:-0}\n")
    script.chmod(0o755)
    site.server.create_heartbeat("backup")

    assert site.run("--", "./backup.sh").returncode == 0
    assert [ping.name for ping in site.server.pings()] == ["backup"]
    assert site.run("--", "./backup.sh", "9").returncode == 9
    assert len(site.server.pings()) == 1


def test_an_unknown_name_is_said_once_a_day_and_the_job_runs(site: Site) -> None:
    """One line that says what to do; exit status and job are untouched."""
    first, second = (site.run("-H", "no such", "--", "sh", "-c", "echo ran") for _ in range(2))

    assert (first.returncode, first.stdout, second.stdout) == (0, b"ran\n", b"ran\n")
    assert b"no heartbeat named 'no such'" in first.stderr
    assert len(first.stderr.splitlines()) == 1
    assert second.stderr == b""


def test_a_ping_url_needs_no_token(site: Site) -> None:
    """From a file or a variable; the API is not asked."""
    url = site.server.create_heartbeat("beat").ping_url
    (site.home / "url").write_text(url + "\n")
    site.configure()
    site.config.unlink()
    site.extra = {"AURA_STATE_DIR": str(site.state), "AURA_SOCKET": str(site.home / "none"), "AURA_CONFIG": ""}

    assert site.run("--ping-url", f"file:{site.home}/url", "--", "true").returncode == 0
    assert site.run("--", "true", env=site.environment | {"AURA_PING_URL": url}).returncode == 0

    assert len(site.server.pings("beat")) == 2
    assert [request.path for request in site.server.requests() if not request.path.startswith("/ping/")] == []


def test_a_failure_after_a_waiting_success_keeps_the_alarm(site: Site) -> None:
    """The outage ends after the job has failed: the earlier success is never sent."""
    site.server.create_heartbeat("beat")
    site.server.refuse()
    site.start()
    site.run("-H", "beat", "--", "true")
    site.run("-H", "beat", "--", "false")
    site.server.accept()
    site.run("-H", "beat", "--", "sh", "-c", "exit 4")

    wait_until(lambda: [row["state"] for row in site.queue("--all")] == ["invalidated"])
    assert site.agent("queue", "flush").returncode == 0
    assert site.server.pings() == []

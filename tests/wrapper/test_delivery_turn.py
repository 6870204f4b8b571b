"""Deliveries without a daemon go one after the other, so that many aura-runs at once don't load HTTP all at once."""

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.e2e.sites import Site
from tests.waiting import wait_until
from tests.wrapper.runs import AURA_RUN, Host, children, is_alive


def test_what_another_has_sent_meanwhile_is_left_to_it(site: Site) -> None:
    """The lock is held, the report taken in, and nothing left: HTTP isn't loaded, the job's status comes through."""
    site.server.create_heartbeat("beat")
    site.extra["AURA_SOCKET"] = f"{site.home}/none"
    site.run("-H", "beat", "--", "true")
    before = len(site.server.pings("beat"))
    with (site.state / "delivering").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = subprocess.Popen([AURA_RUN, "-H", "beat", "--", "true"], env=site.environment, cwd=site.home)
        wait_until(lambda: list((site.state / "spool").glob("*.report")), what="a report in the spool")
        (report,) = (site.state / "spool").glob("*.report")
        taken = report.rename(site.home / "taken")
        lock.truncate(0)
        lock.write(b"%d" % time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        lock.flush()
    run.communicate(timeout=60)

    assert run.returncode == 0
    assert taken.exists()
    assert len(site.server.pings("beat")) == before


def test_turn_that_is_not_given_up_holds_no_ping_back(site: Site) -> None:
    """Whoever has it hangs at a sick URL, or is stopped: after a moment others deliver beside it."""
    site.server.create_heartbeat("beat")
    site.extra["AURA_SOCKET"] = f"{site.home}/none"
    site.state.mkdir(mode=0o700)
    with (site.state / "delivering").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = site.run("-H", "beat", "--", "true")

    assert (ended.returncode, len(site.server.pings("beat"))) == (0, 1)


def _waiting_for_turn(aura_run: int, state: Path) -> list[int]:
    """Return the process in which *aura_run* delivers, once it has opened the lock, which another holds."""
    return [child for child in children(aura_run) if os.fspath(state / "delivering") in _open_files(child)]


def _open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []  # it has just closed one, or ended, or is ending


def test_signal_ends_the_wait_for_the_turn_with_the_jobs_status(host: Host) -> None:
    host.state.mkdir(mode=0o700)
    host.extra = {"AURA_PING_URL": "http://127.0.0.1:9/ping/x"}
    with (host.state / "delivering").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = host.start("--success-codes", "7", "--", "sh", "-c", "exit 7")
        wait_until(lambda: _waiting_for_turn(run.pid, host.state), what="a delivery that waits for its turn")
        (delivery,) = _waiting_for_turn(run.pid, host.state)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
        wait_until(lambda: not is_alive(delivery), what="the end of the delivery, too")

    assert run.returncode == 7
    assert os.listdir(host.state / "spool")


def test_own_ping_waits_for_no_sick_url_of_others(site: Site) -> None:
    """More of them hang than may be tried at once, and all are more urgent."""
    site.extra["AURA_SOCKET"] = f"{site.home}/none"
    sick = [f"sick{number}" for number in range(8)]
    for name in sick:
        site.server.create_heartbeat(name, expected_interval=600)
        site.server.set_fault("hang", target="ping", heartbeat=name)
        assert site.run("-H", name, "--no-wait", "--", "true").returncode == 0
    site.server.create_heartbeat("beat", expected_interval=86_400)

    ended = site.run("-H", "beat", "--wait", "8s", "--", "true")

    assert (ended.returncode, len(site.server.pings("beat"))) == (0, 1)

"""One user beside a daemon that comes and goes: runs, outages and kills at random, held against what each run knew."""

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.waiting import wait_until

_CYCLES = int(os.environ.get("AURA_CHAOS_CYCLES", "4"))
_UNDER_WAY_S = 2.0  # an attempt that has begun is not called back


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is over. Instants are of the wall clock; *told_s*: when a daemon had its outcome, None: not known."""

    tag: str
    failed: bool
    began_s: float
    ended_s: float
    told_s: float | None


def _own(site: Site) -> dict[str, str]:
    return site.environment | {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.home / "own"),
        "AURA_SOCKET": str(site.home / "run/agent.sock"),
        "AURA_API_URL": site.server.base_url,
        "AURA_TOKEN": site.server.token,
    }


class _Life:
    """A user's runs, some of which are still being delivered while the next ones go on."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.runs: list[_Run] = []
        self.cleared_s: list[float] = []  # when what hung was let go
        self._numbers = count(1)
        self._delivering: list[threading.Thread] = []

    def clear_faults(self) -> None:
        self.cleared_s.append(time.time())
        self.site.server.clear_faults()

    def run(self, *, wait_s: str, failed: bool = False, background: bool = False, told: bool = False) -> None:
        """Let a job run; it prints its tag, which goes with its ping. In the *background*: as far as its delivery goes."""
        tag = f"run{next(self._numbers)}"
        job, over = self.site.home / tag, self.site.home / f"{tag}.over"
        took_s = self.rng.choice([0, 0, 0.1])
        job.write_text(f"#!/bin/sh\necho {tag}\nsleep {took_s}\n: >{over}\nexit {3 if failed else 0}\n")
        job.chmod(0o755)
        thread = threading.Thread(target=self._call, args=(tag, job, wait_s, failed, told))
        thread.start()
        if background:
            self._delivering.append(thread)
            wait_until(over.exists, timeout_s=60, what="the end of a job")
        else:
            thread.join()

    def join(self) -> None:
        for thread in self._delivering:
            thread.join()
        self._delivering.clear()

    def _call(self, tag: str, job: Path, wait_s: str, failed: bool, told: bool) -> None:
        argv = [AURA_RUN, "-H", "one", "--attach", "output", "--wait", wait_s, "--", str(job)]
        site, began_s = self.site, time.time()
        ended = subprocess.run(
            argv, env=_own(site), cwd=site.home, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
        )
        over_s = (site.home / f"{tag}.over").stat().st_mtime
        assert ended.returncode == (3 if failed else 0), ended
        self.runs.append(_Run(tag, failed, began_s, over_s, time.time() if told else None))


def _plain_cycle(life: _Life) -> None:
    """The shortest way to a false ping: a success is under way here as the daemon is told of a failure, and goes."""
    life.site.server.set_fault(target="ping", kind="hang")
    life.run(wait_s="30s", background=True)
    _wait_for_ping(life.site, 0)
    daemon = _start_daemon(life.site)
    try:
        life.run(wait_s="0", failed=True, told=True)
    finally:
        daemon.kill()
        daemon.wait()
    life.clear_faults()
    life.join()


def _start_daemon(site: Site) -> "subprocess.Popen[bytes]":
    (site.home / "run" / "agent.sock").unlink(missing_ok=True)
    with site.log.open("ab") as log:
        daemon = subprocess.Popen(
            [AURA_AGENT, "run"], env=site.environment, cwd=site.home, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_until((site.home / "run" / "agent.sock").exists, timeout_s=60, what="a daemon that listens")
    except BaseException:
        daemon.kill()
        daemon.wait()
        raise
    return daemon


def _cycle(life: _Life) -> None:
    """Successes are being delivered from the user's own store; a daemon comes, is told of later runs, and goes."""
    site, rng = life.site, life.rng
    if rng.random() < 0.9:
        site.server.set_fault(target="ping", kind="hang")
    else:
        site.server.set_fault(target="ping", kind="status", status=503)
    for _ in range(rng.randint(1, 2)):
        pings = len(site.server.pings("one"))
        wait_s = rng.choice(["0", "20s", "20s", "20s"])
        life.run(wait_s=wait_s, background=True)
        if wait_s != "0":
            _wait_for_ping(site, pings)
    daemon = _start_daemon(site)
    try:
        for _ in range(rng.randint(1, 3)):
            is_frozen = rng.random() < 0.2
            if is_frozen:
                daemon.send_signal(signal.SIGSTOP)
            life.run(wait_s="0", failed=rng.random() < 0.75, told=not is_frozen)
            daemon.send_signal(signal.SIGCONT)
        if rng.random() < 0.3:
            life.clear_faults()
    finally:
        daemon.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        daemon.wait()
    life.clear_faults()  # the user's own store sends what it still may
    life.join()
    if rng.random() < 0.5:
        life.run(wait_s="5s", failed=rng.random() < 0.2)


def _wait_for_ping(site: Site, before: int) -> None:
    """Wait until there are more than *before* requests. There need not be one: an earlier attempt may be under way."""
    try:
        wait_until(lambda: len(site.server.pings("one")) > before, timeout_s=5)
    except AssertionError:
        pass


def _false_pings(life: _Life) -> list[str]:
    """Return the pings of successes that arrived though a later run was known, to a daemon too, to have failed.

    A failure that only the user's store knows doesn't count: a daemon that was down can't have heard of it.
    """
    by_tag = {run.tag: run for run in life.runs}
    logged_s = {event["job"]: _instant_s(event["timestamp"]) for event in life.site.events("run.finished")}
    failures = [
        (run, max(run.ended_s, run.told_s or logged_s[run.tag]))
        for run in life.runs
        if run.failed and (run.told_s is not None or run.tag in logged_s)
    ]
    found, tried_s = [], dict[str, float]()
    for ping in life.site.server.pings("one"):
        run, at_s = by_tag.get(ping.body.strip()), ping.at.timestamp()
        if run is None:
            continue
        decided_s = _decided_s(at_s, tried_s.get(run.tag), life.cleared_s)
        tried_s[run.tag] = at_s
        if not ping.accepted:
            continue
        if run.failed:
            found.append(f"{run}: told, though it failed")
        found += [
            f"{run} arrived at {at_s}, after {later}"
            for later, known_s in failures
            if later.began_s > run.ended_s and known_s < decided_s
        ]
    return found


def _decided_s(at_s: float, tried_s: float | None, cleared_s: list[float]) -> float:
    """Return when it was decided, at the earliest, to send what arrived at *at_s*, and was tried before at *tried_s*.

    A try that hangs has no answer before the fault is cleared, and the next one is decided after that.
    """
    cleared = [instant_s for instant_s in cleared_s if tried_s is not None and tried_s < instant_s < at_s]
    return max([at_s - _UNDER_WAY_S, *cleared])


def _instant_s(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()


@pytest.mark.timeout(3600)
def test_a_user_beside_a_daemon_that_comes_and_goes_sends_nothing_false(site: Site) -> None:
    """What a run says to one store holds in the other. Takes some five seconds per cycle."""
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    site.server.create_heartbeat("one", expected_interval=86_400)
    life = _Life(site, random.Random(seed))
    try:
        _plain_cycle(life)
        for _ in range(_CYCLES):
            _cycle(life)
    finally:
        life.join()
    life.clear_faults()
    site.start()
    assert site.run("-H", "one", "--attach", "output", "--", "echo", "last", env=_own(site)).returncode == 0
    wait_until(lambda: any(ping.body.strip() == "last" for ping in site.server.pings("one")), 60, "the last success")

    runs = life.runs
    print(f"{len(runs)} runs, {sum(run.failed for run in runs)} failed, {len(site.server.pings('one'))} pings")
    assert _false_pings(life) == []
    assert b"Traceback" not in site.log.read_bytes()

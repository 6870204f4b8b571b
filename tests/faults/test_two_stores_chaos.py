"""One user beside a daemon that comes and goes: runs, outages and kills at random, held against what each run knew."""

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

import pytest

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.waiting import wait_until

_CYCLES = int(os.environ.get("AURA_CHAOS_CYCLES", "4"))
_UNDER_WAY_S = 2.0  # an attempt that has begun is not called back


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is over. Instants are of the wall clock."""

    tag: str
    failed: bool
    began_s: float
    ended_s: float


def _own(site: Site) -> dict[str, str]:
    return site.environment | {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.home / "own"),
        "AURA_SOCKET": str(site.home / "run/agent.sock"),
        "AURA_API_URL": site.server.base_url,
        "AURA_TOKEN": site.server.token,
    }


def _load(site: Site, rng: random.Random, calm: threading.Event, runs: list[_Run], lane: int) -> None:
    """Let jobs run one after the other; each prints its tag, which goes with its ping."""
    number = 0
    while not calm.is_set():
        number += 1
        tag, failed = f"run{lane}x{number}", rng.random() < 0.4
        job = site.home / tag  # its name is the job's
        job.write_text(f"#!/bin/sh\necho {tag}\nsleep {rng.choice([0, 0, 0.1])}\nexit {3 if failed else 0}\n")
        job.chmod(0o755)
        wait_s = rng.choice(["0", "2s", "4s"])
        argv = [AURA_RUN, "-H", "one", "--attach", "output", "--wait", wait_s, "--", str(job)]
        began_s = time.time()
        ended = subprocess.run(
            argv, env=_own(site), cwd=site.home, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
        )
        assert ended.returncode == (3 if failed else 0), ended
        runs.append(_Run(tag, failed, began_s, time.time()))


def _disturb(site: Site, rng: random.Random) -> None:
    """One cycle: the network is well or not, the daemon comes, is frozen for a moment or not, and goes."""
    site.server.clear_faults()
    fault = rng.choice(["none", "status", "hang", "hang"])
    if fault == "status":
        site.server.set_fault(target="ping", kind="status", status=503)
    elif fault == "hang":
        site.server.set_fault(target="ping", kind="hang")
    time.sleep(rng.uniform(0, 1.5))
    (site.home / "run" / "agent.sock").unlink(missing_ok=True)
    with site.log.open("ab") as log:
        daemon = subprocess.Popen(
            [AURA_AGENT, "run"], env=site.environment, cwd=site.home, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_until((site.home / "run" / "agent.sock").exists, timeout_s=60, what="a daemon that listens")
        time.sleep(rng.uniform(0, 1.0))
        if rng.random() < 0.3:
            daemon.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.5, 2.0))
            daemon.send_signal(signal.SIGCONT)
        if rng.random() < 0.5:
            site.server.clear_faults()
            time.sleep(rng.uniform(0, 1.0))
    finally:
        daemon.kill()
        daemon.wait()
    if rng.random() < 0.7:
        site.server.clear_faults()  # the user's own store sends what it still may
        time.sleep(rng.uniform(0.5, 2.5))


def _false_pings(site: Site, runs: list[_Run]) -> list[str]:
    """Return the pings of successes that arrived though a later run was known, to the daemon too, to have failed.

    A failure that only the user's store knows doesn't count: a daemon that was down can't have heard of it.
    """
    by_tag = {run.tag: run for run in runs}
    known_s = {event["job"]: _instant_s(event["timestamp"]) for event in site.events("run.finished")}
    found = []
    for ping in site.server.pings("one"):
        run = by_tag.get(ping.body.strip())
        if run is None or not ping.accepted:
            continue
        if run.failed:
            found.append(f"{run}: told, though it failed")
        found += [
            f"{run} arrived at {ping.at}, after {later}"
            for later in runs
            if later.failed
            and later.began_s > run.ended_s
            and later.tag in known_s
            and max(later.ended_s, known_s[later.tag]) + _UNDER_WAY_S < ping.at.timestamp()
        ]
    return found


def _instant_s(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()


@pytest.mark.timeout(3600)
def test_a_user_beside_a_daemon_that_comes_and_goes_sends_nothing_false(site: Site) -> None:
    """What a run says to one store holds in the other. Takes about three seconds per cycle."""
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    rng = random.Random(seed)
    site.server.create_heartbeat("one", expected_interval=86_400)
    runs: list[_Run] = []
    calm = threading.Event()
    load = [
        threading.Thread(target=_load, args=(site, random.Random(rng.random()), calm, runs, lane)) for lane in range(2)
    ]
    for thread in load:
        thread.start()
    try:
        for _ in range(_CYCLES):
            _disturb(site, rng)
    finally:
        calm.set()
        for thread in load:
            thread.join()
    site.server.clear_faults()
    site.start()
    assert site.run("-H", "one", "--attach", "output", "--", "echo", "last", env=_own(site)).returncode == 0
    wait_until(lambda: any(ping.body.strip() == "last" for ping in site.server.pings("one")), 60, "the last success")

    print(f"{len(runs)} runs, {sum(run.failed for run in runs)} failed, {len(site.server.pings('one'))} pings")
    assert len(runs) > 2
    assert _false_pings(site, runs) == []
    assert b"Traceback" not in site.log.read_bytes()

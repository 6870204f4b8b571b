"""The chaos run. ``make chaos`` runs it in full."""

import os
import random
import time

import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import Site
from tests.faults.chaos import OTHER, SURE, Chaos
from tests.faults.chaos_disk import disk_of_its_own
from tests.machine import LACKS, loop_devices, tmpfs

_CYCLES = int(os.environ.get("AURA_CHAOS_CYCLES", "6"))


@pytest.mark.timeout(600 + 30 * _CYCLES)  # a busy machine takes ten times as long as a quiet one
def test_kills_and_other_faults_lose_nothing_and_make_nothing_false(site: Site) -> None:
    """At random instants under load: no accepted success lost, none told more than once per kill, none false.

    Beside kills: stopped processes, one that wakes too late, a lost ``boots``, bad ping URLs, a full disk, a frozen disk,
    a store put back, a renamed heartbeat, another account.

    Takes about two seconds per cycle: each starts a daemon.
    """
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    with disk_of_its_own(site) as disk, ThreadedDevServer() as other:
        chaos = Chaos(site, other, random.Random(seed), disk)
        chaos.cycle_through(_CYCLES)

    runs = [run for of_beat in chaos.runs.values() for run in of_beat]
    accepted = sum(run.accepted for run in runs)
    pings = [ping for ping in site.server.pings() if ping.accepted]
    print(
        f"{_CYCLES} cycles, {chaos.kills} kills of daemon and flush, {sum(run.killed for run in runs)} of wrappers;"
        f" {len(runs)} runs, {accepted} accepted successes, {len(pings)} pings,"
        f" {len(pings) - len({ping.body for ping in pings})} of them told before, {len(chaos.withdrawn)} withdrawn,"
        f" {len(chaos.runs[OTHER])} runs of another account"
    )
    print("faults:", ", ".join(f"{fault.times} {type(fault).__name__}" for fault in chaos.faults))
    for fault, missing in (("full disk", "" if disk else tmpfs()), ("frozen disk", loop_devices())):
        if missing:
            print(f"without a {fault}: {LACKS}{missing}")
    assert not chaos.problems, "\n".join(chaos.problems)
    assert all(chaos.runs[beat] for beat in SURE)
    assert chaos.asleep.times, "no flush has slept too long"

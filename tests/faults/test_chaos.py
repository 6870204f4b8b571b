"""The chaos run. ``make chaos`` runs it in full."""

import os
import random
import time

import pytest

from tests.e2e.sites import Site
from tests.faults.chaos import SURE, Chaos
from tests.faults.chaos_faults import disk_of_its_own
from tests.machine import LACKS, tmpfs

_CYCLES = int(os.environ.get("AURA_CHAOS_CYCLES", "6"))


@pytest.mark.timeout(3600)
def test_kills_and_other_faults_lose_nothing_and_make_nothing_false(site: Site) -> None:
    """At random instants under load: no accepted success lost, none told more than once per kill, none false.

    Beside kills: stopped processes, a lost ``boots``, bad ping URLs, a full disk, a renamed heartbeat.

    Takes about a second and a half per cycle: each starts a daemon.
    """
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    missing = tmpfs()
    with disk_of_its_own(site):
        chaos = Chaos(site, random.Random(seed), has_disk=not missing)
        chaos.cycle_through(_CYCLES)

    runs = [run for of_beat in chaos.runs.values() for run in of_beat]
    accepted = sum(run.accepted for run in runs)
    pings = [ping for ping in site.server.pings() if ping.accepted]
    print(
        f"{_CYCLES} cycles, {chaos.kills} kills of daemon and flush, {sum(run.killed for run in runs)} of wrappers;"
        f" {len(runs)} runs, {accepted} accepted successes, {len(pings)} pings,"
        f" {len(pings) - len({ping.body for ping in pings})} of them told before, {len(chaos.withdrawn)} withdrawn"
    )
    print("faults:", ", ".join(f"{fault.times} {type(fault).__name__}" for fault in chaos.faults))
    if missing:
        print(f"without a full disk: {LACKS}{missing}")
    assert not chaos.problems, "\n".join(chaos.problems)
    assert all(chaos.runs[beat] for beat in SURE)

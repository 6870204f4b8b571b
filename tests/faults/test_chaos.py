"""The chaos run. ``make chaos`` runs it in full."""

import os
import random
import time

import pytest

from tests.e2e.sites import Site
from tests.faults.chaos import SURE, Chaos

_CYCLES = int(os.environ.get("AURA_CHAOS_CYCLES", "8"))


@pytest.mark.timeout(3600)
def test_kill_9_of_everybody_loses_nothing_and_makes_nothing_false(site: Site) -> None:
    """At random instants under load: no accepted success lost, none told more than once per kill, none false.

    Takes about a second and a half per cycle: each starts a daemon.
    """
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    chaos = Chaos(site, random.Random(seed))

    chaos.cycle_through(_CYCLES)

    runs = [run for of_beat in chaos.runs.values() for run in of_beat]
    accepted = sum(run.accepted for run in runs)
    pings = site.server.pings()
    print(
        f"{_CYCLES} cycles, {chaos.kills} kills of daemon and flush, {sum(run.killed for run in runs)} of wrappers;"
        f" {len(runs)} runs, {accepted} accepted successes, {len(pings)} pings,"
        f" {len(pings) - len({ping.body for ping in pings})} of them told before, {len(chaos.withdrawn)} withdrawn"
    )
    assert chaos.problems == []
    assert all(chaos.runs[beat] for beat in SURE)

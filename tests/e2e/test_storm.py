"""The stress run. ``make stress`` runs it in full."""

import os
import random
import time

import pytest

from tests.e2e import oracle
from tests.e2e.sites import Site
from tests.e2e.storm import Storm

_RUNS = int(os.environ.get("AURA_STRESS_RUNS", "150"))


@pytest.mark.timeout(3600)
def test_after_a_storm_aura_holds_what_is_true(site: Site) -> None:
    """Random ends, signals and kills of aura-run and of the daemon, Aura up and down: job by job as it should be."""
    seed = int(os.environ.get("AURA_TEST_SEED", time.time_ns()))
    print(f"AURA_TEST_SEED={seed}")
    storm = Storm(site, random.Random(seed), [f"beat-{number}" for number in range(max(8, _RUNS // 40))])

    storm.blow(_RUNS, per_round=max(30, _RUNS // 40))

    outcomes = dict(site.rows("SELECT job, outcome FROM runs"))
    states = dict(site.rows("SELECT job, state FROM entries"))
    assert oracle.problems(storm.seen, storm.pings, outcomes, states, storm.disturbances) == []
    assert list((site.state / "runs").iterdir()) == list((site.state / "spool").glob("*.report")) == []
    print(_figures(storm, outcomes, states))


def _figures(storm: Storm, outcomes: dict[str, str], states: dict[str, str]) -> str:
    values = [*outcomes.values(), *states.values()]
    counts = ", ".join(f"{values.count(value)} {value}" for value in sorted(set(values)))
    pings = sum(len(tags) for noted in storm.pings for tags in noted.values())
    killed = sum(seen.struck_s is not None and seen.plan.kind == "killed" for seen in storm.seen)
    return (
        f"{len(storm.seen)} runs in {len(storm.pings) - 1} rounds, {killed} aura-runs killed, {storm.disturbances} times"
        f" daemon or Aura disturbed, {len(storm.seen) - len(outcomes)} runs without a trace; {counts}; {pings} pings"
    )

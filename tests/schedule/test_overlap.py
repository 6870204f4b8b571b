"""A fire time that comes while the previous run is still going."""

import pytest

from aura_agent.schedule.overlap import Action, Overlap, decide


@pytest.mark.parametrize(
    ("overlap", "running", "queued", "action"),
    [
        ("forbid", 0, 0, "start"),
        ("forbid", 1, 0, "skip"),
        ("forbid", 0, 1, "skip"),
        ("allow", 0, 0, "start"),
        ("allow", 1, 0, "start"),
        ("allow", 7, 0, "start"),
        ("replace", 0, 0, "start"),
        ("replace", 1, 0, "replace"),
        ("replace", 1, 1, "skip"),
        ("replace", 0, 1, "skip"),
        ("queue", 0, 0, "start"),
        ("queue", 1, 0, "queue"),
        ("queue", 1, 1, "skip"),
        ("queue", 0, 1, "skip"),
    ],
)
def test_the_policy_decides(overlap: Overlap, running: int, queued: int, action: Action) -> None:
    """Each policy does what its name says, and at most one run waits."""
    decision = decide(overlap, running, queued)

    assert decision.action == action
    assert bool(decision.reason) == (running + queued > 0)

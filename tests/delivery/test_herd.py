"""Many agents after one outage, in simulated time with the courier's own policy; ``make bench-delivery`` in full."""

from bench.herd import draw, simulate


def test_agents_that_come_back_together_do_not_come_at_once() -> None:
    """A thousand of them, each with its jobs: no second holds thrice the mean, and nothing true is told too late."""
    herd = simulate(agents=1000, seed=7)

    assert herd.waited > 1000
    assert herd.peak <= 3 * herd.mean
    assert herd.drained_s < 90
    assert herd.missed_late == 0
    assert herd.attempts / herd.agents < 2 * 60
    assert draw(herd).startswith("<svg ")

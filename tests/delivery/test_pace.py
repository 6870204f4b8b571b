"""The pace: no second holds more than it allows, and nothing that it allows is lost."""

from hypothesis import given, strategies as st

from aura_agent.delivery.pace import Pace


@given(st.sampled_from([0.5, 1.0, 7.0, 50.0]), st.lists(st.floats(0, 3), max_size=60))
def test_no_more_than_a_seconds_worth_beyond_the_rate(per_s: float, waits: list[float]) -> None:
    """Over any stretch of time: what the rate brings in it, and one second's worth from the quiet before."""
    pace, now_s, begun = Pace(per_s, 0.0), 0.0, 0
    for wait_s in waits:
        now_s += wait_s
        count = pace.allows(now_s)
        pace.spend(count)
        begun += count

        assert begun <= max(1.0, per_s) + per_s * now_s + 1e-6


@given(st.sampled_from([0.5, 3.0, 50.0]))
def test_waiting_as_long_as_it_says_is_enough(per_s: float) -> None:
    """One may begin after each such wait, and the rate is reached."""
    pace, now_s = Pace(per_s, 0.0), 0.0
    pace.spend(pace.allows(now_s))
    for _ in range(100):
        now_s += pace.next_s()
        assert pace.allows(now_s) == 1
        pace.spend(1)

    assert now_s <= 100 / per_s + 1

"""Sleeping until the next beat."""

from hypothesis import given, strategies as st

from aura_agent.clock import until_beat_s


@given(st.floats(0, 1e8), st.sampled_from([0.25, 30.0, 60.0]))
def test_who_sleeps_until_a_beat_wakes_up_on_one_and_never_at_once(now_s: float, period_s: float) -> None:
    """Whenever it falls asleep, a moment before the beat too, as timers may be early."""
    sleep_s = until_beat_s(now_s, period_s)

    assert period_s / 20 <= sleep_s <= period_s * 1.05 + 1e-6
    off_s = (now_s + sleep_s) % period_s
    assert min(off_s, period_s - off_s) < 1e-6

"""How long to wait: properties over all counts, seeds and Retry-After values."""

import random
from statistics import mean

import pytest
from hypothesis import given, strategies as st

from aura_agent.api.retry_after import after_retry_after_s
from aura_agent.delivery.backoff import delay_s

SEEDS = st.integers(min_value=0, max_value=2**32)


@given(st.integers(min_value=-5, max_value=10**9), SEEDS)
def test_delay_stays_under_its_ceiling(attempts: int, seed: int) -> None:
    """The wait is never negative, never above 1, 2, 4, … s for the 1st, 2nd, 3rd failure, and never above 300 s."""
    delay = delay_s(attempts, random.Random(seed))

    ceiling = 300.0 if attempts > 10 else min(300.0, 2.0 ** max(0, attempts - 1))
    assert 0 <= delay <= ceiling


@given(st.integers(min_value=1, max_value=100), SEEDS)
def test_delay_is_a_function_of_count_and_rng(attempts: int, seed: int) -> None:
    """The same seed gives the same wait."""
    assert delay_s(attempts, random.Random(seed)) == delay_s(attempts, random.Random(seed))


@pytest.mark.parametrize(
    ("attempts", "ceiling_s"), [(0, 1), (1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (500, 300)]
)
def test_window_doubles_up_to_five_minutes(attempts: int, ceiling_s: float) -> None:
    """The waits fill the window of their count, and nothing beyond it."""
    waits = [delay_s(attempts, random.Random(seed)) for seed in range(2000)]

    assert max(waits) <= ceiling_s
    assert max(waits) > 0.97 * ceiling_s
    assert min(waits) < 0.03 * ceiling_s


def test_ten_thousand_agents_spread_over_the_whole_window() -> None:
    """After a long outage the waits fill 0 to 300 s evenly: no second holds more than a few percent of them."""
    waits = [delay_s(30, random.Random(seed)) for seed in range(10_000)]

    per_second = [0] * 301
    for wait in waits:
        per_second[int(wait)] += 1
    assert max(per_second) < 100
    assert 140 < mean(waits) < 160


@given(st.floats(min_value=0, max_value=1e9), SEEDS)
def test_retry_after_is_kept_and_spread(asked_s: float, seed: int) -> None:
    """Never earlier than asked, up to 20 % later, and an hour in all at the most."""
    wait = after_retry_after_s(asked_s, random.Random(seed))

    assert min(asked_s, 3600.0) <= wait <= 3600.0
    assert wait <= asked_s * 1.2 + 1e-9


def test_retry_after_spreads_those_who_were_told_the_same() -> None:
    """A thousand agents that were all told 60 s come back over 12 s."""
    waits = [after_retry_after_s(60.0, random.Random(seed)) for seed in range(1000)]

    assert min(waits) >= 60
    assert max(waits) - min(waits) > 10

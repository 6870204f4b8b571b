"""How long a run that failed waits for its repetition."""

import pytest

from aura_agent.schedule.retry import all_retries_s, retry_delay_s


@pytest.mark.parametrize(
    ("first_s", "backoff", "max_s", "waits"),
    [
        (10, 2, 60, [10, 20, 40, 60, 60]),
        (10, 1, 60, [10, 10, 10]),
        (0, 2, 60, [0, 0]),
        (7200, 2, 3600, [7200, 7200]),
    ],
)
def test_waits_grow_up_to_the_longest(first_s: float, backoff: float, max_s: float, waits: list[float]) -> None:
    """A first wait that is longer than the longest stays what somebody wrote."""
    numbers = range(1, len(waits) + 1)

    assert [retry_delay_s(number, first_s, backoff, max_s) for number in numbers] == waits
    assert all_retries_s(len(waits), first_s, backoff, max_s) == sum(waits)


def test_a_thousand_repetitions_overflow_nothing() -> None:
    """Whatever the numbers, the wait is a number."""
    assert retry_delay_s(1000, 10.0, 10, 3600.0) == 3600.0

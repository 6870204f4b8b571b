"""Lateness, as a table."""

import pytest
from hypothesis import given, strategies as st

from aura_agent.devserver.rules import Facts, Status, deadline_us, missed_us, status

_S = 1_000_000


@pytest.mark.parametrize(
    ("facts", "now_s", "expected"),
    [
        (Facts(60, 30), 0, "pending"),
        (Facts(60, 30), 10**9, "pending"),
        (Facts(60, 30, last_ping_us=0), 0, "up"),
        (Facts(60, 30, last_ping_us=0), 61, "up"),
        (Facts(60, 30, last_ping_us=0), 90, "up"),
        (Facts(60, 30, last_ping_us=0), 90.000001, "down"),
        (Facts(60, 0, last_ping_us=0), 60, "up"),
        (Facts(60, 0, last_ping_us=0), 61, "down"),
        (Facts(60, 30, last_ping_us=1000 * _S), 0, "up"),
        (Facts(60, 30, last_ping_us=0, paused=True), 91, "paused"),
        (Facts(60, 30, paused=True), 91, "paused"),
        (Facts(60, 30, last_ping_us=0, resumed_us=500 * _S), 590, "up"),
        (Facts(60, 30, last_ping_us=0, resumed_us=500 * _S), 591, "down"),
        (Facts(60, 30, last_ping_us=600 * _S, resumed_us=500 * _S), 690, "up"),
        (Facts(60, 30, resumed_us=500 * _S), 10_000, "pending"),
    ],
)
def test_a_status_follows_from_the_last_ping_and_the_time(facts: Facts, now_s: float, expected: Status) -> None:
    """A ping at the very deadline is in time, one microsecond later is late; pending and paused are never late."""
    assert status(facts, round(now_s * _S)) == expected


@given(
    st.builds(
        Facts,
        st.integers(1, 10**6),
        st.integers(0, 10**6),
        st.none() | st.integers(0, 10**15),
        st.none() | st.integers(0, 10**15),
        st.booleans(),
    ),
    st.integers(0, 10**16),
)
def test_down_is_exactly_when_a_deadline_was_missed(facts: Facts, now_us: int) -> None:
    """Status, deadline and missed deadline can't contradict each other."""
    missed = missed_us(facts, now_us)

    assert (missed is not None) == (status(facts, now_us) == "down")
    assert missed in (None, deadline_us(facts))

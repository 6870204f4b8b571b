"""What the Date of an answer tells of our clock."""

from datetime import UTC, datetime, timedelta

import pytest

from aura_agent.delivery.skew import Skew, ahead_of

_NOON = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
_DATE = "Tue, 01 Dec 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("sent_s", "received_s", "ahead_s"),
    [
        (0.0, 0.2, 0.0),
        (-0.5, 0.5, 0.0),
        (0.9, 1.5, 0.0),  # stamped within that second, as Date has no parts of one
        (-30.0, 0.0, 0.0),  # a slow answer says less
        (61.0, 61.5, 60.0),
        (-61.0, -60.0, -60.0),
    ],
)
def test_only_what_cannot_be_the_way_of_the_answer_is_skew(sent_s: float, received_s: float, ahead_s: float) -> None:
    """The other clock stood somewhere in that second, when ours stood between sending and receiving."""
    sent, received = (_NOON + timedelta(seconds=seconds) for seconds in (sent_s, received_s))

    assert ahead_of(_DATE, sent, received) == ahead_s


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Tue, 99 Dec 2026 12:00:00 GMT", "Tue, 01 Dec 99999 1:1:1 GMT"]
)
def test_a_date_that_cannot_be_read_says_nothing(date: str | None) -> None:
    """Whatever a server or a portal sends, it is no error, and what was known before stays."""
    skew = Skew(60.0)
    skew.hear(ahead_of(date, _NOON, _NOON))

    assert skew.ahead_s == 60.0


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(None, ""), (9.0, ""), (-9.0, ""), (3723.0, "1h2m ahead of"), (-60.0, "1m behind")]
)
def test_people_are_told_of_what_they_would_notice(ahead_s: float | None, said: str) -> None:
    """How much, and in which direction; a few seconds are no news."""
    warning = Skew(ahead_s).warning

    assert said in warning
    assert bool(warning) == bool(said)

"""What an answer of the ping URL means, walked over every status."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from aura_agent.api.trouble import Trouble
from aura_agent.delivery.answers import FOR_PEOPLE, STATUSES, Verdict, classify

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
RETRIED = {*range(100, 200), *range(300, 400), 407, 408, 425, 429, *range(500, 600)}


def promised(status: int) -> Verdict:
    """The design's own words, written down a second time."""
    if 200 <= status <= 299:
        return Verdict.DELIVERED
    if status in RETRIED:
        return Verdict.RETRY
    if status in {404, 410}:
        return Verdict.RESOLVE_ANEW
    return Verdict.WITHOUT_BODY if status == 413 else Verdict.PARK


@pytest.mark.parametrize("status", range(100, 600))
def test_each_status_means_what_the_design_says(status: int) -> None:
    """Every status from 100 to 599 has the promised verdict and a reason that names it."""
    answer = classify(status, None, None, NOW)

    assert answer.verdict is promised(status)
    assert str(status) in answer.reason
    assert answer.retry_after_s is None


def test_every_row_of_the_table_decides_something() -> None:
    """No row is hidden behind the ones before it, and together they cover all statuses."""
    first_hits = {next(row for row in STATUSES if row[0] <= status <= row[1]) for status in range(100, 600)}

    assert set(STATUSES) == first_hits


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_status_that_http_does_not_know_is_no_acknowledgement(status: int) -> None:
    """Nonsense in the status line is tried again."""
    assert classify(status, None, None, NOW).verdict is Verdict.RETRY


@pytest.mark.parametrize("trouble", Trouble)
def test_trouble_is_retried_unless_only_people_can_mend_it(trouble: Trouble) -> None:
    """Network errors pass by themselves, a URL that can't be asked doesn't; each has a phrase of its own."""
    answer = classify(None, trouble, None, NOW)

    assert answer.verdict is (Verdict.PARK if trouble in FOR_PEOPLE else Verdict.RETRY)
    assert answer.reason
    assert answer.reason != trouble.value


def test_unforeseen_error_is_retried_and_named() -> None:
    """An error that has no row keeps its own text."""
    assert classify(None, "unexpected KeyError", None, NOW).reason == "unexpected KeyError"
    assert classify(None, None, None, NOW).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("3600", 3600),
        ("86400", 3600),
        ("9" * 5000, 3600),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 3600),
        ("0", None),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [302, 429, 503])
def test_retry_after_counts_up_to_an_hour(status: int, header: str | None, wait_s: float | None) -> None:
    """Seconds or a date are honoured where the ping goes out again; zero and nonsense leave it to the back-off."""
    assert classify(status, None, header, NOW).retry_after_s == wait_s


@pytest.mark.parametrize("status", [200, 404, 413, 401, 418])
def test_retry_after_means_nothing_elsewhere(status: int) -> None:
    """Where the same ping isn't simply sent again, a Retry-After changes nothing."""
    assert classify(status, None, "60", NOW).retry_after_s is None

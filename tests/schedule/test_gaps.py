"""How far fire times lie apart: by the calendar, in real time, and never more than both together say."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from aura_agent.schedule.gaps import changed_gaps, clock_changes_s, coming_gaps, nominal_interval_s
from aura_agent.schedule.plan import Schedule, build
from tests.schedule.times import BERLIN, GREENWICH, LORD_HOWE, NEW_YORK, at

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400


def schedule(text: str | list[str], zone: ZoneInfo = BERLIN) -> Schedule:
    return build(text, None, job="any", zone=zone)


@pytest.mark.parametrize(
    ("text", "interval_s"),
    [
        ("* * * * *", MINUTE),
        ("* * * * * *", 1),
        ("*/20 * * * * *", 20),
        ("*/7 * * * *", 7 * MINUTE),
        ("*/45 * * * *", 45 * MINUTE),
        ("0 */5 * * *", 5 * HOUR),
        ("0 3 * * *", DAY),
        ("30 2 * * *", DAY),
        ("0 9-17 * * *", 16 * HOUR),
        ("0 9 * * MON-FRI", 3 * DAY),
        ("0 9-17 * * MON-FRI", 2 * DAY + 16 * HOUR),
        ("0 0 * * 0", 7 * DAY),
        ("0 0 1 * *", 31 * DAY),
        ("0 0 31 * *", 61 * DAY),
        ("0 0 30 * *", 60 * DAY),
        ("0 0 L * *", 31 * DAY),
        ("0 0 13 * FRI", 7 * DAY),
        ("0 0 */7 * *", 7 * DAY),
        ("0 0 * * 5#5", 119 * DAY),
        ("@yearly", 366 * DAY),
        ("0 0 29 2 *", 1461 * DAY),
        ("0 0 29 2 */7", 28 * 365 * DAY + 7 * DAY),
        ("0 0 * 2 1#5,5#5,6#5", 16 * 365 * DAY + 4 * DAY),
        (["0 6 * * 1-5", "0 12 * * 6"], DAY + 18 * HOUR),
        (["0 3 * * *", "0 15 * * *"], 12 * HOUR),
        (["0 3 * * *", "@reboot"], DAY),
    ],
    ids=str,
)
@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, GREENWICH], ids=str)
def test_the_interval_is_what_the_calendar_says(text: str | list[str], zone: ZoneInfo, interval_s: int) -> None:
    """A day is a day in every zone and season, a weekend and a short February count in full."""
    assert nominal_interval_s(schedule(text, zone)) == interval_s


def test_an_interval_is_its_own() -> None:
    """``every`` goes on in real time: no change of any clock touches it."""
    every = build(None, 90.0, job="any", zone=BERLIN)

    assert nominal_interval_s(every) == 90
    assert {gap.seconds for gap in coming_gaps(every, NOW)} == {90}
    assert (changed_gaps(every, NOW), clock_changes_s(every, NOW)) == ([], 0)


def test_a_boot_has_no_interval() -> None:
    """Nothing can be said of a bare @reboot."""
    boot = schedule("@reboot")

    assert nominal_interval_s(boot) is None
    assert (coming_gaps(boot, NOW), changed_gaps(boot, NOW), clock_changes_s(boot, NOW)) == ([], [], 0)


@pytest.mark.parametrize(
    ("text", "zone", "start", "end", "seconds"),
    [
        # The hour that comes twice lies between.
        ("0 3 * * *", BERLIN, "2027-10-30T03:00+02:00", "2027-10-31T03:00+01:00", 25 * HOUR),
        ("0 9 * * MON-FRI", NEW_YORK, "2027-11-05T09:00-04:00", "2027-11-08T09:00-05:00", 73 * HOUR),
        ("0 3 * * *", LORD_HOWE, "2027-04-03T03:00+11:00", "2027-04-04T03:00+10:30", 24.5 * HOUR),
        # A fixed time in it runs at the first pass.
        ("30 2 * * *", BERLIN, "2027-10-31T02:30+02:00", "2027-11-01T02:30+01:00", 25 * HOUR),
        # A wildcard in the hour that is skipped doesn't run on that day.
        ("*/30 2 * * *", BERLIN, "2027-03-27T02:30+01:00", "2027-03-29T02:00+02:00", 46.5 * HOUR),
        ("0 */2 * * *", BERLIN, "2027-03-28T00:00+01:00", "2027-03-28T04:00+02:00", 3 * HOUR),
        # The repeat is half an hour here: hours are an hour and a half apart.
        ("0 * * * *", LORD_HOWE, "2027-04-04T01:00+11:00", "2027-04-04T02:00+10:30", 1.5 * HOUR),
    ],
)
def test_the_longest_gap_of_the_year_is_found(text: str, zone: ZoneInfo, start: str, end: str, seconds: float) -> None:
    """In real time, with the days of the change."""
    longest = max(changed_gaps(schedule(text, zone), NOW), key=lambda gap: gap.seconds)

    assert (longest.start, longest.end, longest.seconds) == (at(start), at(end), seconds)


@pytest.mark.parametrize("text", ["* * * * *", "*/5 * * * *", "0 * * * *", "0 12 * * *", "0 0 1 * *"])
def test_without_changes_of_the_clocks_the_calendar_is_all(text: str) -> None:
    """In UTC nothing is longer than the nominal interval."""
    utc = schedule(text, GREENWICH)

    assert max(gap.seconds for gap in coming_gaps(utc, NOW)) <= (nominal_interval_s(utc) or 0)
    assert (changed_gaps(utc, NOW), clock_changes_s(utc, NOW)) == ([], 0)


@pytest.mark.parametrize(
    ("text", "zone", "seconds"),
    [
        ("0 3 * * *", BERLIN, HOUR),
        ("0 0 1 * *", BERLIN, HOUR),
        ("0 0 1 * *", NEW_YORK, HOUR),
        ("0 0 * * 0", LORD_HOWE, HOUR / 2),
        ("* * * * *", BERLIN, 0),
        ("0 * * * *", BERLIN, 0),
        ("0 0 1 7 *", BERLIN, 0),
        ("*/30 2 * * *", BERLIN, 23 * HOUR),
    ],
)
def test_what_the_clocks_do_is_the_same_all_year(text: str, zone: ZoneInfo, seconds: float) -> None:
    """Whoever asks in October and in December, before a change and after it, gets one answer."""
    after_a_change = datetime(2026, 10, 25, 12, tzinfo=UTC)  # the next like it is 371 days away
    asked = {clock_changes_s(schedule(text, zone), after_a_change + timedelta(days=days)) for days in range(0, 800, 9)}

    assert asked == {seconds}


def test_a_29_february_has_gaps_too() -> None:
    """At least one gap is looked at, however far away it is."""
    assert max(gap.seconds for gap in coming_gaps(schedule("0 0 29 2 */7", GREENWICH), NOW)) == 10227 * DAY


numbers = st.integers
minutes = st.one_of(st.just("*"), numbers(0, 59).map(str), numbers(1, 59).map("*/{}".format))
hours = st.one_of(st.just("*"), numbers(0, 23).map(str), numbers(1, 23).map("*/{}".format))
days = st.one_of(st.just("*"), numbers(1, 28).map(str), numbers(1, 28).map("*/{}".format))
weekdays = st.sampled_from(["*", "1-5", "0", "2,4", "6"])
expressions = st.builds("{} {} {} * {}".format, minutes, hours, days, weekdays)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(expressions, min_size=1, max_size=3),
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, GREENWICH]),
    start=st.integers(0, 3 * 366 * 24).map(lambda hours: NOW + timedelta(hours=hours)),
)
def test_no_gap_is_longer_than_what_is_said(texts: list[str], zone: ZoneInfo, start: datetime) -> None:
    """For any schedule: walking through three months around a time finds none that exceeds interval and changes."""
    any_of = schedule(texts, zone)
    limit_s = (nominal_interval_s(any_of) or 0) + clock_changes_s(any_of, start)

    fires = any_of.fires_between(start, start + timedelta(days=92), 3000)

    assert [pair for pair in pairwise(fires) if (pair[1] - pair[0]).total_seconds() > limit_s] == []

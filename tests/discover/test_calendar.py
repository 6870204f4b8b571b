"""systemd's times in cron's words: what means the same, and what is said to have no counterpart."""

import pytest

from aura_agent.discover.calendar import as_cron, calendar_interval_s, span_s
from aura_agent.errors import ScheduleError

HOUR_S, DAY_S = 3600, 86_400


@pytest.mark.parametrize(
    ("event", "expression", "interval_s"),
    [
        ("minutely", "00 * * * * *", 60),
        ("daily", "00 00 00 * * *", DAY_S),
        ("weekly", "00 00 00 * * mon", 7 * DAY_S),
        ("quarterly", "00 00 00 01 01,04,07,10 *", 92 * DAY_S),
        ("*:0/15", "00 0-59/15 * * * *", 900),
        ("*:*:0/10", "0-59/10 * * * * *", 10),
        ("Mon..Fri 08:00", "00 00 08 * * mon-fri", 3 * DAY_S),
        ("Mon, Wednesday *-*-* 6,18:00", "00 00 6,18 * * mon,wed", 4.5 * DAY_S),
        ("*-*-* 6..18/2:30:00", "00 30 6-18/2 * * *", 12 * HOUR_S),
        ("Sun 03:10", "00 10 03 * * sun", 7 * DAY_S),
        ("*-*-01", "00 00 00 01 * *", 31 * DAY_S),
        ("12-25", "00 00 00 25 12 *", 366 * DAY_S),
    ],
)
def test_an_event_is_told_in_six_fields(event: str, expression: str, interval_s: float) -> None:
    """Its interval is the one of the expression."""
    assert as_cron(event)[0] == expression
    assert calendar_interval_s([event]) == interval_s


@pytest.mark.parametrize(
    ("events", "interval_s"),
    [
        (["*-*-* 06:00", "*-*-* 18:00"], 12 * HOUR_S),
        (["Mon 04:00", "Thu 04:00"], 4 * DAY_S),
        (["*-*-01", "*-*-15", "weekly"], 7 * DAY_S),
        (["monthly", "hourly"], HOUR_S),
        (["*:0/20", "*:10/20"], 600),
        (["*-*-* 04:00", "*-*-* 16:00 Asia/Tokyo"], DAY_S),
        (["daily UTC", "*-*-* 08:00 UTC", "weekly Asia/Tokyo"], 16 * HOUR_S),
    ],
)
def test_events_are_one_union(events: list[str], interval_s: float) -> None:
    """The longest time between any two elapses, not the longest of one event alone; zones aren't mixed."""
    assert calendar_interval_s(events) == interval_s


def test_an_event_may_name_its_zone() -> None:
    """As the last word."""
    assert as_cron("*-*-* 04:00:00 Europe/Berlin")[1] == "Europe/Berlin"
    assert as_cron("hourly UTC")[1] == "UTC"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("Sat *-*-1..7 18:00", "day and weekday at once"),
        ("*-*~1", "no counterpart|calendar event"),
        ("*-02~03", "no counterpart|calendar event"),
        ("2026-*-*", "names years"),
        ("*:*:00.5", "no counterpart"),
        ("Someday 08:00", "no weekday"),
        ("hourly Mars/Base", "time zone"),
        ("25:00", "hour"),
        ("", "no calendar event"),
        ("(", "no calendar event"),
    ],
)
def test_what_has_no_counterpart_is_said(event: str, reason: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ScheduleError, match=reason):
        calendar_interval_s([event])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1h 30min", 5400),
        ("12h", 43_200),
        ("1d", DAY_S),
        ("5min30s", 330),
        ("1.5h", 5400),
        ("2 weeks", 14 * DAY_S),
    ],
)
def test_a_time_span_is_read(text: str, seconds: float) -> None:
    """A number without a unit is seconds."""
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1 fortnight", "h", "1h x", "-1h", "infinity"])
def test_what_is_no_time_span_is_said(text: str) -> None:
    """infinity included: nothing comes of it."""
    with pytest.raises(ScheduleError, match="no time span"):
        span_s(text)

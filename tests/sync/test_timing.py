"""How long a healthy job may be silent, and the grace that follows."""

from datetime import timedelta
from typing import Any

import pytest

from aura_agent.config.models import Job, Watch, WatchFile
from tests.sync.feeding import NOW, feeders, timing

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("keys", "interval_s", "silence_s", "grace_s"),
    [
        # A daily job of up to two hours, a day of 25 hours, and five minutes for the delivery.
        ({"schedule": "0 3 * * *", "timeout": 7200.0}, DAY, 27 * HOUR, 3 * HOUR + 5 * MINUTE),
        ({"schedule": "0 3 * * *", "timeout": 7200.0, "timezone": "UTC"}, DAY, 26 * HOUR, 2 * HOUR + 5 * MINUTE),
        # Only the last of three attempts ends well: the others take their time-out, the force, and the delay.
        (
            {"every": 3600.0, "timeout": 600.0, "retries": 2, "retry_delay": 30.0, "kill_after": 20.0},
            HOUR,
            HOUR + 3 * 600 + 2 * 20 + 30 + 60,
            40 * MINUTE,
        ),
        ({"every": 3600.0, "timeout": 600.0, "jitter": 300.0}, HOUR, HOUR + 900, 20 * MINUTE),
        # Without a time-out a run is granted a tenth of the interval, an hour at the most.
        ({"every": 60.0}, MINUTE, MINUTE, 10 * MINUTE),
        ({"every": 36000.0}, 10 * HOUR, 10 * HOUR, 65 * MINUTE),
        ({"schedule": "0 0 * * 0", "timezone": "UTC"}, 7 * DAY, 7 * DAY, 65 * MINUTE),
        # A run that is replaced can't take longer than the time to the next.
        ({"every": 60.0, "timeout": 7200.0, "overlap": "replace"}, MINUTE, 2 * MINUTE, 10 * MINUTE),
        # What skips an hour on one day of the year is silent for two days then.
        ({"schedule": "*/30 2 * * *", "timeout": 60.0}, 23.5 * HOUR, 46.5 * HOUR + 60, 23 * HOUR + 10 * MINUTE),
        # Once in 28 years there is but one gap to look at.
        ({"schedule": "0 0 29 2 */7", "timezone": "UTC", "timeout": 60.0}, 10227 * DAY, 10227 * DAY + 60, 10 * MINUTE),
        # Something else runs it: its days may have 25 hours, its hours are hours.
        ({"expected_interval": 86400.0, "timeout": 3600.0}, DAY, 26 * HOUR, 2 * HOUR + 5 * MINUTE),
        ({"expected_interval": 3600.0, "timeout": 600.0}, HOUR, 70 * MINUTE, 15 * MINUTE),
        # A watch runs nothing.
        ({"every": 60.0, "watch": Watch(file=WatchFile(path="/x"))}, MINUTE, MINUTE, 5 * MINUTE),
    ],
    ids=str,
)
def test_interval_silence_and_grace(keys: dict[str, Any], interval_s: float, silence_s: float, grace_s: int) -> None:
    """The longest silence of a healthy job always fits into interval and grace, with five minutes to spare."""
    timed = timing(**keys)

    assert (timed.interval_s, timed.silence_s, timed.default_grace_s()) == (interval_s, silence_s, grace_s)
    assert timed.interval_s + timed.default_grace_s() >= timed.silence_s + 300


@pytest.mark.parametrize(
    "keys",
    [{"schedule": "0 3 * * *"}, {"schedule": "0 9 * * MON-FRI", "timeout": 600.0}, {"schedule": "0 0 1 * *"}],
    ids=str,
)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_it_is_the_same_all_year(keys: dict[str, Any], zone: str) -> None:
    """A sync in October and one in December set the same."""
    days = [NOW + timedelta(days=days) for days in range(0, 400, 13)]

    timed = [timing(now=day, timezone=zone, **keys) for day in days]

    assert len({(one.whole_interval_s(), one.default_grace_s()) for one in timed}) == 1


def test_the_words_have_the_numbers() -> None:
    """What the silence is made of, each part with its reason."""
    assert timing(schedule="0 9 * * MON-FRI", timezone="UTC", timeout=7200.0, retries=1, jitter=60.0).text() == (
        "fires up to 3d apart (Fri 2026-11-27 09:00 → Mon 2026-11-30 09:00), starts up to 1m later (jitter),"
        " a run may take 4h20s (timeout and 1 retry)"
    )
    assert timing(every=90.0).text() == "runs every 1m30s, a run may take any time (no timeout)"
    assert timing(expected_interval=86400.0, timeout=5.0).text() == (
        "runs every 1d, up to 1h more when the clocks are changed, a run may take 5s (timeout)"
    )


def test_an_interval_is_whole_seconds() -> None:
    """Rounded up, since a ping must not be late by the rounding."""
    assert timing(every=1.5).whole_interval_s() == 2


@pytest.mark.parametrize("keys", [{}, {"command": ("x",), "timeout": 60.0}, {"schedule": "@reboot"}], ids=str)
def test_of_some_jobs_nothing_can_be_said(keys: dict[str, Any]) -> None:
    """Neither interval nor grace is made up for what has no fire times."""
    (feeder,) = feeders(any=Job(**keys))

    assert (feeder.timing, feeder.interval_s, feeder.grace_s) == (None, None, None)


def test_a_grace_of_the_config_counts() -> None:
    """Instead of the one that would be worked out, also where there is no interval."""
    first, second = feeders(a=Job(every=60.0, grace=90.0), b=Job(grace=0.0))

    assert (first.interval_s, first.grace_s) == (60, 90)
    assert (second.interval_s, second.grace_s) == (None, 0)


def test_who_feeds_what() -> None:
    """The agent's own heartbeat comes first; a job that is off feeds nothing; a job without a heartbeat has its own."""
    found = feeders(agent="host", a=Job(every=60.0), b=Job(every=60.0, enabled=False), c=Job(heartbeat="x"))

    assert [(one.label, one.heartbeat, one.interval_s) for one in found] == [
        ("agent", "host", 60),
        ("jobs.a", "a", 60),
        ("jobs.c", "x", None),
    ]

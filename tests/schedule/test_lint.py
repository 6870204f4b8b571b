"""Warnings for schedules that are valid and may still surprise."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from aura_agent.schedule.lint import lint
from aura_agent.schedule.plan import build
from tests.schedule.times import BERLIN, GREENWICH

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def warnings(text: str | None, zone: ZoneInfo = GREENWICH, every_s: float | None = None) -> list[str]:
    found = lint(build(text, every_s, job="any", zone=zone), now=NOW)
    assert all(warning.startswith(f'schedule "{text}": ') for warning in found)
    return [warning.removeprefix(f'schedule "{text}": ') for warning in found]


@pytest.mark.parametrize(
    "text",
    [
        "0 4 * * *",
        "*/15 * * * *",
        "0 */6 * * *",
        "0 0 L * *",
        "0 0 15W * *",
        "H H * * *",
        "0 9-17 * * 1-5",
        "@daily",
        "0 0 * * 5#4",
        "0 0 1-7,31 * *",
        "*/20 0 4 * * *",
    ],
)
def test_an_ordinary_schedule_gives_no_warning(text: str) -> None:
    """Nothing to say about what does as it reads."""
    assert warnings(text) == []


def test_an_interval_gives_no_warning() -> None:
    """Real time knows no surprises."""
    assert warnings(None, BERLIN, every_s=900) == []


def test_what_daylight_saving_does_is_told_with_the_date() -> None:
    """A fixed time that is doubled this autumn and skipped next spring."""
    assert warnings("30 2 * * *", BERLIN) == [
        "02:30 comes twice on 2026-10-25 in Europe/Berlin: runs at the first one",
        "02:30 doesn't exist on 2027-03-28 in Europe/Berlin: runs at 03:00 instead",
    ]


def test_a_wildcard_in_the_night_is_told_too() -> None:
    """It is lost in spring and doubled in autumn; one that runs all day just goes on."""
    assert warnings("*/10 2 * * *", BERLIN) == [
        "02:00 comes twice on 2026-10-25 in Europe/Berlin: runs at both",
        "02:00 doesn't exist on 2027-03-28 in Europe/Berlin: doesn't run then",
    ]
    assert warnings("*/10 * * * *", BERLIN) == []
    assert warnings("30 2 * * *", GREENWICH) == []


def test_a_schedule_that_misses_the_night_of_the_change_is_not_told() -> None:
    """Mondays are never the Sunday of the change."""
    assert warnings("30 2 * * MON", BERLIN) == []


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("0 0 31 * *", "not every year has such a day in feb, apr, jun, sep, nov (L is the last day of each month)"),
        ("0 0 30 * *", "not every year has such a day in feb (L is the last day of each month)"),
        ("0 0 29 2 *", "not every year has such a day in feb (L is the last day of each month)"),
        ("0 0 * 1 5#5", "not every year has such a day in jan"),
        ("*/7 * * * *", 'minute "*/7": uneven, the step begins anew with each hour'),
        ("H/7 * * * *", 'minute "H/7": uneven, the step begins anew with each hour'),
        ("0 */5 * * *", 'hour "*/5": uneven, the step begins anew with each day'),
        ("0 0 */2 * *", 'day-of-month "*/2": uneven, the step begins anew with each month'),
        ("*/90 * * * *", 'minute "*/90": the step is as long as the field (0-59), so this is one value'),
        ("5/10 * * * *", 'minute "5/10": cron knows no step without a range; write "5-59/10"'),
        ("0 0 13 * 5", 'runs on day-of-month "13" and also on every day-of-week "5": cron joins the two with "or"'),
        ("* 3 * * *", 'every minute of the hour; for once an hour write a minute, as in "0 3 …"'),
        ("* 0 3 * * *", "every second of the minute, since the first of six fields is seconds"),
        ("0 0 */2 * MON", 'a day must match both day-of-month "*/2" and day-of-week "MON"'),
    ],
)
def test_what_may_surprise_is_told(text: str, warning: str) -> None:
    """Short months, uneven steps, steps without a range, two day fields, a star too many."""
    assert [found for found in warnings(text) if found.startswith(warning)]


def test_each_expression_of_a_list_is_looked_at() -> None:
    """The warning names the expression that it is about."""
    found = lint(build(["0 4 * * *", "*/7 * * * *"], None, job="any", zone=BERLIN), now=NOW)

    assert found == ['schedule "*/7 * * * *": minute "*/7": uneven, the step begins anew with each hour']

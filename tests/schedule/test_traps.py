"""What croniter 7 does by itself and cron doesn't; none of it may reach a user."""

from datetime import datetime, timedelta

import pytest

from aura_agent.errors import ScheduleError
from aura_agent.schedule.expression import Expression, parse
from tests.schedule.times import BERLIN, GREENWICH, at


def fires(text: str, after: str, until: str) -> list[str]:
    """Return the local times of a schedule in Berlin."""
    expression = parse(text, job="any", zone=BERLIN)
    found, time = [], expression.next_after(at(after))
    while time <= at(until):
        found.append(time.astimezone(BERLIN).strftime("%d %H:%M"))
        time = expression.next_after(time)
    return found


def values(text: str) -> Expression:
    return parse(text, job="any", zone=GREENWICH)


def test_a_fixed_time_fires_once_when_the_clocks_go_back() -> None:
    """croniter fires 02:30 in both passes."""
    assert fires("30 2 * * *", "2026-10-25T00:00", "2026-10-25T23:00") == ["25 02:30"]


@pytest.mark.parametrize(
    ("text", "day", "count"),
    [
        ("0 * * * *", "2027-03-28", 23),
        ("0 * * * *", "2026-10-25", 25),
        ("0 * * * *", "2026-07-01", 24),
        ("0 */2 * * *", "2027-03-28", 11),
        ("0 */2 * * *", "2026-10-25", 13),
        ("*/30 * * * *", "2027-03-28", 46),
        ("*/30 * * * *", "2026-10-25", 50),
    ],
)
def test_a_wildcard_fires_at_each_real_minute_and_no_other(text: str, day: str, count: int) -> None:
    """croniter adds a run at the jump; a day of 23 or 25 hours has just as many hourly fire times."""
    before = (at(f"{day}T00:00") - timedelta(seconds=1)).isoformat()

    found = fires(text, before, f"{day}T23:59:59")

    assert len(found) == count


def test_a_day_field_that_begins_with_a_star_joins_the_other_by_and() -> None:
    """croniter joins them by or: */2 and MON would be nearly every day."""
    assert fires("0 0 */2 * MON", "2026-11-01T12:00", "2026-11-30T12:00") == ["09 00:00", "23 00:00"]
    assert fires("0 0 1-7 * */1", "2026-11-01T12:00", "2026-11-05T12:00")[0] == "02 00:00"


def test_two_day_fields_without_a_star_are_joined_by_or() -> None:
    """The thirteenth, and each Friday: crontab(5)."""
    assert fires("0 0 13 * 5", "2026-10-01T12:00", "2026-10-20T12:00") == [
        "02 00:00",
        "09 00:00",
        "13 00:00",
        "16 00:00",
    ]


def test_seconds_come_first() -> None:
    """croniter takes the sixth field for seconds."""
    expression = values("15 30 2 * * *")

    assert expression.next_after(at("2026-05-01T00:00", GREENWICH)) == at("2026-05-01T02:30:15Z")


@pytest.mark.parametrize(
    ("equal", "single"),
    [
        ("5-5 * * * *", "5 * * * *"),
        ("0 5-5 * * *", "0 5 * * *"),
        ("0 0 5-5 * *", "0 0 5 * *"),
        ("0 0 * may-MAY *", "0 0 * 5 *"),
        ("0 0 * * sun-sun", "0 0 * * 0"),
        ("0 0 * * 7-7", "0 0 * * 0"),
        ("5-5/3 * * * *", "5 * * * *"),
        ("59/15 * * * *", "59 * * * *"),
    ],
)
def test_an_equal_range_is_one_value(equal: str, single: str) -> None:
    """croniter takes 5-5 for the whole field."""
    left, right = values(equal), values(single)

    assert (left.minutes, left.hours, left.days.days, left.days.weekdays, left.months) == (
        right.minutes,
        right.hours,
        right.days.days,
        right.days.weekdays,
        right.months,
    )


@pytest.mark.parametrize("text", ["22-3 * * * *", "0 22-3 * * *", "0 0 * nov-feb *", "0 0 * * fri-mon", "0 0 * * 7-2"])
def test_a_backward_range_is_an_error(text: str) -> None:
    """croniter wraps it around; cron refuses it (entry.c, get_range)."""
    with pytest.raises(ScheduleError, match="backwards; write"):
        values(text)


@pytest.mark.parametrize(
    "text",
    [
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "0 0 30-31 feb *",
        "0 0 31W 4 *",
        "0 0 */31 * 1#5",
        "0 0 0-5 30 2 *",
    ],
)
def test_a_schedule_that_never_fires_is_an_error_at_once(text: str) -> None:
    """croniter's is_valid lets it pass, and the search raises later."""
    with pytest.raises(ScheduleError, match="never fires") as caught:
        values(text)

    assert "correct one of them" in str(caught.value)


def test_an_impossible_date_beside_a_weekday_fires_on_the_weekday() -> None:
    """30 February or a Monday: the Mondays of February are left."""
    assert fires("0 0 30 2 1", "2027-01-30T12:00", "2027-02-10T12:00") == ["01 00:00", "08 00:00"]


def test_a_start_without_a_zone_is_refused() -> None:
    """croniter takes it for UTC, whatever the host's zone is."""
    with pytest.raises(ValueError, match="time zone"):
        values("0 0 * * *").next_after(datetime(2026, 5, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("macro", "columns"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@DAILY", "0 0 * * *"),
    ],
)
def test_macros_are_not_spread(macro: str, columns: str) -> None:
    """croniter spreads @daily as soon as it is given a hash id."""
    assert parse(macro, job="any", zone=BERLIN).fields == ("0", *columns.split())


def test_a_number_stays_where_it_is_for_every_job() -> None:
    """Only H is spread."""
    assert parse("0 3 * * *", job="one", zone=BERLIN) == parse("0 3 * * *", job="two", zone=BERLIN)


@pytest.mark.parametrize(
    "text", ["R * * * *", "? * * * *", "0 0 ? * MON", "0 0 1 1 * 0 2030", "0 0 W15 * *", "0 0 * * L5"]
)
def test_croniters_own_forms_are_refused(text: str) -> None:
    """Random fields, question marks, years, and forms that cron's users don't know have no second spelling."""
    with pytest.raises(ScheduleError):
        values(text)


def test_weekday_ranges_up_to_seven_and_steps_in_them_are_crons() -> None:
    """Sunday is 7 as well as 0, in each range and with each step."""
    for low in range(8):
        for high in range(low, 8):
            for step in range(1, 9):
                named = {low} if low == high else set(range(low, high + 1, step))
                mask = values(f"0 0 * * {low}-{high}/{step}").days.weekdays
                assert {day for day in range(7) if mask >> day & 1} == {value % 7 for value in named}


def test_special_days_and_plain_ones_stand_in_one_list() -> None:
    """croniter refuses W in a list, and LW altogether; here a special day is a term like any other."""
    assert fires("0 12 1,15W,LW * *", "2026-08-02T00:00", "2026-08-31T23:00") == ["14 12:00", "31 12:00"]

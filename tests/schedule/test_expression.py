"""Reading expressions: special days, names, the stable hash, errors that tell what to do; and the words for a time."""

from datetime import timedelta

import pytest

from aura_agent.errors import ScheduleError
from aura_agent.schedule.expression import parse
from tests.schedule.times import APIA, BERLIN, GREENWICH, at


def dates(text: str, after: str, count: int) -> list[str]:
    expression = parse(text, job="any", zone=GREENWICH)
    found, fire = [], at(after, GREENWICH)
    for _ in range(count):
        fire = expression.next_after(fire)
        found.append(f"{fire:%a %d %b}")
    return found


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 0 L * *", "2027-01-15", ["Sun 31 Jan", "Sun 28 Feb", "Wed 31 Mar", "Fri 30 Apr"]),
        ("0 0 L 2 *", "2027-01-15", ["Sun 28 Feb", "Tue 29 Feb"]),
        ("0 0 L-2 * *", "2027-01-15", ["Fri 29 Jan", "Fri 26 Feb"]),
        ("0 0 LW * *", "2027-01-15", ["Fri 29 Jan", "Fri 26 Feb", "Wed 31 Mar"]),
        ("0 0 15W * *", "2027-01-15T12:00", ["Mon 15 Feb", "Mon 15 Mar", "Thu 15 Apr", "Fri 14 May"]),
        ("0 0 1W * *", "2027-01-15", ["Mon 01 Feb", "Mon 01 Mar", "Thu 01 Apr", "Mon 03 May"]),
        ("0 0 31W * *", "2027-07-15", ["Fri 30 Jul", "Tue 31 Aug", "Fri 29 Oct"]),
        ("0 0 28w 2 *", "2027-01-15", ["Fri 26 Feb"]),
        ("0 0 * * 5#3", "2027-01-01", ["Fri 15 Jan", "Fri 19 Feb"]),
        ("0 0 * * fri#5", "2027-01-01", ["Fri 29 Jan", "Fri 30 Apr"]),
        ("0 0 * * 0#1,7#2", "2027-01-01", ["Sun 03 Jan", "Sun 10 Jan", "Sun 07 Feb"]),
        ("0 0 * * 5L", "2027-01-01", ["Fri 29 Jan", "Fri 26 Feb"]),
        ("0 0 * * 1L", "2027-01-01", ["Mon 25 Jan", "Mon 22 Feb", "Mon 29 Mar"]),
        ("0 0 * * sunL", "2027-01-01", ["Sun 31 Jan", "Sun 28 Feb"]),
        ("0 0 * * MON,5L", "2027-01-20", ["Mon 25 Jan", "Fri 29 Jan", "Mon 01 Feb"]),
        ("0 0 13,L * *", "2027-01-01", ["Wed 13 Jan", "Sun 31 Jan"]),
        ("0 0 1 jan,JUL *", "2027-01-02", ["Thu 01 Jul", "Sat 01 Jan"]),
        ("0 0 * * sat-sun", "2027-01-01", ["Sat 02 Jan", "Sun 03 Jan", "Sat 09 Jan"]),
        ("0 0 * * mon-wed/2", "2027-01-01", ["Mon 04 Jan", "Wed 06 Jan", "Mon 11 Jan"]),
        ("0 0 1/10 * *", "2027-01-01", ["Mon 11 Jan", "Thu 21 Jan", "Sun 31 Jan", "Mon 01 Feb"]),
    ],
)
def test_days_are_the_ones_of_the_calendar(text: str, after: str, expected: list[str]) -> None:
    """L, L-n, LW, nW, weekday#n, weekdayL, names, lists, ranges and steps name the days that they say."""
    assert dates(text, after, len(expected)) == expected


def test_h_is_stable_and_spread() -> None:
    """One job keeps its minute for ever; a thousand jobs use every minute and hour."""
    columns = [parse("H H * * *", job=f"job-{number}", zone=BERLIN).fields for number in range(1000)]

    assert parse("H H * * *", job="backup", zone=BERLIN).fields == ("0", "34", "8", "*", "*", "*")
    assert {int(fields[1]) for fields in columns} == set(range(60))
    assert {int(fields[2]) for fields in columns} == set(range(24))


def test_h_keeps_to_its_range_and_each_month() -> None:
    """H(0-30) stays in the range; H as a day of the month comes in February too; steps begin at a hashed value."""
    for number in range(200):
        job = f"job-{number}"
        ranged = parse("H(0-30) H(1-3) H * H", job=job, zone=BERLIN).fields
        stepped = parse("H/15 * * * *", job=job, zone=BERLIN)
        assert int(ranged[1]) <= 30
        assert 1 <= int(ranged[2]) <= 3
        assert 1 <= int(ranged[3]) <= 28
        assert 0 <= int(ranged[5]) <= 6
        assert stepped.minutes.bit_count() == 4
        assert not stepped.fixed


def test_a_step_from_a_hash_counts_as_a_star() -> None:
    """H/2 is */2 from another start: a wildcard, and joined to the other day field by and."""
    assert not parse("0 H/2 * * *", job="any", zone=BERLIN).fixed
    assert parse("0 H * * *", job="any", zone=BERLIN).fixed
    assert parse("0 0 H/2 * MON", job="any", zone=BERLIN).days.both
    assert not parse("0 0 H * MON", job="any", zone=BERLIN).days.both


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60 * * * *", 'minute field: "60": 60 is out of range; use 0-59'),
        ("* 24 * * *", 'hour field: "24": 24 is out of range; use 0-23'),
        ("61 0 0 * * *", 'second field: "61": 61 is out of range; use 0-59'),
        ("0 0 0 * *", 'day-of-month field: "0": 0 is out of range; use 1-31'),
        ("0 0 * 13 *", 'month field: "13": 13 is out of range; use 1-12'),
        ("0 0 * * 8", 'day-of-week field: "8": 8 is out of range; use 0-7'),
        ("0 0 * * Mno", 'day-of-week field: "Mno": use 0-7 or sun to sat; did you mean "mon"?'),
        ("0 0 * june *", 'month field: "june": use 1-12 or jan to dec; did you mean "jun"?'),
        ("1,,2 * * * *", 'minute field: "": nothing between two commas'),
        ("1-70 * * * *", 'minute field: "1-70": 70 is out of range'),
        ("*/0 * * * *", 'minute field: "*/0": a step is 1 or more'),
        ("5-3 * * * *", 'minute field: "5-3": a range can\'t run backwards; write "5-59,0-3"'),
        ("0 0 * * 1#6", 'day-of-week field: "1#6": write WEEKDAY#1 to WEEKDAY#5'),
        ("0 0 32W * *", 'day-of-month field: "32W": write 1W to 31W'),
        ("0 0 L-31 * *", 'day-of-month field: "L-31": write L-1 to L-30'),
        ("0 0 ? * MON", 'day-of-month field: "?": write "*"'),
        ("H(5-70) * * * *", 'minute field: "H(5-70)": write H(LOW-HIGH) within 0-59'),
        ("H/0 * * * *", 'minute field: "H/0": a step is 1 or more'),
        ("* * * *", "4 fields; write five (minute hour day-of-month month day-of-week), or six with seconds first"),
        ("0 0 1 1 * 0 2030", "there is no field for years"),
        ("", "0 fields"),
        ("@dayly", 'did you mean "@daily"?'),
        ("@every 15m", 'write every = "15m" in the job instead'),
        ("@reboot", "stands as a schedule of its own"),
        ("0 0 30 2 *", 'never fires: no day has day-of-month "30" and month "2"; correct one of them'),
    ],
)
def test_an_error_names_field_and_text_and_says_what_to_do(text: str, message: str) -> None:
    """One line with the schedule, the field, the offending text and a way out."""
    with pytest.raises(ScheduleError) as caught:
        parse(text, job="any", zone=BERLIN)

    assert message in str(caught.value)
    assert f'schedule "{text}"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "0\u00a00 * * *",
        "٣ * * * *",
        "-5 * * * *",
        "1.5 * * * *",
        "1- * * * *",
        "*5 * * * *",
        "5/ * * * *",
        "l * * * *",
        "0 0 * * L",
        "99999 * * * *",
        "*-5 * * * *",
        "h( * * * *",
    ],
)
def test_what_is_no_schedule_is_a_schedule_error(text: str) -> None:
    """Nothing but ScheduleError comes out of a text, however odd."""
    with pytest.raises(ScheduleError):
        parse(text, job="any", zone=BERLIN)


def test_blanks_between_the_fields_do_not_matter() -> None:
    """Tabs and runs of blanks separate as one blank does."""
    assert parse("  0\t 3  * * *\n", job="any", zone=BERLIN).text == "0 3 * * *"


@pytest.mark.parametrize(
    ("text", "fire", "words"),
    [
        ("0 3 * * *", "2026-05-01T03:00", 'matches "0 3 * * *"'),
        ("@daily", "2026-05-01T00:00", "@daily"),
        ("H 3 * * *", "2026-05-01T03:34", 'matches "H 3 * * *" ("34 3 * * *" for this job)'),
        (
            "30 2 * * *",
            "2027-03-28T03:00",
            "right after the jump, because 02:30 doesn't exist that day (clocks go from 02:00 to 03:00)",
        ),
        ("15,45 2 * * *", "2027-03-28T03:00", "right after the jump, because 02:15 and 02:45 don't exist that day"),
        ("0-9 2 * * *", "2027-03-28T03:00", "right after the jump, because 02:00 and others don't exist that day"),
        (
            "0 2,3 * * *",
            "2027-03-28T03:00",
            'matches "0 2,3 * * *"; also right after the jump, because 02:00 doesn\'t exist that day',
        ),
        ("0 3 * * *", "2027-03-28T03:00", 'matches "0 3 * * *"'),
        (
            "30 2 * * *",
            "2026-10-25T02:30+02:00",
            "first of two passes of 02:30 (clocks go back): a fixed time runs once",
        ),
        ("*/30 2 * * *", "2026-10-25T02:30+02:00", "first of two passes of 02:30 (clocks go back): both count"),
        ("*/30 2 * * *", "2026-10-25T02:30+01:00", "second of two passes of 02:30 (clocks go back): both count"),
    ],
)
def test_a_fire_time_is_explained(text: str, fire: str, words: str) -> None:
    """The words say whether the time is the ordinary one, made up for, or one of two passes."""
    expression = parse(text, job="backup", zone=BERLIN)

    assert expression.fires_at(at(fire))
    assert expression.explain(at(fire)).startswith(words)


def test_the_day_that_a_zone_skips_is_not_explained_away() -> None:
    """After Samoa's missing day the ordinary time is just that."""
    expression = parse("0 0 * * *", job="any", zone=APIA)
    fire = expression.next_after(at("2011-12-29T12:00", APIA))

    assert fire == at("2011-12-31T00:00+14:00")
    assert expression.explain(fire) == 'matches "0 0 * * *"'


def test_the_next_fire_time_is_strictly_later() -> None:
    """A search from a fire time goes past it; one from just before it, even by a microsecond, finds it."""
    expression = parse("* * * * * *", job="any", zone=BERLIN)
    fire = at("2026-05-01T03:00")

    assert expression.next_after(fire) == fire + timedelta(seconds=1)
    assert expression.next_after(fire - timedelta(microseconds=1)) == fire
    assert expression.next_after(fire + timedelta(microseconds=1)) == fire + timedelta(seconds=1)


def test_a_search_at_the_end_of_the_calendar_is_an_error_and_not_a_crash() -> None:
    """Years end with 9999."""
    with pytest.raises(ScheduleError, match="calendar ends"):
        parse("0 0 1 1 *", job="any", zone=BERLIN).next_after(at("9998-06-01T00:00"))

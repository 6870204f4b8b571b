"""Which fire times are started and which are skipped, after a pause of any length; intervals; the boot."""

from datetime import datetime, timedelta

import pytest

from aura_agent.errors import ScheduleError
from aura_agent.schedule.plan import CatchUp, Due, Schedule, build, plan_due, reboot_due
from tests.schedule.times import BERLIN, GREENWICH, at

NOON = at("2026-05-01T12:00", GREENWICH)


def schedule(text: str | list[str] | None = None, every_s: float | None = None) -> Schedule:
    return build(text, every_s, job="any", zone=GREENWICH)


def due(
    text: str, last_fire: str, now: str, catch_up: CatchUp = "latest", *, grace_s: float = 60, limit: int = 3
) -> Due:
    return plan_due(schedule(text), at(last_fire, GREENWICH), at(now, GREENWICH), catch_up, grace_s, limit)


def started(plan: Due) -> list[str]:
    return [f"{start.at:%H:%M}" for start in plan.start]


def skipped(plan: Due) -> list[tuple[str, str, int, bool]]:
    return [(f"{each.first:%H:%M}", f"{each.last:%H:%M}", each.count, each.exact) for each in plan.skipped]


@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
def test_a_fire_time_that_has_just_come_is_started(catch_up: CatchUp) -> None:
    """On time, the policy doesn't matter, and the reason is the schedule itself."""
    plan = due("0 * * * *", "2026-05-01T11:00", "2026-05-01T12:00:01", catch_up)

    assert started(plan) == ["12:00"]
    assert plan.start[0].reason == 'matches "0 * * * *"'
    assert plan.skipped == ()
    assert plan.last_fire == NOON


@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
def test_nothing_is_due_before_its_time(catch_up: CatchUp) -> None:
    """A microsecond early is early; what was last dealt with stays."""
    plan = due("0 * * * *", "2026-05-01T11:00", "2026-05-01T11:59:59.999999", catch_up)

    assert plan == Due((), (), at("2026-05-01T11:00", GREENWICH))


def test_latest_starts_the_newest_however_late() -> None:
    """Four hours asleep: one run makes up for four, and the reasons say so."""
    plan = due("0 * * * *", "2026-05-01T08:00", "2026-05-01T12:30")

    assert started(plan) == ["12:00"]
    assert plan.start[0].reason == 'matches "0 * * * *"; missed, made up for 30m later'
    assert skipped(plan) == [("09:00", "11:00", 3, True)]
    assert plan.skipped[0].reason == ('missed; the run for 2026-05-01T12:00:00Z makes up for it (catch_up = "latest")')


def test_skip_starts_only_what_is_within_the_grace() -> None:
    """With skip a late fire time is left out, and the text says how late and what the grace is."""
    late = due("0 * * * *", "2026-05-01T08:00", "2026-05-01T12:30", "skip")
    timely = due("0 * * * *", "2026-05-01T08:00", "2026-05-01T12:30", "skip", grace_s=1800)

    assert started(late) == []
    assert skipped(late) == [("09:00", "11:00", 3, True), ("12:00", "12:00", 1, True)]
    assert late.skipped[1].reason == 'missed (30m late, misfire_grace is 1m); catch_up = "skip"'
    assert late.last_fire == NOON
    assert started(timely) == ["12:00"]
    assert skipped(timely) == [("09:00", "11:00", 3, True)]


def test_all_starts_the_newest_up_to_the_limit_in_order() -> None:
    """Older ones than the limit allows are skipped and told."""
    plan = due("0 * * * *", "2026-05-01T06:00", "2026-05-01T12:30", "all")

    assert started(plan) == ["10:00", "11:00", "12:00"]
    assert skipped(plan) == [("07:00", "09:00", 3, True)]
    assert plan.skipped[0].reason == 'missed; catch_up = "all" makes up for the newest 3 only'


def test_all_starts_everything_below_the_limit() -> None:
    """Two missed, three allowed: both run."""
    plan = due("0 * * * *", "2026-05-01T10:00", "2026-05-01T12:30", "all")

    assert started(plan) == ["11:00", "12:00"]
    assert plan.skipped == ()


@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
@pytest.mark.parametrize("text", ["* * * * *", "* * * * * *", "* * * 1 1 *", "0 3 29 2 *", "30 2 * * SUN"])
def test_years_of_downtime_are_searched_and_not_walked_through(catch_up: CatchUp, text: str) -> None:
    """Sixteen years of seconds come to an end at once; walking them would outlast any patience."""
    one = schedule(text)

    plan = plan_due(one, at("2010-01-01", GREENWICH), NOON, catch_up, 60, 100)

    following = one.next_after(plan.last_fire)
    assert following is not None
    assert plan.last_fire <= NOON < following
    assert len(plan.start) <= 100


def test_a_count_that_is_not_exact_says_so() -> None:
    """Half a million missed minutes are told as 50 or more."""
    plan = due("* * * * *", "2025-05-01T12:00", "2026-05-01T12:00")

    assert skipped(plan) == [("12:01", "11:59", 50, False)]


def test_a_clock_that_was_set_back_runs_no_slot_twice() -> None:
    """Whatever the clock says: a slot that was dealt with doesn't come again, and the next one does."""
    hourly = schedule("0 * * * *")
    last_fire, starts = at("2026-05-01T09:30", GREENWICH), []
    for now in ("10:00:01", "11:00:00", "10:00:30", "09:00:00", "11:00:00", "11:59:59", "12:00:00", "12:00:01"):
        plan = plan_due(hourly, last_fire, at(f"2026-05-01T{now}", GREENWICH), "latest", 60, 3)
        starts += started(plan)
        last_fire = plan.last_fire

    assert starts == ["10:00", "11:00", "12:00"]


def test_however_the_time_is_cut_each_slot_is_dealt_with_once() -> None:
    """Over the autumn night, looking every 7 or every 11 minutes gives the same runs as the schedule itself."""
    plain = build(["*/5 2 * * *", "30 2 * * *", "0 3 * * *"], None, job="any", zone=BERLIN)
    begin, end = at("2026-10-25T00:00"), at("2026-10-25T06:00")
    for step_s in (7 * 60, 11 * 60, 3600):
        last_fire, now, found = begin, begin, list[datetime]()
        while now <= end:
            plan = plan_due(plain, last_fire, now, "all", 60, 1000)
            found += [start.at for start in plan.start]
            last_fire, now = plan.last_fire, now + timedelta(seconds=step_s)
        assert found == plain.fires_between(begin, now - timedelta(seconds=step_s), 1000)


def test_expressions_are_a_union() -> None:
    """Each of them counts, and a time that two name comes once with both reasons."""
    union = schedule(["0 12 * * *", "0 */6 * * *"])

    assert [f"{fire:%H}" for fire in union.fires_between(NOON, NOON + timedelta(days=1), 10)] == [
        "18",
        "00",
        "06",
        "12",
    ]
    assert union.explain(NOON) == 'matches "0 12 * * *"; matches "0 */6 * * *"'


def test_an_interval_is_anchored_to_the_epoch() -> None:
    """Every 15 minutes is at full quarters, wherever the search starts, and doesn't drift over a year."""
    quarters = schedule(every_s=900)

    assert quarters.next_after(NOON + timedelta(seconds=1)) == NOON + timedelta(minutes=15)
    assert quarters.next_after(NOON + timedelta(minutes=15)) == NOON + timedelta(minutes=30)
    assert quarters.last_between(NOON, NOON + timedelta(days=365, seconds=1)) == NOON + timedelta(days=365)
    assert quarters.explain(NOON) == "every 15m, counted from 1970-01-01T00:00Z"


def test_a_broken_interval_does_not_drift() -> None:
    """Seven and a half seconds stay on their grid for a day."""
    fires = schedule(every_s=7.5).fires_between(NOON, NOON + timedelta(days=1), 20_000)

    assert len(fires) == 11_520
    assert fires[-1] == NOON + timedelta(days=1)


def test_a_start_of_the_daemon_is_no_fire_time() -> None:
    """Between two fire times nothing is due, whenever one looks first."""
    start = NOON + timedelta(minutes=7)

    assert plan_due(schedule(every_s=900), start, start + timedelta(seconds=5), "latest", 60, 1).start == ()


def test_reboot_is_due_once_per_boot() -> None:
    """The boot id decides, not the clock and not the daemon's start."""
    boot = schedule("@reboot")

    assert boot.at_reboot
    assert boot.next_after(NOON) is None
    assert boot.fires_between(NOON, NOON + timedelta(days=9), 9) == []
    assert plan_due(boot, NOON, NOON + timedelta(days=9), "latest", 60, 1) == Due((), (), NOON)
    assert reboot_due(boot, boot_id="b", last_boot_id=None)
    assert reboot_due(boot, boot_id="b", last_boot_id="a")
    assert not reboot_due(boot, boot_id="b", last_boot_id="b")
    assert not reboot_due(schedule("0 0 * * *"), boot_id="b", last_boot_id="a")


def test_reboot_stands_beside_wall_times() -> None:
    """A list may hold both."""
    both = schedule(["@Reboot", "0 18 * * *"])

    assert both.at_reboot
    assert both.next_after(NOON) == NOON + timedelta(hours=6)


@pytest.mark.parametrize(
    ("text", "every_s", "message"),
    [
        ("0 0 * * *", 60.0, "exclude each other"),
        (None, None, "no fire time"),
        ([], None, "no fire time"),
        (None, 0.5, "too short"),
        (None, 0.0, "too short"),
        (["0 0 * * *", "0 0 30 2 *"], None, "never fires"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(
    text: str | list[str] | None, every_s: float | None, message: str
) -> None:
    """Both keys, none, too short, or one bad expression in a list."""
    with pytest.raises(ScheduleError, match=message):
        schedule(text, every_s)


def test_the_newest_fire_time_is_found_wherever_the_bursts_lie() -> None:
    """The search from behind agrees with walking there."""
    for text in ("* 30 2 * * *", "*/7 * * * *", "0 3 1 * *", "0-9 0 * * 1"):
        one = schedule(text)
        for hours in (1, 5, 26, 171, 1000):
            until = NOON + timedelta(hours=hours, seconds=17)
            walked = one.fires_between(NOON, until, 1_000_000)
            assert one.last_between(NOON, until) == (walked[-1] if walked else None), (text, hours)

"""What check --online says of heartbeats that don't suit their jobs."""

import pytest
from msgspec.structs import replace

from aura_agent.api import Heartbeat
from aura_agent.config.models import Job
from aura_agent.sync.plan import find_targets
from aura_agent.sync.verdict import judge
from tests.sync.feeding import UUID, feeders, heartbeat

HOUR, DAY = 3600.0, 86400.0
WEEKDAYS = Job(heartbeat="x", schedule="0 9 * * MON-FRI", timezone="UTC", timeout=2 * HOUR)


def verdict(job: Job, *listed: Heartbeat) -> tuple[list[str], list[str], int]:
    """Return errors, warnings, and how many heartbeats sync would mend."""
    targets, _ = find_targets(feeders(a=job), listed)
    said = judge(targets, listed)
    return [one.message for one in said.errors], [one.message for one in said.warnings], len(said.mendable)


def test_fire_times_further_apart_than_the_heartbeat_allows_are_an_error() -> None:
    """The numbers, when it goes wrong, and what to set."""
    assert verdict(WEEKDAYS, heartbeat("x", DAY, 300)) == (
        [
            (
                "fires up to 3d apart (Fri 2026-11-27 09:00 → Mon 2026-11-30 09:00), a run may take 2h (timeout): 3d2h;"
                ' "x" allows interval 1d + grace 5m = 1d5m: a false alarm after 10 of the next 49 runs;'
                " set interval 3d and grace 2h5m, as aura-agent sync does"
            )
        ],
        [],
        1,
    )


@pytest.mark.parametrize(
    ("job", "interval_s", "grace_s", "when"),
    [
        (Job(heartbeat="x", every=HOUR, timeout=60.0), 60, 60, "a false alarm after each run"),
        (
            Job(heartbeat="x", schedule="0 3 * * *", timezone="Europe/Berlin", timeout=60.0),
            DAY,
            1800,
            "a false alarm when the clocks are changed",
        ),
        (Job(heartbeat="x", expected_interval=DAY, timeout=60.0), HOUR, HOUR, "a false alarm after each run"),
    ],
    ids=str,
)
def test_the_error_says_how_often(job: Job, interval_s: float, grace_s: float, when: str) -> None:
    """Each time, or on two nights of the year, is a difference for whoever reads it."""
    ((error,), warnings, _) = verdict(job, heartbeat("x", interval_s, grace_s))

    assert when in error
    assert warnings == []


@pytest.mark.parametrize(
    ("job", "interval_s", "grace_s", "what"),
    [
        # The longest run doesn't fit.
        (WEEKDAYS, 3 * DAY, HOUR, '3d2h; "x" allows interval 3d + grace 1h = 3d1h: a false alarm if it comes to that'),
        # Neither does the longest jitter.
        (Job(heartbeat="x", every=HOUR, timeout=60.0, jitter=1800.0), HOUR, 600, "a false alarm if it comes to that"),
        # Nothing is known of the run, but that it takes time.
        (Job(heartbeat="x", every=HOUR), HOUR, 0, "leaves no time for the ping itself"),
        (WEEKDAYS, 3 * DAY, 2 * HOUR, "leaves no time for the ping itself"),
        # An incident would come late.
        (Job(heartbeat="x", every=60.0, timeout=30.0), DAY, 0, "an alarm comes 23h49m later than it could"),
    ],
    ids=str,
)
def test_what_goes_wrong_in_the_worst_case_is_a_warning(job: Job, interval_s: float, grace_s: float, what: str) -> None:
    """It may never happen, so the config isn't called wrong for it."""
    errors, (warning,), mendable = verdict(job, heartbeat("x", interval_s, grace_s))

    assert what in warning
    assert (errors, mendable) == ([], 1)


@pytest.mark.parametrize(
    ("job", "interval_s", "grace_s"),
    [
        (WEEKDAYS, 3 * DAY, 2 * HOUR + 300),
        (WEEKDAYS, 2 * DAY, 2 * DAY),
        (WEEKDAYS, 7 * DAY, 0),
        (Job(heartbeat="x", command=("x",)), 60, 0),
        (WEEKDAYS, None, None),
    ],
    ids=str,
)
def test_what_suits_is_passed_in_silence(job: Job, interval_s: float | None, grace_s: float | None) -> None:
    """Whoever set it; also where nothing is known of the job or of the heartbeat."""
    assert verdict(job, heartbeat("x", interval_s, grace_s)) == ([], [], 0)


def test_a_grace_of_the_config_that_is_too_short_is_named() -> None:
    """Sync would set just that, so the line doesn't send anybody there."""
    _, (warning,), _ = verdict(Job(heartbeat="x", every=HOUR, timeout=HOUR, grace=300.0), heartbeat("x", HOUR, 300))

    assert warning.endswith("; set interval 1h and grace 1h5m: the config's grace of 5m is too short")


def test_an_unknown_name_comes_with_the_nearest() -> None:
    """And with the way to create it."""
    assert verdict(Job(heartbeat="nightly-bakup", every=HOUR), heartbeat("nightly-backup"), heartbeat("other")) == (
        [
            (
                'Aura has no heartbeat named "nightly-bakup"; did you mean "nightly-backup"?'
                " Else create it with aura-agent sync"
            )
        ],
        [],
        1,
    )


def test_a_heartbeat_named_by_name_and_by_id_is_a_warning() -> None:
    """Which the offline check can't see."""
    job = Job(every=HOUR, timeout=600.0)
    listed = [heartbeat("x", HOUR, 900, identity=UUID)]
    targets, _ = find_targets(feeders(a=replace(job, heartbeat="x"), b=replace(job, heartbeat=UUID)), listed)

    assert [one.message for one in judge(targets, listed).warnings] == [
        '"x" is pinged by jobs.a, jobs.b, once by name and once by id; one can hide that another fails'
    ]


def test_a_paused_heartbeat_is_a_warning() -> None:
    """Nobody would hear of a job that fails."""
    assert verdict(WEEKDAYS, heartbeat("x", 3 * DAY, 3 * HOUR, status="paused")) == (
        [],
        ['"x" is paused in Aura, so it raises no alarm; resume it there'],
        0,
    )

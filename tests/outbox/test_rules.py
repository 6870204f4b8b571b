"""The truth rules as pure functions."""

from dataclasses import replace

import pytest

from aura_agent.outbox.rules import (
    Key,
    Moment,
    Run,
    Stream,
    Waiting,
    age_s,
    effect,
    hear,
    is_news,
    judge,
    left_s,
    true_end,
    urgency_wall_ns,
)
from aura_agent.report.record import Outcome

_S = 10**9
NOW = Moment(3, 5000 * _S, 1_800_000_000 * _S)


def _entry(number: int, started_s: int, *, ended_s: int | None = None, epoch: int = 3, **facts: object) -> Waiting:
    ended = Moment(epoch, (ended_s or started_s) * _S, NOW.wall_ns - (5000 - (ended_s or started_s)) * _S)
    return Waiting(Key(epoch, started_s * _S, str(number)), ended, **facts)  # type: ignore[arg-type]


def _states(stream: Stream, *entries: Waiting, now: Moment = NOW) -> dict[int, str]:
    judgement = judge(stream, entries, now)
    gone = {int(withdrawal.run_id): withdrawal.state.value for withdrawal in judgement.withdrawn}
    return gone | {int(entry.key.run_id): "send" for entry in judgement.sendable}


def test_only_the_newest_success_goes_out() -> None:
    """With replay = "latest" older successes are superseded, by start and not by end or arrival."""
    long, short = _entry(1, 4000, ended_s=4900), _entry(2, 4100, ended_s=4200)

    assert _states(Stream(), short, long) == {1: "superseded", 2: "send"}


def test_replay_all_sends_each_in_the_order_of_starts() -> None:
    """Nothing is superseded, and the order is that of the runs' starts, whenever they ended."""
    entries = [_entry(number, 4000 + number, ended_s=4900 - number, replay_all=True) for number in (3, 1, 2)]

    judgement = judge(Stream(), entries, NOW)

    assert [int(entry.key.run_id) for entry in judgement.sendable] == [1, 2, 3]


@pytest.mark.parametrize("replay_all", [True, False])
def test_a_later_failure_withdraws_an_earlier_success(replay_all: bool) -> None:
    """Delivering it would silence the alarm that the failure deserves; a failure before it is history."""
    entry = _entry(1, 4000, replay_all=replay_all)

    assert _states(Stream(failed=Key(3, 4001 * _S, "f")), entry) == {1: "invalidated"}
    assert _states(Stream(failed=Key(3, 3999 * _S, "f")), entry) == {1: "send"}
    assert _states(Stream(failed=Key(2, 9999 * _S, "f")), entry) == {1: "send"}


@pytest.mark.parametrize("replay_all", [True, False])
def test_a_success_before_one_already_delivered_stays_home(replay_all: bool) -> None:
    """It says less than what Aura already heard."""
    entry = _entry(1, 4000, replay_all=replay_all)

    assert _states(Stream(delivered=Key(3, 4001 * _S, "d")), entry) == {1: "superseded"}


def test_a_wrong_wall_clock_reorders_nothing() -> None:
    """Order and age within a boot come from CLOCK_BOOTTIME, whatever the wall clock was set to in between."""
    before = Waiting(Key(3, 4000 * _S, "1"), Moment(3, 4001 * _S, 2_100_000_000 * _S))
    after = Waiting(Key(3, 4900 * _S, "2"), Moment(3, 4901 * _S, 0))

    assert _states(Stream(lifetime_s=600), before, after) == {1: "expired", 2: "send"}


@pytest.mark.parametrize(
    ("lifetime_s", "max_age_s", "age", "sent"),
    [
        (600, None, 600, True),
        (600, None, 601, False),
        (600, 60, 60, True),
        (600, 60, 61, False),
        (60, 600, 61, False),
        (None, None, 86400, True),
        (None, None, 86401, False),
        (None, 60, 61, False),
    ],
)
def test_a_success_expires_with_the_next_one_due(
    lifetime_s: float | None, max_age_s: float | None, age: int, sent: bool
) -> None:
    """Older than min(interval + grace, max_age) it is stale; with the interval unknown, older than a day."""
    now = Moment(3, 100_000 * _S, NOW.wall_ns)
    ended = Moment(3, (100_000 - age) * _S, 0)
    entry = Waiting(Key(3, 0, "1"), ended, max_age_s)

    assert _states(Stream(lifetime_s=lifetime_s), entry, now=now) == {1: "send" if sent else "expired"}


def test_nothing_goes_out_in_the_place_of_a_newer_success() -> None:
    """It may have expired or be gone: over a perfect network it would have been heard, and then nothing older."""
    long, short = _entry(1, 1000, ended_s=4999), _entry(2, 2000, ended_s=2001)

    assert _states(Stream(lifetime_s=600), long, short) == {1: "superseded", 2: "expired"}
    assert _states(Stream(lifetime_s=600, succeeded=short.key), long) == {1: "superseded"}
    assert _states(Stream(lifetime_s=600, succeeded=long.key), long) == {1: "send"}
    assert _states(Stream(lifetime_s=600, succeeded=short.key), replace(long, replay_all=True)) == {1: "send"}


def test_across_boots_age_is_wall_time_and_never_negative() -> None:
    """After a reboot only the wall clock is left; one that went backwards makes nothing old."""
    ended = Moment(2, 9_999 * _S, NOW.wall_ns - 50 * _S)

    assert age_s(ended, NOW) == 50
    assert age_s(ended._replace(wall_ns=NOW.wall_ns + 10**15), NOW) == 0
    assert age_s(NOW._replace(boot_ns=NOW.boot_ns + _S), NOW) == 0


def test_what_a_wrong_clock_stamped_ahead_is_at_least_as_old_as_the_boot() -> None:
    """Its stamp lies in the future, so all that is known is that it ended before this boot was first seen."""
    ended = Moment(1, 100 * _S, 2_100_000_000 * _S)
    now = Moment(2, 500 * _S, 1_800_000_000 * _S)

    assert (age_s(ended, now), age_s(ended, now, 450.0)) == (0, 450)


def test_the_end_of_a_run_of_this_boot_is_counted_back_from_now() -> None:
    """A run that ended before the clock was set gets its true wall time once that is known."""
    reported = Moment(3, NOW.boot_ns - 100 * _S, 0)

    assert true_end(reported, NOW, 0).wall_ns == NOW.wall_ns - 100 * _S


def test_no_run_ended_before_what_earlier_boots_have_seen() -> None:
    """A clock that still stands at 1970 doesn't make a run decades old after the next boot."""
    newest = 1_799_999_000 * _S

    assert true_end(Moment(3, NOW.boot_ns, 0), NOW._replace(wall_ns=5 * _S), newest).wall_ns == newest
    assert true_end(Moment(2, 77, 5 * _S), NOW, newest).wall_ns == newest


def test_every_withdrawal_says_why() -> None:
    """No state without a reason."""
    stream = Stream(failed=Key(3, 4500 * _S, "f"), delivered=Key(3, 4200 * _S, "d"), lifetime_s=100)
    judgement = judge(stream, [_entry(number, 4000 + 100 * number) for number in range(10)], NOW)

    assert all(withdrawal.reason for withdrawal in judgement.withdrawn)


_WITHDRAWING = [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.KILLED, Outcome.NOT_STARTED, Outcome.LOST]


def _run(started_s: int, outcome: Outcome, **facts: object) -> Run:
    ended = Moment(3, (started_s + 1) * _S, NOW.wall_ns - (5000 - started_s - 1) * _S)
    return Run(Key(3, started_s * _S, "99"), ended, outcome, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_counts_once_and_any_other_replaces_lost(outcome: Outcome) -> None:
    """A report that comes twice does nothing; what turns up after a run was judged lost is what it was."""
    assert is_news(outcome, None)
    assert [is_news(outcome, known) for known in Outcome if known is not Outcome.LOST] == [False] * 6
    assert is_news(outcome, Outcome.LOST) == (outcome is not Outcome.LOST)


@pytest.mark.parametrize("outcome", _WITHDRAWING)
def test_an_outcome_that_is_no_success_withdraws_what_started_before_it(outcome: Outcome) -> None:
    """It is the stream's newest failure from then on; what started after it stays."""
    waiting = [_entry(1, 4000, replay_all=True), _entry(2, 4200, replay_all=True)]

    found = effect(Stream(), waiting, _run(4100, outcome), NOW)

    assert (found.entry, found.failed) == (None, Key(3, 4100 * _S, "99"))
    assert found.judgement is not None
    assert [gone.run_id for gone in found.judgement.withdrawn] == ["1"]
    assert [entry.key.run_id for entry in found.judgement.sendable] == ["2"]


def test_a_failure_that_is_heard_of_late_takes_no_later_ones_place() -> None:
    """The key of the newest failure stays, and so does what that has to say."""
    newest = Key(3, 4500 * _S, "f")

    found = effect(Stream(failed=newest), [_entry(1, 4400)], _run(4100, Outcome.FAILED), NOW)

    assert found.failed is None
    assert found.judgement is not None
    assert [gone.state for gone in found.judgement.withdrawn] == ["invalidated"]


def test_a_run_that_was_skipped_does_nothing_to_the_queue() -> None:
    """What waits is as true as before, and nothing joins it."""
    found = effect(Stream(), [_entry(1, 4000)], _run(4100, Outcome.SKIPPED), NOW)

    assert (found.entry, found.failed, found.judgement) == (None, None, None)


def test_a_success_joins_the_queue_and_takes_the_place_of_earlier_ones() -> None:
    """It waits with what its report said of its age and replay."""
    found = effect(Stream(), [_entry(1, 4000)], _run(4100, Outcome.SUCCEEDED, max_age_s=3000.0, replay_all=True), NOW)

    assert found.entry is not None
    assert (found.entry.max_age_s, found.entry.replay_all, found.failed) == (3000.0, True, None)
    assert found.judgement is not None
    assert [(gone.run_id, gone.state) for gone in found.judgement.withdrawn] == [("1", "superseded")]
    assert found.judgement.sendable == (found.entry,)


def test_a_success_that_is_heard_of_late_is_not_the_newest() -> None:
    """The key of the newest success stays, and with replay = "latest" nothing that started earlier goes out."""
    found = effect(Stream(succeeded=Key(3, 4500 * _S, "s")), [], _run(4100, Outcome.SUCCEEDED), NOW)

    assert found.succeeded is None
    assert found.judgement is not None
    assert [gone.state for gone in found.judgement.withdrawn] == ["superseded"]


def test_of_many_outcomes_each_finds_what_those_before_it_have_left() -> None:
    """A success waits until the failure that comes next, and another one begins anew."""
    told = ((4100, Outcome.SUCCEEDED), (4200, Outcome.FAILED), (4300, Outcome.SUCCEEDED))
    runs = [replace(_run(at, outcome), key=Key(3, at * _S, str(at))) for at, outcome in told]

    heard = hear(Stream(), [_entry(1, 4000)], runs, NOW, 0.0)

    assert [entry.key.run_id for entry in heard.entered] == ["4100", "4300"]
    assert [(gone.run_id, gone.state) for gone in heard.withdrawn.values()] == [
        ("1", "superseded"),
        ("4100", "invalidated"),
    ]
    assert heard.sendable == heard.entered[1:]
    assert (heard.rested, heard.since) == (True, runs[2].ended)
    assert (heard.stream.failed, heard.stream.succeeded) == (runs[1].key, runs[2].key)


def test_what_is_left_of_a_success_ends_with_its_life() -> None:
    """Seconds from now on, below zero once it has expired."""
    entry = _entry(1, 3999, ended_s=4000)

    assert left_s(Stream(lifetime_s=1600), entry, NOW) == 600
    assert left_s(Stream(lifetime_s=900), entry, NOW) == -100


def test_what_expires_first_says_how_urgent_its_stream_is() -> None:
    """Of several that go out one after the other, it is not always the first."""
    entries = [_entry(1, 4000, replay_all=True), _entry(2, 4100, replay_all=True, max_age_s=60.0)]

    assert urgency_wall_ns(Stream(lifetime_s=600), entries) == entries[1].ended.wall_ns + 60 * _S


@pytest.mark.parametrize(("lifetime_s", "ended_ns"), [(1e300, NOW.wall_ns), (600.0, 2**63 - 1)])
def test_no_urgency_is_beyond_what_the_store_can_hold(lifetime_s: float, ended_ns: int) -> None:
    """Whatever Aura says of an interval, or a clock of the time."""
    entry = _entry(1, 4000)
    entry = replace(entry, ended=entry.ended._replace(wall_ns=ended_ns))

    assert NOW.wall_ns < urgency_wall_ns(Stream(lifetime_s=lifetime_s), [entry]) < 2**63


@pytest.mark.parametrize(
    ("stream", "state"),
    [
        (Stream(failed=Key(3, 4200 * _S, "f")), "invalidated"),
        (Stream(delivered=Key(3, 4200 * _S, "d")), "superseded"),
        (Stream(lifetime_s=60), "expired"),
    ],
)
def test_a_success_that_comes_too_late_is_on_record_and_never_sent(stream: Stream, state: str) -> None:
    """It is withdrawn in the moment in which it joins the queue, with the reason."""
    found = effect(stream, [], _run(4100, Outcome.SUCCEEDED), NOW)

    assert found.entry is not None
    assert found.judgement is not None
    assert [(gone.run_id, gone.state) for gone in found.judgement.withdrawn] == [("99", state)]


def test_what_is_under_way_is_left_alone() -> None:
    """No failure calls back an attempt; what is known of its end decides, and may stay unknown."""
    under_way = _entry(1, 4000, under_way=True)
    found = effect(Stream(), [under_way], _run(4100, Outcome.FAILED), NOW)
    assert found.judgement is not None
    assert (found.judgement.withdrawn, found.judgement.sendable) == ((), ())

    ended = _entry(1, 4000, may_have_arrived=True)
    (gone,) = judge(Stream(failed=found.failed), [ended], NOW).withdrawn
    assert (gone.state, gone.reason.endswith("(may have arrived)")) == ("invalidated", True)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_effect_says_why(outcome: Outcome) -> None:
    """No decision without a reason."""
    assert effect(Stream(), [], _run(4100, outcome), NOW).reason

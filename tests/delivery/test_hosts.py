"""How hard hosts are asked, and when they are probed: the policy alone, in simulated time."""

import random

import pytest
from hypothesis import given, strategies as st

from aura_agent.delivery.hosts import PROBE_CAP_S, Failure, Hosts, retry_delay_s

HOST = "a.example:443"


def hosts(limit: int = 16) -> Hosts:
    return Hosts(limit, random.Random(1))


def taken(made: Hosts, name: str, now_s: float = 0.0) -> int:
    """Begin as many attempts as there is room for; return how many that were."""
    room = made.rooms(now_s).get(name, made.unknown_room)
    for _ in range(room):
        made.began(name, 1)
    return room


def fail_until_down(made: Hosts, now_s: float = 0.0, *, name: str = HOST) -> None:
    for _ in range(3):
        made.began(name, 1)
        made.failed(name, 1, Failure.CONNECT, now_s)


def test_a_host_that_never_answered_takes_few_slots() -> None:
    """Of 16 it has 4 until it answers: what hangs there leaves room for others."""
    made = hosts()

    assert taken(made, HOST) == 4
    assert taken(made, "b.example") == 4
    assert made.rooms(0.0) == {HOST: 0, "b.example": 0}


def test_answers_widen_and_the_last_quarter_is_for_others() -> None:
    """One more slot per answer, up to three quarters of all."""
    made = hosts()
    for _ in range(50):
        made.began(HOST, 1)
        made.answered(HOST, 1)

    assert taken(made, HOST) == 12


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_slots_are_all_for_whoever_comes(limit: int) -> None:
    """With fewer than four there is nothing to divide."""
    assert taken(hosts(limit), HOST) == limit


def test_three_failures_in_a_row_are_an_outage() -> None:
    """Two are not, nor are many with answers between them; the third is news, the fourth no more."""
    made = hosts()
    news = []
    for answered in (False, False, True, False, False, False, False):
        made.began(HOST, 1)
        if answered:
            made.answered(HOST, 1)
        else:
            news.append(made.failed(HOST, 1, Failure.CONNECT, 0.0))

    assert news == [False, False, False, False, True, False]
    assert made.down() == {HOST}


def test_a_host_that_is_down_has_one_probe_at_a_time() -> None:
    """Nothing before the probe is due, one attempt then, and nothing beside it."""
    made = hosts()
    fail_until_down(made)
    wait_s = made.next_open_s(0.0)
    assert wait_s is not None
    assert 0 < wait_s <= 1
    assert (made.rooms(0.0)[HOST], made.probes(0.0)) == (0, frozenset())
    assert (made.rooms(wait_s)[HOST], made.probes(wait_s)) == (1, frozenset({HOST}))

    made.began(HOST, 1)

    assert (made.rooms(wait_s)[HOST], made.probes(wait_s), made.next_open_s(wait_s)) == (0, frozenset(), None)


def test_a_day_of_outage_is_a_probe_or_two_a_minute() -> None:
    """However much waits: the gaps grow up to a minute and stay below it, so a network that is back is noticed."""
    made = hosts()
    fail_until_down(made)
    now_s, probes = 0.0, 0
    while now_s < 86_400:
        wait_s = made.next_open_s(now_s)
        assert wait_s is not None
        assert wait_s <= PROBE_CAP_S
        now_s += wait_s
        made.began(HOST, 1)
        made.failed(HOST, 1, Failure.CONNECT, now_s)
        probes += 1

    assert 1440 < probes < 2 * 2880


def test_the_first_answer_opens_a_host() -> None:
    """It is told as news once, and the slots grow from there."""
    made = hosts()
    fail_until_down(made)
    now_s = made.next_open_s(0.0) or 0.0
    made.began(HOST, 1)

    assert made.answered(HOST, 1)
    assert (made.down(), made.rooms(now_s)) == (frozenset(), {HOST: 2})
    made.began(HOST, 1)
    assert not made.answered(HOST, 1)


def test_attempts_from_before_do_not_lengthen_the_wait() -> None:
    """A dozen that began together and fail together are one sign, not twelve."""
    made = hosts()
    for _ in range(12):
        made.began(HOST, 1)
        made.answered(HOST, 1)
    taken(made, HOST)
    for _ in range(12):
        made.failed(HOST, 1, Failure.CONNECT, 100.0)

    wait_s = made.next_open_s(100.0)
    assert wait_s is not None
    assert wait_s <= 1.0
    assert made.rooms(100.0 + wait_s) == {HOST: 1}


def test_a_host_for_which_nothing_waits_is_forgotten() -> None:
    """Nothing is polled for its sake; one with an attempt under way is kept."""
    made = hosts()
    fail_until_down(made)
    made.began(HOST, 1)
    made.forget(HOST)
    assert made.down() == {HOST}
    made.given_up(HOST, 1)
    made.forget(HOST)

    assert (made.down(), made.next_open_s(0.0)) == (frozenset(), None)


@given(st.integers(1, 1000), st.floats(0, 7200), st.integers(0, 2**32))
def test_a_last_call_comes_before_expiry_or_not_at_all(probes: int, left_s: float, seed: int) -> None:
    """The wait is that of the back-off, or a shorter one that ends 2 to 10 s before the entry expires."""
    wait_s = retry_delay_s(probes, random.Random(seed), left_s=left_s)
    plain_s = retry_delay_s(probes, random.Random(seed))

    assert 0 <= wait_s <= plain_s <= PROBE_CAP_S
    assert wait_s == plain_s or 2 <= left_s - wait_s <= 10


def test_a_host_that_is_back_has_the_others_probed_at_once() -> None:
    """It may be the network that is back: one probe each, and their schedule goes on from there."""
    made = hosts()
    for name in (HOST, "b.example", "c.example"):
        fail_until_down(made, name=name)
    assert made.probes(0.0) == frozenset()

    made.began(HOST, 1)
    made.answered(HOST, 1)

    assert made.probes(0.0) == {"b.example", "c.example"}
    made.began("b.example", 1)
    made.failed("b.example", 1, Failure.CONNECT, 0.0)
    assert made.probes(0.0) == {"c.example"}


def test_a_host_that_asked_to_be_left_alone_has_no_room_until_then() -> None:
    """Whatever it answers meanwhile, and however often it asks; the latest counts, and a probe waits for it, too."""
    made = hosts()
    made.hold(HOST, 60.0)
    made.hold(HOST, 30.0)
    assert (made.rooms(0.0), made.next_open_s(0.0), made.held_s(HOST, 0.0)) == ({HOST: 0}, 60.0, 60.0)

    made.lives(HOST)
    fail_until_down(made)
    assert (made.rooms(59.0)[HOST], made.probes(59.0), made.next_open_s(59.0)) == (0, frozenset(), 1.0)
    assert (made.rooms(60.0)[HOST], made.probes(60.0), made.next_open_s(60.0)) == (1, frozenset({HOST}), 0.0)


@pytest.mark.parametrize("failure", [Failure.ERROR, Failure.HANG, Failure.BROKEN])
def test_one_ping_url_never_speaks_for_its_host(failure: Failure) -> None:
    """However often it answers an error, hangs or breaks off: the host stays open for the others."""
    made = hosts()
    for _ in range(100):
        made.began(HOST, 1)
        assert not made.failed(HOST, 1, failure, 0.0)

    assert made.down() == frozenset()
    assert made.rooms(0.0)[HOST] >= 4


@pytest.mark.parametrize("failure", [Failure.ERROR, Failure.HANG, Failure.BROKEN])
def test_a_host_is_down_when_different_urls_fail_in_a_row(failure: Failure) -> None:
    """An answer to any other URL in between shows that it lives."""
    made = hosts()
    for url in (1, 2, 1, 2):
        assert not made.failed(HOST, url, failure, 0.0)
    made.answered(HOST, 3)
    news = [made.failed(HOST, url, failure, 0.0) for url in (1, 2, 4)]

    assert news == [False, False, True]
    assert made.down() == {HOST}


def test_an_answer_of_any_kind_shows_that_a_connection_can_be_made() -> None:
    """Two that could not connect, an error, two more: no outage."""
    made = hosts()
    for failure in (Failure.CONNECT, Failure.CONNECT, Failure.ERROR, Failure.CONNECT, Failure.CONNECT):
        assert not made.failed(HOST, 1, failure, 0.0)


def test_urls_that_have_hung_have_half_of_the_room() -> None:
    """One that has an answer again is none of them any more."""
    made = hosts()
    for url in range(20):
        made.answered(HOST, url)
    for url in (1, 2):
        made.began(HOST, url)
        made.failed(HOST, url, Failure.HANG, 0.0)
    slow = made.slow()[HOST]
    assert slow.urls == {1, 2}
    assert 1 <= slow.room <= made.rooms(0.0)[HOST] // 2

    made.began(HOST, 1)
    assert made.slow()[HOST].room == slow.room - 1
    made.answered(HOST, 1)
    made.answered(HOST, 2)
    assert made.slow() == {}

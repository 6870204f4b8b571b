"""The budget's rules against services that lay their windows otherwise, with a token that others use too.

The services here are written naively and know nothing of the ledger. Time only passes where a step says so.
"""

import random
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings, strategies as st

from aura_agent.api.ledger import REQUEST_NS, WINDOWS, Ledger, Purpose

S = 10**9
BOOT = "this boot"


class Fixed:
    """A window opens with its first request, and closes a minute or an hour later."""

    def __init__(self) -> None:
        self.opened_ns: list[int | None] = [None, None]
        self.used = [0, 0]

    def take(self, at_ns: int) -> tuple[bool, tuple[int, int], int]:
        """Return whether the request passes, what is left of each window, and until when to wait if not."""
        for index, (length_ns, _) in enumerate(WINDOWS):
            opened_ns = self.opened_ns[index]
            if opened_ns is None or at_ns >= opened_ns + length_ns:
                self.opened_ns[index], self.used[index] = at_ns, 0
        full = [index for index, (_, limit) in enumerate(WINDOWS) if self.used[index] >= limit]
        if not full:
            self.used = [used + 1 for used in self.used]
        ends = [(self.opened_ns[index] or 0) + WINDOWS[index].length_ns for index in full]
        return not full, (WINDOWS[0].limit - self.used[0], WINDOWS[1].limit - self.used[1]), max(ends, default=at_ns)


class Aligned(Fixed):
    """Windows begin with each full minute and hour of the service's clock."""

    def take(self, at_ns: int) -> tuple[bool, tuple[int, int], int]:
        for index, (length_ns, _) in enumerate(WINDOWS):
            begin_ns = at_ns // length_ns * length_ns
            if self.opened_ns[index] != begin_ns:
                self.opened_ns[index], self.used[index] = begin_ns, 0
        return super().take(at_ns)


class Sliding:
    """The last minute's and hour's requests count, at each moment."""

    def __init__(self) -> None:
        self.passed_ns: list[int] = []

    def take(self, at_ns: int) -> tuple[bool, tuple[int, int], int]:
        counts = [sum(passed > at_ns - length_ns for passed in self.passed_ns) for length_ns, _ in WINDOWS]
        full = [index for index, (_, limit) in enumerate(WINDOWS) if counts[index] >= limit]
        if not full:
            self.passed_ns.append(at_ns)
            counts = [count + 1 for count in counts]
        until_ns = max((self.passed_ns[-WINDOWS[index].limit] + WINDOWS[index].length_ns for index in full), default=0)
        return not full, (WINDOWS[0].limit - counts[0], WINDOWS[1].limit - counts[1]), until_ns


SERVICES = (Fixed, Aligned, Sliding)


class Event(NamedTuple):
    """A request arrives; or, with the service's verdict, its answer does."""

    at_ns: int
    number: int
    reserved_ns: int
    verdict: tuple[bool, tuple[int, int], int] | None = None


class World:
    """One ledger, one service, a clock; requests take their time, and their answers may overtake each other."""

    def __init__(self, service: Fixed | Sliding, rng: random.Random, *, headers: bool) -> None:
        self.service, self.rng, self.headers = service, rng, headers
        self.ledger = Ledger(BOOT)
        self.now_ns = 5 * 3600 * S + rng.randrange(3600 * S)
        self.asked = self.refused = 0
        self.foolish = 0  # sent although an answer had ruled it out
        self.under_way: list[Event] = []
        self._promised: list[tuple[int, int]] = [(0, 0), (0, 0)]  # until when an answer holds, and what is left of it
        self._wait_until_ns = 0

    def pass_time(self, length_ns: int) -> None:
        end_ns = self.now_ns + length_ns
        while self.under_way and self.under_way[0].at_ns <= end_ns:
            event = heappop(self.under_way)
            if event.verdict is None:
                verdict = self.service.take(event.at_ns)
                self.refused += not verdict[0]
                answered_ns = event.at_ns + self.rng.choice((0, S // 10, 9 * S))
                heappush(self.under_way, Event(answered_ns, event.number, event.reserved_ns, verdict))
            else:
                self._answered(event.at_ns, event.reserved_ns, *event.verdict)
        self.now_ns = end_ns

    def _answered(self, at_ns: int, reserved_ns: int, passed: bool, left: tuple[int, int], until_ns: int) -> None:
        self.ledger.bring_to(BOOT, at_ns)
        told: tuple[int | None, int | None] = left if self.headers and passed else (None, None)
        self.ledger.settle(reserved_ns, at_ns, told)
        if not passed:
            self.ledger.hold(until_ns)
            self._wait_until_ns = max(self._wait_until_ns, until_ns)
        elif self.headers:
            self._promised = [(at_ns + window.length_ns, count) for window, count in zip(WINDOWS, left, strict=True)]

    def others(self, count: int) -> None:
        """Somebody else with the same token."""
        for _ in range(count):
            self.service.take(self.now_ns)

    def ask(self, purpose: Purpose, count: int) -> int:
        """Send as many requests as the ledger lets through now; return how many those were."""
        for sent in range(count):
            self.ledger.bring_to(BOOT, self.now_ns)
            if self.ledger.wait_ns(purpose, self.now_ns) > 0:
                return sent
            ruled_out = any(self.now_ns < until_ns and count <= 0 for until_ns, count in self._promised)
            self.foolish += ruled_out or self.now_ns < self._wait_until_ns
            self._promised = [(until_ns, count - 1) for until_ns, count in self._promised]
            reserved_ns = self.ledger.reserve(self.now_ns)
            self.asked += 1
            arrives_ns = self.now_ns + self.rng.choice((0, 1, S // 10, 7 * S))
            heappush(self.under_way, Event(arrives_ns, self.asked, reserved_ns))
        return count

    def turn(self) -> None:
        """Let pass what the ledger says, to the nanosecond."""
        self.ledger.bring_to(BOOT, self.now_ns)
        self.pass_time(self.ledger.wait_ns(Purpose.NEEDED, self.now_ns))

    def take(self, steps: Sequence[tuple[object, ...]]) -> None:
        for step in steps:
            match step:
                case ("ask", Purpose() as purpose, int(count)):
                    self.ask(purpose, count)
                case ("wait", int(length_ns)):
                    self.pass_time(length_ns)
                case ("turn",):
                    self.turn()
                case ("others", int(count)):
                    self.others(count)
                case ("crash",):  # what is under way arrives all the same, and nobody reads the answers
                    for event in sorted(self.under_way):
                        self.refused += event.verdict is None and not self.service.take(event.at_ns)[0]
                        self.now_ns = max(self.now_ns, event.at_ns)
                    self.under_way.clear()
        self.pass_time(60 * S)


ASK = st.tuples(st.just("ask"), st.sampled_from((*Purpose, Purpose.NEEDED)), st.sampled_from((1, 7, 40, 120)))
WAIT = st.one_of(
    st.tuples(st.just("turn")),
    st.tuples(st.just("wait"), st.sampled_from((0, 1, S, 16 * S, 60 * S, 61 * S))),
    st.tuples(st.just("wait"), st.integers(0, 4000 * S)),
)


ALL_NOW = ("ask", Purpose.NEEDED, 120)


@settings(max_examples=300)
@example(Sliding, [ALL_NOW, ("turn",), ALL_NOW], 0, False)
@example(Fixed, [("ask", Purpose.NEEDED, 1), ("wait", 59 * S), ALL_NOW, ("turn",), ALL_NOW], 0, True)
@given(
    st.sampled_from(SERVICES),
    st.lists(st.one_of(ASK, WAIT, ASK, WAIT, st.tuples(st.just("crash"))), min_size=6, max_size=50),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_alone_with_its_token_it_never_meets_a_429(
    kind: type[Fixed] | type[Sliding], steps: list[tuple[object, ...]], seed: int, headers: bool
) -> None:
    """However the service lays its windows, however long requests take, and where answers are lost to a crash."""
    world = World(kind(), random.Random(seed), headers=headers)
    world.take(steps)

    assert world.refused == 0


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("settle"), st.integers(-5, 70), st.integers(-5, 1100)),
            st.tuples(st.just("429"), st.integers(0, 4000 * S)),
            st.tuples(st.just("ask")),
            st.tuples(st.just("clock"), st.integers(-7200 * S, 7200 * S)),
            st.tuples(st.just("boot"), st.integers(0, 100 * S)),
        ),
        max_size=80,
    ),
    st.sampled_from(Purpose),
)
def test_whatever_it_is_told_the_wait_ends(steps: list[tuple[object, ...]], purpose: Purpose) -> None:
    """Headers, 429s, steps of the clock and reboots: after the wait that it names, a request may be sent.

    And that wait is never longer than a window, or than what a 429 asked for.
    """
    ledger, now_ns, boot, reserved, longest_ns = Ledger("boot 0"), 1000 * S, 0, list[int](), 3600 * S + REQUEST_NS
    for step in steps:
        ledger.bring_to(f"boot {boot}", now_ns)
        match step:
            case ("settle", int(minute), int(hour)) if reserved:
                ledger.settle(reserved.pop(), now_ns, (minute, hour))
            case ("429", int(length_ns)):
                ledger.hold(now_ns + length_ns)
                longest_ns = max(longest_ns, length_ns)
            case ("ask",) if ledger.wait_ns(purpose, now_ns) == 0:
                reserved.append(ledger.reserve(now_ns))
            case ("clock", int(by_ns)):
                now_ns = max(0, now_ns + by_ns)
            case ("boot", int(later_ns)):
                boot, now_ns = boot + 1, later_ns
    ledger.bring_to(f"boot {boot}", now_ns)
    wait_ns = ledger.wait_ns(purpose, now_ns)
    assert 0 <= wait_ns <= longest_ns
    now_ns += wait_ns
    ledger.bring_to(f"boot {boot}", now_ns)

    assert ledger.wait_ns(purpose, now_ns) == 0


@settings(max_examples=300)
@given(
    st.sampled_from(SERVICES),
    st.lists(st.one_of(ASK, WAIT, st.tuples(st.just("others"), st.sampled_from((1, 20, 55, 400)))), max_size=50),
    st.integers(0, 2**32),
)
def test_it_asks_nothing_that_the_last_answer_ruled_out(
    kind: type[Fixed] | type[Sliding], steps: list[tuple[object, ...]], seed: int
) -> None:
    """With others on the token: once an answer left nothing, or a 429 asked to wait, nothing is sent before that."""
    world = World(kind(), random.Random(seed), headers=True)
    world.take(steps)

    assert world.foolish == 0


@pytest.mark.parametrize(("purpose", "passed"), [(Purpose.LISTING, 40), (Purpose.REFRESH, 50), (Purpose.NEEDED, 60)])
def test_a_part_of_each_window_is_kept_for_what_is_more_urgent(purpose: Purpose, passed: int) -> None:
    """A listing leaves requests for a refresh, and both for a ping URL that is needed now."""
    world = World(Fixed(), random.Random(1), headers=False)

    assert world.ask(purpose, 100) == passed
    assert world.ask(Purpose.NEEDED, 100) == 60 - passed


def test_what_the_service_says_is_left_counts_for_the_reserve_too() -> None:
    """Others have used up most of the token's hour: a listing waits, a ping URL is asked for."""
    ledger = Ledger(BOOT)
    ledger.settle(ledger.reserve(0), S, (59, 200))

    assert ledger.wait_ns(Purpose.LISTING, 2 * S) == 3599 * S
    assert ledger.wait_ns(Purpose.NEEDED, 2 * S) == 0


def test_five_hundred_at_once_take_eight_minutes() -> None:
    """The burst is spread as widely as it must be, and no wider."""
    world = World(Fixed(), random.Random(1), headers=True)
    begin_ns, sent = world.now_ns, 0
    while sent < 500:
        sent += world.ask(Purpose.NEEDED, 500 - sent)
        # An answer that comes shortens the wait for those under way: look again now and then, as the limiter does.
        world.pass_time(max(1, min(30 * S, world.ledger.wait_ns(Purpose.NEEDED, world.now_ns))))

    assert world.refused == 0
    assert (world.now_ns - begin_ns) / S <= 8 * (60 + 16) + 1  # an answer takes up to 16 s here


def test_answers_that_cross_leave_the_lower_count() -> None:
    """What is under way may not be counted in an answer yet, and an answer that comes last may be the older one."""
    ledger = Ledger(BOOT)
    first, second = ledger.reserve(0), ledger.reserve(1)
    ledger.settle(second, S, (5, 500))
    assert [told and told.left for told in ledger.told] == [4, 499]
    ledger.settle(first, 2 * S, (6, 501))
    assert [told and told.left for told in ledger.told] == [4, 499]
    ledger.settle(ledger.reserve(3 * S), 4 * S, (59, 700))

    assert [told and told.left for told in ledger.told] == [59, 700]


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    """Nor does it make anybody wait for the time that it went back."""
    ledger = Ledger(BOOT)
    for _ in range(60):
        ledger.settle(ledger.reserve(5000 * S), 5000 * S, (None, None))
    ledger.bring_to(BOOT, 5010 * S)
    ledger.bring_to(BOOT, 100 * S)

    assert ledger.wait_ns(Purpose.NEEDED, 100 * S) == 50 * S


def test_a_reboot_is_counted_as_if_it_took_no_time() -> None:
    """How long the machine was off isn't known; a minute into the new boot, the old minute is over."""
    ledger = Ledger("before", written_ns=900 * S, latest_ns=[899 * S] * 60)
    ledger.bring_to("after", 20 * S)

    assert ledger.wait_ns(Purpose.NEEDED, 20 * S) == 39 * S

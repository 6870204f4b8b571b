"""What must not leave the host: matches are taken out whole, and no pattern takes longer than it may."""

import re
import signal

import pytest
from hypothesis import given, strategies as st

from aura_agent.process.attachment import LEFT_OUT, attachment
from aura_agent.process.tail import CONTEXT_BYTES, Tail
from aura_agent.report.redaction import compile_pattern, redact

_SECRET = r"key=\w+"
_ENDLESS = r"(x+x+)+y"


@given(st.text("ab ", max_size=20), st.text("ab ", max_size=20), st.lists(st.sampled_from(["a", "aa+", "b a", "ab"])))
def test_what_is_returned_has_no_character_of_a_match(context: str, text: str, patterns: list[str]) -> None:
    """Against the naive way: mark each character of each match, and look at what is left."""
    whole = context + text
    marked: set[int] = set()
    for pattern in patterns:
        for match in re.finditer(pattern, whole):
            marked.update(range(*match.span()))

    kept = redact(text, patterns, context).replace("[redacted]", "")

    assert kept == "".join(whole[at] for at in range(len(context), len(whole)) if at not in marked)


def test_each_match_is_replaced_by_one_word() -> None:
    """Matches that overlap are one."""
    assert redact("a key=1 b key=22", [_SECRET]) == "a [redacted] b [redacted]"
    assert redact("key=1", [_SECRET, "=1", "ke"]) == "[redacted]"
    assert redact("nothing here", [_SECRET]) == "nothing here"


def test_a_secret_across_the_beginning_is_known_by_what_came_before() -> None:
    """The tail begins in the middle of the secret: its second half alone would look like nothing special."""
    tail = Tail(20 + CONTEXT_BYTES)
    tail.feed(b"x" * 50_000 + b" key=hunter2hunter2 done")

    body = attachment(tail, 12, [_SECRET]).decode()

    assert body.splitlines()[1:] == ["[redacted] done"]
    assert "hunter" not in body


@pytest.mark.parametrize("patterns", [None, ["("], [_ENDLESS]], ids=["unknown", "wrong", "endless"])
def test_output_that_cannot_be_redacted_stays_here(patterns: list[str] | None) -> None:
    """Nothing of it is sent, and a line says so; a pattern without end is given up in a bounded time."""
    tail = Tail(1000)
    tail.feed(b"x" * 60)

    assert attachment(tail, 1000, patterns) == LEFT_OUT.encode()


def test_the_alarm_of_others_is_as_it_was() -> None:
    """Also where it was blocked, and a timer ran: the bound on the time works, and all is put back."""
    handler = signal.getsignal(signal.SIGALRM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    timer = signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        with pytest.raises(TimeoutError):
            redact("x" * 60, [_ENDLESS])
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, set())
        assert signal.getsignal(signal.SIGALRM) == handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("text", ["(", "[a", "*", "x*", "", "(?P<a>x)(?P<a>y)", "a{4294967296}"])
def test_a_pattern_that_is_none_is_told(text: str) -> None:
    """What isn't a regular expression, and what would match everywhere."""
    with pytest.raises(ValueError, match=r"regular expression|everywhere"):
        compile_pattern(text)


@pytest.mark.filterwarnings("error")
def test_a_pattern_prints_no_warning() -> None:
    """Cron would mail it."""
    assert compile_pattern("[[a]").match("[")

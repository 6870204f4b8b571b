"""No secret survives redaction, wherever in an event it hides."""

import gc
import json
import threading

from hypothesis import given, strategies as st

from aura_agent.secret import Secret
from aura_agent.telemetry.redact import HIDDEN, MAX_VALUES, Redactor

TOKEN = "aura_live_0123456789"
URL = "https://ping.example/functions/v1/ping/s3cr3t-key"


def redactor(*values: str) -> Redactor:
    known = Redactor()
    for value in values or (TOKEN, URL):
        known.add(value)
    return known


class Talkative:
    def __repr__(self) -> str:
        return f"Talkative({TOKEN})"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError(TOKEN)


PLACES = st.sampled_from([TOKEN, URL, "/functions/v1/ping/s3cr3t-key"]).flatmap(
    lambda secret: st.sampled_from(
        [secret, f"before {secret} after", secret + secret, secret.encode(), Talkative(), Unprintable()]
    )
)
EVENTS = st.recursive(
    PLACES | st.text() | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.just(TOKEN), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(ValueError, inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text() | st.just(f"key {URL}"), EVENTS))
def test_no_secret_survives_anywhere(event: dict[str, object]) -> None:
    """Keys, values, nested ones, bytes, objects and exceptions: nothing of a secret is left, and JSON takes it all."""
    cleaned = json.dumps(redactor()(None, "info", dict(event)))

    # Whole secrets: Hypothesis draws texts from the sources' constants, and digits alone are nobody's token.
    assert TOKEN not in cleaned
    assert "s3cr3t-key" not in cleaned


def test_key_names_hide_their_values() -> None:
    """A value under a telling name goes, though nobody registered it; None stays, since it says nothing."""
    event = {"Authorization": "Bearer x", "nested": {"ping-url": ["https://other/k"]}, "token": None, "tokens": 3}

    cleaned = Redactor()(None, "info", dict(event))

    assert cleaned == {"Authorization": HIDDEN, "nested": {"ping-url": HIDDEN}, "token": None, "tokens": 3}


def test_ordinary_facts_are_left_alone() -> None:
    """Numbers, booleans and texts without secrets pass as they are; a Secret shows itself as one."""
    event = {"status": 200, "ok": True, "s": 0.5, "job": "backup", "list": [1, "two"], "held": Secret(TOKEN)}

    assert redactor()(None, "info", dict(event)) == {**event, "held": "Secret(…)"}


def test_url_with_its_key_in_the_query_keeps_plain_words() -> None:
    """Where the key is in the query, the word ping in the path stays readable."""
    known = redactor("https://ping.example/ping-here?key=abcdef123")

    assert known.text("GET /ping-here?key=abcdef123") == f"GET {HIDDEN}"
    assert known.text("see key=abcdef123 of /ping-here") == f"see {HIDDEN} of /ping-here"


def test_longer_secret_hides_in_full_whatever_the_order() -> None:
    """A secret that contains another leaves no rest behind."""
    for values in (("abcdef", "abcdef-ghijkl"), ("abcdef-ghijkl", "abcdef")):
        assert redactor(*values).text("x abcdef-ghijkl y") == f"x {HIDDEN} y"


def test_short_values_do_not_shred_the_log() -> None:
    """Values that are parts of ordinary words aren't looked for."""
    known = redactor("a", "run", "", "https://x/", "http://[broken")

    assert known.text("a run of backup at https://y/") == "a run of backup at https://y/"


def test_memory_is_bounded_and_the_newest_is_kept() -> None:
    """Ten thousands of URLs don't grow without end, and one that is used again isn't forgotten."""
    known = redactor(TOKEN)
    for number in range(MAX_VALUES + 10):
        known.add(f"secret-number-{number:06}")

    assert known.text(f"secret-number-{MAX_VALUES + 9:06}") == HIDDEN
    assert known.text("secret-number-000000") != HIDDEN


def test_threads_may_add_and_ask_at_once() -> None:
    """Whatever was added before the question is hidden, from any thread."""
    known, failures = Redactor(), []

    def work(name: str) -> None:
        for number in range(100):
            secret = f"secret-{name}-{number:04}"
            known.add(secret)
            if known.text(secret) != HIDDEN:
                failures.append(secret)

    threads = [threading.Thread(target=work, args=(f"thread{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_destructor_that_logs_while_a_secret_is_added_does_not_deadlock() -> None:
    """The garbage collector may run one in the middle of it, and what it prints is redacted, too."""
    redactor, said = Redactor(), list[str]()

    class Noisy:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            said.append(redactor.text("the secret-of-number-0 is out" * 10))

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(300):
            Noisy()
            redactor.add(f"secret-of-number-{number}")
            redactor.text("x" * 100)
    finally:
        gc.set_threshold(*before)
    gc.collect()

    assert len(said) == 300
    assert not any("secret-of-number-0" in text for text in said[1:])

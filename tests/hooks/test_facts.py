"""What hooks are told: words for people, variables that any environment takes, an object that Slack shows."""

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, strategies as st

from aura_agent.config.models import Hook, Job
from aura_agent.hooks.facts import hook_of, payload, sentence, variables
from aura_agent.outbox.hooks import HookCall, HookKind
from aura_agent.wrapper.options import parse

CALL = HookCall(
    id=1,
    kind=HookKind.FAILURE,
    job="backup",
    run_id="5f0c",
    reason="",
    heartbeat="nightly",
    outcome="failed",
    started_at=datetime(2026, 11, 24, 3, tzinfo=UTC),
    duration_s=123.0,
    exit_code=3,
    signal=None,
    attempts=2,
    tail="",
)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (CALL, "backup on web1 failed: exit status 3 (took 2m3s)"),
        (replace(CALL, exit_code=None, signal=9), "backup on web1 failed: killed by SIGKILL (took 2m3s)"),
        (replace(CALL, reason="timed out after 2m"), "backup on web1 failed: timed out after 2m (took 2m3s)"),
        (replace(CALL, kind=HookKind.RECOVERY), "backup on web1 has succeeded again (took 2m3s)"),
        (
            replace(CALL, kind=HookKind.LOST_RUN, reason="the agent went away"),
            "backup on web1: nobody knows how a run ended: the agent went away",
        ),
        (
            replace(CALL, kind=HookKind.UNDELIVERABLE, reason="waiting for 1h: HTTP 503"),
            "backup on web1: pings don't get through: waiting for 1h: HTTP 503",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.kind,
)
def test_the_sentence_says_what_happened(call: HookCall, text: str) -> None:
    """Job, host, why, and how long it took."""
    assert sentence(call, "web1") == text


@given(st.text(), st.text())
def test_variables_go_into_any_environment(reason: str, job: str) -> None:
    """No NUL, one line for the text, and no variable that an aura-run takes for its own."""
    told = variables(replace(CALL, reason=reason, job=job), "web1")

    assert all("\0" not in value and value for value in told.values())
    assert "\n" not in told["AURA_HOOK_TEXT"]
    assert all(name == "AURA_HOOK" or name.startswith("AURA_HOOK_") for name in told)
    options = parse(["--", "true"], told)  # type: ignore[arg-type]
    assert (options.heartbeat, options.ping_url, options.job, options.config) == (None, None, None, None)


def test_slack_shows_output_as_it_is_and_calls_nobody() -> None:
    """docs.slack.dev: & < > are written as entities; the end of a long output is what counts."""
    told = payload(replace(CALL, reason="<!channel> & co"), "web1", "x" * 5000 + "<@U1>\n")

    text = str(told["text"])
    assert text.startswith("backup on web1 failed: &lt;!channel&gt; &amp; co (took 2m3s)\n```\n")
    assert text.endswith("x&lt;@U1&gt;\n\n```")
    assert len(text) < 2200
    assert told["output"] == "x" * 5000 + "<@U1>\n"
    assert "output" not in payload(CALL, "web1", None)
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_a_lost_run_is_a_failure_where_nothing_else_is_said() -> None:
    """Not where it is, be it nothing."""
    told, other = Hook(command=("a",)), Hook(command=("b",))

    assert hook_of(Job(on_failure=told), HookKind.LOST_RUN) is told
    assert hook_of(Job(on_failure=told, on_lost_run=other), HookKind.LOST_RUN) is other
    assert hook_of(Job(on_failure=told, on_lost_run=Hook()), HookKind.LOST_RUN) is None
    assert hook_of(Job(on_failure=told), HookKind.RECOVERY) is None

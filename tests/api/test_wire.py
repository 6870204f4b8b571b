"""The pure core of the client: reading heartbeats, hints for 401 and 403, Retry-After."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, strategies as st

import aura_agent.api
from aura_agent.api import ApiGarbled, Check, Heartbeat, Incident, Integration, Monitor
from aura_agent.api.errors import likely_cause
from aura_agent.api.models import read
from aura_agent.api.retry_after import retry_after_s
from aura_agent.api.wire import Reply, Request, parse_error, parse_object
from aura_agent.secret import Secret

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_heartbeat_is_read_in_full() -> None:
    """Every documented and assumed field arrives under our names, instants in UTC."""
    heartbeat = read(
        Heartbeat,
        {
            "id": "hb1",
            "name": "nightly",
            "status": "up",
            "expected_interval": 86400,
            "grace_period": 600,
            "team_id": "t1",
            "last_ping_at": "2026-11-30T04:00:00.123+01:00",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00",
            "ping_url": "https://ping.example/key",
            "something_new": {"x": 1},
        },
    )

    assert heartbeat == Heartbeat(
        id="hb1",
        name="nightly",
        status="up",
        expected_interval_s=86400.0,
        grace_period_s=600.0,
        team_id="t1",
        last_ping_at=datetime(2026, 11, 30, 3, 0, 0, 123000, tzinfo=UTC),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
        ping_url=Secret("https://ping.example/key"),
    )
    assert "key" not in repr(heartbeat)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ["x"]),
        ("status", False),
        ("expected_interval", "often"),
        ("expected_interval", -5),
        ("expected_interval", float("nan")),
        ("grace_period", float("inf")),
        ("last_ping_at", "yesterday"),
        ("last_ping_at", 1e300),
        ("created_at", "0001-01-01T00:00:00+23:00"),
        ("ping_url", 7),
        ("ping_url", "not a url"),
    ],
)
def test_field_that_cannot_be_read_is_unknown(field: str, value: object) -> None:
    """One odd field doesn't cost the heartbeat, and least of all the whole listing."""
    heartbeat = read(Heartbeat, {"id": "hb1", field: value})

    assert heartbeat == Heartbeat(id="hb1")


def test_the_other_models_are_read_in_full() -> None:
    """Monitor, check, incident and integration: each field under its own name, odd ones as None."""
    at = datetime(2026, 12, 1, 11, 0, tzinfo=UTC)
    rfc3339 = "2026-12-01T11:00:00Z"

    assert read(
        Monitor,
        {"id": 7, "name": "site", "url": "https://x/", "check_interval": "60", "status": 5, "created_at": rfc3339},
    ) == Monitor(id="7", name="site", url="https://x/", check_interval_s=60.0, status="5", created_at=at)
    assert read(
        Check,
        {
            "id": "c1",
            "monitor_id": "7",
            "status": "down",
            "status_code": 503,
            "response_time_ms": 12.5,
            "checked_at": at.timestamp(),
        },
    ) == Check(id="c1", monitor_id="7", status="down", status_code=503, response_time_ms=12.5, checked_at=at)
    assert read(Check, {"id": "c2", "status_code": -1, "response_time_ms": "slow"}) == Check(id="c2")
    assert read(
        Incident, {"id": "i1", "monitor_id": None, "heartbeat_id": "hb1", "status": "open", "started_at": rfc3339}
    ) == Incident(id="i1", heartbeat_id="hb1", status="open", started_at=at)
    assert read(
        Integration, {"id": "n1", "platform": "slack", "url_host": "hooks.slack.com", "secret": "x"}
    ) == Integration(id="n1", platform="slack", url_host="hooks.slack.com")


@given(
    st.dictionaries(st.sampled_from(["id", "name", "status", "expected_interval", "last_ping_at", "ping_url"]), JSON)
)
def test_no_json_breaks_the_reader(fields: dict[str, object]) -> None:
    """Whatever the fields hold, the result is a heartbeat with an id or ApiGarbled."""
    try:
        assert read(Heartbeat, fields).id
    except ApiGarbled:
        assert not isinstance(fields.get("id"), str) or not fields["id"]


@given(st.binary(max_size=200), st.integers(min_value=100, max_value=999))
def test_no_body_breaks_the_parsers(body: bytes, status: int) -> None:
    """Random bytes are an ApiError, or an object, and never another exception."""
    reply = Reply(status, {"content-type": "application/json"}, body)
    assert "\n" not in str(parse_error(Request("GET", "/x"), reply, NOW))
    try:
        assert isinstance(parse_object(reply), dict)
    except ApiGarbled:
        pass


@pytest.mark.parametrize(
    ("status", "method", "message", "cause"),
    [
        (401, "GET", "", "token"),
        (403, "POST", "Token is read-only", "scope"),
        (403, "POST", "this token may only read", "scope"),
        (403, "PATCH", "You must be a member of the team", "team"),
        (403, "DELETE", "Your role does not allow this", "role"),
        (403, "POST", "Forbidden", "scope"),
        (403, "DELETE", "Forbidden", "Owner and Admin"),
        (403, "GET", "Forbidden", "proxy"),
        (429, "GET", "", "60 requests a minute"),
    ],
)
def test_refusal_names_the_likely_cause(status: int, method: str, message: str, cause: str) -> None:
    """401 and 403 say which of token, scope, role and team to look at."""
    assert cause in likely_cause(status, method, message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("17", 17),
        (" 17 ", 17),
        ("007", 7),
        ("0" * 20 + "12", 12),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), 120),
        ("Tuesday, 01-Dec-26 12:01:00 GMT", 60),
        ("Tue Dec  1 12:01:00 2026", 60),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), 0),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Tue, 99 Foo 2026 12:00:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str | None, expected: float | None) -> None:
    """The three date forms of RFC 9110 and seconds are read, everything else says nothing."""
    assert retry_after_s(value, NOW) == expected


@given(st.text())
def test_retry_after_survives_any_text(value: str) -> None:
    """No header can raise."""
    waits = retry_after_s(value, NOW)
    assert waits is None or waits >= 0


def test_public_face_has_all_it_promises() -> None:
    """Every name of __all__ can be imported, and no other is invented."""
    for name in aura_agent.api.__all__:
        assert getattr(aura_agent.api, name) is not None
    assert set(aura_agent.api.__all__) <= set(dir(aura_agent.api))
    with pytest.raises(AttributeError):
        aura_agent.api.Nonsense  # noqa: B018

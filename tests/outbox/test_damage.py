"""Rows that nothing can be made of: they are set aside by name, and everything else goes on."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.outbox.claims import Claim
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.queries import queue_rows, state_counts
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome
from aura_agent.secret import Secret
from tests.outbox.stores import Bench, damage, delivered, not_delivered
from tests.reports import report_of

_ENORMOUS = 2**63 - 1
_UNDECODABLE = "CAST(x'ff' AS TEXT)"
_PING_URL = "url:https://{}/ping/key"


def _damage(at: Bench, table: str, column: str, value: str, run_id: str) -> None:
    """Write *value*, in SQL, into the entry of *run_id* or what belongs to it."""
    stream = f"SELECT stream_id FROM entries WHERE run_id = '{run_id}'"
    condition = {
        "entries": f"run_id = '{run_id}'",
        "streams": f"id = ({stream})",
        "refs": f"stream_id = ({stream})",
        "heartbeats": f"id = (SELECT heartbeat_id FROM streams WHERE id = ({stream}))",
        "hosts": "TRUE",
    }[table]
    assert damage(at.directory / "outbox.db", table, column, value, condition) == 1


def _sent(claim: Claim) -> list[str]:
    return [attempt.run_id for attempt in claim.attempts]


def _deliver_all(at: Bench) -> list[str]:
    """Claim and deliver until nothing is left to send; return the runs in their order."""
    sent: list[str] = []
    for _ in range(20):
        claim = at.outbox.claim(16)
        if not claim.attempts:
            return sent
        sent += _sent(claim)
        for attempt in claim.attempts:
            delivered(at.outbox, attempt, "HTTP 200")
    raise AssertionError("the same pings are claimed again and again")


@pytest.mark.parametrize("host", ["", "user@", ":443", "xn--", "a..b", "$HOST"])
def test_five_ping_urls_without_a_host_are_parked_in_one_claim(at: Bench, host: str) -> None:
    """What an unset variable leaves in five crontab lines: all of them due at once, beside a good heartbeat."""
    at.know("backup")
    bad = [at.run(ref=_PING_URL.format(host) + str(number)) for number in range(5)]
    good = at.run()

    claim = at.outbox.claim(16)

    assert _sent(claim) == [good]
    assert len(claim.parked) == 5
    rows = {row.run_id: row for row in queue_rows(at.outbox, ended=False)}
    assert {rows[run_id].state for run_id in bad} == {"parked"}
    assert all("invalid ping URL" in rows[run_id].reason for run_id in bad)


def test_many_invalid_ping_urls_take_no_room_from_the_good(at: Bench) -> None:
    """A hundred that are due with one place to send from: they are parked, and the good one has the place."""
    at.know("backup")
    for number in range(100):
        at.run(ref=f"url:https:///ping/{number}")
    good = at.run()
    at.outbox.hurry()

    assert _sent(at.outbox.claim(1)) == [good]
    at.outbox.unpark()
    assert len(at.outbox.claim(1).parked) == 100


def test_a_claim_that_stops_looking_is_followed_by_another_at_once(at: Bench) -> None:
    """More invalid URLs than one transaction looks at: the next claim goes on where it stopped."""
    at.know("backup")
    for number in range(1100):
        at.run(ref=f"url:https:///ping/{number}", took_s=0.001)
    first, second = at.outbox.claim(16), at.outbox.claim(16)

    assert (first.next_due_s, len(first.parked) + len(second.parked)) == (0.0, 1100)


def test_an_invalid_url_in_the_cache_is_asked_for_anew(at: Bench) -> None:
    """An older version took what the API answered as it came."""
    at.know("backup")
    run_id = at.run()
    _damage(at, "heartbeats", "ping_url", "'https:///ping/key'", run_id)

    claim = at.outbox.claim(16)

    assert [stream.heartbeat_id for stream in claim.unresolved] == ["id-backup"]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("entries", "started_boot_ns", str(-_ENORMOUS)),
        ("entries", "started_boot_ns", str(_ENORMOUS)),
        ("entries", "ended_boot_ns", str(-_ENORMOUS)),
        ("entries", "epoch", str(_ENORMOUS)),
        ("entries", "epoch", "-1"),
        ("entries", "run_id", _UNDECODABLE),
        ("entries", "ended_wall_ns", "'text'"),
        ("entries", "epoch", "'text'"),
        ("entries", "started_boot_ns", "'text'"),
        ("entries", "max_age_s", "-1.0"),
        ("entries", "max_age_s", "'text'"),
    ],
)
def test_an_entry_that_cannot_be_judged_is_quarantined(at: Bench, table: str, column: str, value: str) -> None:
    """It is named in the queue, the other heartbeats are pinged, and its own is from the next success on."""
    at.know("backup")
    other = at.run(ref="url:http://127.0.0.1:9/ping/other")
    bad = at.run()
    ((entry_id,),) = at.outbox.connection.execute("SELECT id FROM entries WHERE run_id = ?", (bad,)).fetchall()
    _damage(at, table, column, value, bad)

    claim = at.outbox.claim(16)

    assert other in _sent(claim)
    (row,) = [row for row in queue_rows(at.outbox, ended=True) if row.id == entry_id]
    assert (row.state, row.reason.startswith("damaged in the store: column ")) == ("quarantined", True)
    assert column in row.reason
    assert [gone.state for gone in claim.withdrawn] == ["quarantined"]
    after = at.run()
    assert _sent(at.outbox.claim(16)) == [after]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("entries", "tries", str(_ENORMOUS)),
        ("entries", "reason", _UNDECODABLE),
        ("entries", "job", _UNDECODABLE),
        ("entries", "body", "x'00ff'"),
        ("entries", "replay_all", "-7"),
        ("entries", "ended_wall_ns", str(_ENORMOUS)),
        ("streams", "tries", str(_ENORMOUS)),
        ("streams", "tries", str(-_ENORMOUS)),
        ("streams", "due_boot_ns", str(_ENORMOUS)),
        ("streams", "due_boot_ns", "-1"),
        ("streams", "due_boot_ns", "'text'"),
        ("streams", "tries", "'text'"),
        ("streams", "urgency_wall_ns", "'text'"),
        ("heartbeats", "interval_s", "'text'"),
        ("heartbeats", "grace_s", "'text'"),
        ("streams", "due_epoch", "NULL"),
        ("streams", "due_epoch", str(_ENORMOUS)),
        ("streams", "urgency_wall_ns", str(_ENORMOUS)),
        ("streams", "since_wall_ns", "NULL"),
        ("streams", "host", _UNDECODABLE),
        ("streams", "problem", _UNDECODABLE),
        ("streams", "parked", str(_ENORMOUS)),
        ("streams", "failed_epoch", str(_ENORMOUS)),
        ("streams", "failed_boot_ns", "7"),
        ("streams", "succeeded_boot_ns", "NULL"),
        ("streams", "succeeded_run", _UNDECODABLE),
        ("refs", "failed_epoch", "2"),
        ("refs", "succeeded_boot_ns", str(_ENORMOUS)),
        ("heartbeats", "interval_s", "0.0"),
        ("heartbeats", "interval_s", "-3600.0"),
        ("heartbeats", "interval_s", "1e300"),
        ("heartbeats", "grace_s", "-1e9"),
        ("heartbeats", "name", _UNDECODABLE),
        ("heartbeats", "last_ping_wall_ns", str(-_ENORMOUS)),
        ("refs", "ref", _UNDECODABLE),
    ],
)
def test_a_success_survives_damage_that_says_nothing_about_it(at: Bench, table: str, column: str, value: str) -> None:
    """Names, counts, times of retries and an absurd interval: the ping is sent, and a failed attempt is put on record."""
    at.know("backup")
    run_id = at.run()
    at.clock.advance(3)
    _damage(at, table, column, value, run_id)

    (attempt,) = at.outbox.claim(16).attempts
    not_delivered(at.outbox, attempt, "HTTP 503", delay_s=1)
    at.clock.advance(2)

    assert _deliver_all(at) == [run_id]
    assert (len(queue_rows(at.outbox, ended=True)), len(run_rows(at.outbox))) == (1, 1)
    assert state_counts(at.outbox)["delivered"] == 1
    at.run(Outcome.FAILED)
    assert at.outbox.undelivered() == []


@pytest.mark.parametrize(("column", "value"), [("lease_until_ns", str(_ENORMOUS)), ("lease_until_ns", "NULL")])
def test_a_lease_without_a_possible_end_holds_up_nobody(at: Bench, column: str, value: str) -> None:
    """No lease lasts longer than 90 s, whatever its row says."""
    at.know("backup")
    run_id = at.run()
    at.outbox.claim(16)
    _damage(at, "streams", column, value, run_id)
    _damage(at, "streams", "due_boot_ns", "0", run_id)

    assert _sent(at.outbox.claim(16)) == [run_id]


def test_a_retry_after_without_a_possible_end_holds_up_nobody(at: Bench) -> None:
    """No host is left alone for longer than an hour or so."""
    at.know("backup")
    run_id = at.run()
    (attempt,) = at.outbox.claim(16).attempts
    not_delivered(at.outbox, attempt, "HTTP 429", delay_s=1, host_not_before_s=60)
    at.clock.advance(2)
    assert at.outbox.claim(16).attempts == ()
    _damage(at, "hosts", "not_before_ns", str(_ENORMOUS), run_id)
    at.outbox.hurry()

    assert _deliver_all(at) == [run_id]


@pytest.mark.parametrize(("outcome", "state"), [(Outcome.SUCCEEDED, "superseded"), (Outcome.FAILED, "invalidated")])
def test_a_report_is_taken_although_its_heartbeats_row_is_damaged(at: Bench, outcome: Outcome, state: str) -> None:
    """The mark is restored, and the report counts as ever."""
    at.know("backup")
    before = at.run()
    _damage(at, "streams", "succeeded_boot_ns", "NULL", before)

    after = at.run(outcome)

    assert at.states()[before] == state
    assert [row.run_id for row in run_rows(at.outbox)] == [after, before]
    assert _deliver_all(at) == ([after] if outcome is Outcome.SUCCEEDED else [])


def test_an_attempt_ends_although_its_rows_are_damaged_meanwhile(at: Bench) -> None:
    """An acknowledgement stays one; the other ping is tried again."""
    at.know("backup")
    acknowledged, refused = at.run(), at.run(ref="url:http://127.0.0.1:9/ping/other")
    first, second = sorted(at.outbox.claim(16).attempts, key=lambda attempt: attempt.run_id)
    for run_id in (acknowledged, refused):
        _damage(at, "streams", "succeeded_boot_ns", "NULL", run_id)

    delivered(at.outbox, first, "HTTP 200")
    not_delivered(at.outbox, second, "HTTP 503", delay_s=1)

    assert at.states() == {acknowledged: "delivered", refused: "waiting"}


def test_a_damaged_ping_that_is_acknowledged_leaves_no_damaged_mark(at: Bench) -> None:
    """Its row is damaged while it is sent: the next successes of the heartbeat go out as ever."""
    at.know("backup")
    run_id = at.run()
    (attempt,) = at.outbox.claim(16).attempts
    _damage(at, "entries", "started_boot_ns", str(_ENORMOUS), run_id)

    delivered(at.outbox, attempt, "HTTP 200")

    assert at.states() == {run_id: "delivered"}
    after = at.run()
    assert _deliver_all(at) == [after]


_MARKS = [
    (mark, column, value)
    for mark in ("failed", "succeeded", "delivered")
    for column, value in [
        ("epoch", str(_ENORMOUS)),
        ("epoch", "NULL"),
        ("epoch", "'text'"),
        ("boot_ns", str(-_ENORMOUS)),
        ("boot_ns", "'text'"),
        ("boot_ns", "NULL"),
        ("run", _UNDECODABLE),
        ("run", "NULL"),
    ]
]


@pytest.mark.parametrize(
    ("table", "mark", "column", "value"),
    [(table, *each) for table in ("streams", "refs") for each in _MARKS if (table, each[0]) != ("refs", "delivered")],
)
def test_a_damaged_mark_is_restored_from_its_copy(at: Bench, table: str, mark: str, column: str, value: str) -> None:
    """A success that is older than a failure, or than what was delivered, turns up after the damage: it is not sent."""
    at.know("backup")
    older = at.clock.read()
    at.clock.advance(1)
    at.run(Outcome.FAILED)
    delivered_run = at.run()
    assert _deliver_all(at) == [delivered_run]
    waiting = at.run()

    _damage(at, table, f"{mark}_{column}", value, waiting)
    late = report_of("late00000001", older, Outcome.SUCCEEDED, ref="heartbeat:backup", ended=older)
    at.outbox.accept([replace(late, replay_all=True)])

    assert _deliver_all(at) == [waiting]
    assert at.states()["late00000001"] == "invalidated"


def test_a_failure_mark_with_both_copies_damaged_counts_as_of_now(at: Bench) -> None:
    """Nobody can tell what speaks against a ping: those that wait are quarantined, and older ones are not sent."""
    at.know("backup")
    older = at.clock.read()
    at.clock.advance(1)
    at.run(Outcome.FAILED)
    waiting = at.run()
    for table in ("streams", "refs"):
        _damage(at, table, "failed_boot_ns", "NULL", waiting)

    assert at.outbox.claim(16).attempts == ()
    at.outbox.accept([report_of("late00000001", older, Outcome.SUCCEEDED, ref="heartbeat:backup", ended=older)])
    assert at.outbox.claim(16).attempts == ()
    assert at.states() == {waiting: "quarantined", "late00000001": "invalidated"}

    at.clock.advance(1)
    after = at.run()
    assert _deliver_all(at) == [after]


def test_a_damaged_mark_of_a_name_reaches_no_other_heartbeat(at: Bench) -> None:
    """The name is given to another heartbeat in Aura: what waits there is sent as ever."""
    at.know("backup", "id-one")
    first = at.run()
    _damage(at, "refs", "succeeded_boot_ns", str(_ENORMOUS), first)
    url = Secret("http://127.0.0.1:9/ping/{}")
    at.outbox.remember(
        [
            CachedHeartbeat(f"id-{key}", name, 3600, 600, "up", None, Secret(url.reveal().format(key)), 0)
            for key, name in (("one", "old"), ("two", "backup"))
        ]
    )

    assert _deliver_all(at) == [first]
    second = at.run()
    assert _deliver_all(at) == [second]


def test_a_listing_is_stored_although_one_heartbeats_row_is_damaged(at: Bench) -> None:
    """Its mark is restored, and all of them get their ping URLs."""
    damaged = at.run(ref="heartbeat:one")
    good = at.run(ref="heartbeat:two")
    _damage(at, "streams", "succeeded_boot_ns", "NULL", damaged)
    url = Secret("http://127.0.0.1:9/ping/{}")
    at.outbox.remember(
        [
            CachedHeartbeat(name, name, 3600, 600, "up", None, Secret(url.reveal().format(name)), 0)
            for name in ("one", "two")
        ]
    )

    assert sorted(_deliver_all(at)) == sorted([good, damaged])


def test_a_store_with_values_of_a_wrong_type_is_opened_and_goes_on(at: Bench) -> None:
    """One damaged row is no reason to set the whole store aside; what cannot be judged is quarantined."""
    at.know("backup")
    good, bad = at.run(), at.run(ref="url:http://127.0.0.1:9/ping/other")
    _damage(at, "streams", "tries", "'text'", good)
    _damage(at, "refs", "succeeded_epoch", "'text'", good)
    _damage(at, "entries", "started_boot_ns", "'text'", bad)
    at.outbox.close()

    at.outbox = Outbox(str(at.directory), at.clock, owner="next", hostname="host", check=True)

    assert at.outbox.take_notices() == []
    assert _deliver_all(at) == [good]
    assert at.states() == {good: "delivered", bad: "quarantined"}


@pytest.mark.parametrize("call", [Outbox.hurry, Outbox.unpark, Outbox.release_leases])
def test_what_is_done_to_all_queues_survives_one_damaged_row(at: Bench, call: Callable[[Outbox], None]) -> None:
    """SQLite takes no change of a row with a value of a wrong type."""
    at.know("backup")
    runs = [at.run(), at.run(ref="url:http://127.0.0.1:9/ping/other")]
    at.outbox.claim(16)
    _damage(at, "streams", "told", "'text'", runs[0])

    call(at.outbox)
    at.clock.advance(91)

    assert sorted(_deliver_all(at)) == runs


def test_a_damaged_ping_url_is_restored_by_the_next_run(at: Bench) -> None:
    """The report brings it."""
    url = "http://127.0.0.1:9/ping/key"
    first = at.run(ref=f"url:{url}")
    _damage(at, "streams", "direct_url", "'https:///ping/x'", first)
    assert len(at.outbox.claim(16).parked) == 1

    second = at.run(ref=f"url:{url}")

    (attempt,) = at.outbox.claim(16).attempts
    assert (attempt.run_id, attempt.url.reveal()) == (second, url)


def test_a_ping_whose_queue_has_no_time_is_sent_by_the_next_flush(at: Bench) -> None:
    """Nothing else would look at it until the next success."""
    at.know("backup")
    run_id = at.run()
    _damage(at, "streams", "due_boot_ns", "NULL", run_id)

    at.outbox.hurry()

    assert _deliver_all(at) == [run_id]


def test_a_ref_without_its_heartbeat_queue_gets_a_new_one(at: Bench) -> None:
    """Its row is gone: the next success is not lost with it."""
    at.know("backup")
    at.run()
    at.outbox.connection.execute("DELETE FROM streams")

    run_id = at.run()

    assert _sent(at.outbox.claim(16)) == [run_id]


@pytest.mark.parametrize(
    ("column", "value"),
    [("started_boot_ns", "-1"), ("started_wall_ns", str(_ENORMOUS)), ("run_id", _UNDECODABLE), ("ref", _UNDECODABLE)],
)
def test_a_damaged_start_record_stops_no_daemon(at: Bench, column: str, value: str) -> None:
    """The runs that an earlier daemon left are judged as far as that is possible, once."""
    at.know("backup")
    now = at.clock.read()
    at.outbox.begin([("runaaaaaa", "backup", "heartbeat:backup", now), ("runbbbbbb", "other", None, now)])
    at.outbox.connection.execute(f"UPDATE open_runs SET {column} = {value} WHERE run_id = 'runaaaaaa'")

    assert sorted(at.outbox.lose_open_runs()) == ["backup", "other"]
    assert at.outbox.lose_open_runs() == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("kind", "'on_tuesday'"), ("reason", _UNDECODABLE), ("job", _UNDECODABLE), ("owner", _UNDECODABLE)],
)
def test_a_damaged_hook_call_keeps_no_other_from_being_made(at: Bench, column: str, value: str) -> None:
    """People hear of the other failure."""
    at.know("backup")
    at.run(Outcome.FAILED)
    at.outbox.connection.execute(f"UPDATE hook_calls SET {column} = {value}")
    second = at.run(Outcome.FAILED)

    assert second in [call.run_id for call in at.outbox.take_hook_calls(10)]


def test_damaged_text_is_shown_and_stops_no_reader(at: Bench, tmp_path: Path) -> None:
    """A connection that only reads sees the row, too."""
    at.know("backup")
    run_id = at.run()
    _damage(at, "entries", "job", _UNDECODABLE, run_id)

    reader = at.outbox.reader()
    try:
        assert [row.job for row in queue_rows(reader, ended=True)] == ["\ufffd"]
    finally:
        reader.close()
    assert isinstance(reader.connection, sqlite3.Connection)

"""One store and several Aura accounts: nothing that was meant for one organization is sent to another's heartbeat."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aura_agent.outbox.database import _STEPS
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.store import Outbox
from aura_agent.report import spool, wire
from aura_agent.report.account import Account, account_of
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from tests.outbox.stores import Bench, MovedClock, delivered, open_outbox
from tests.reports import report_of

_API, _OTHER_API = "https://api.example", "http://127.0.0.1:4"
_ONE = account_of(_API, Secret("aura_live_one"))
_ROTATED = account_of(_API, Secret("aura_live_rotated"))
_ELSEWHERE = account_of(_API, Secret("aura_live_of_another_organization"))
_DEV = account_of(_OTHER_API, Secret("aura_dev"))


def _list(at: Bench, organization: str, *names: str) -> None:
    """Let our Aura list heartbeats, whose ids and URLs name the organization."""
    at.outbox.remember(
        [
            CachedHeartbeat(
                f"{organization}-{name}",
                name,
                86400,
                600,
                "up",
                None,
                _url(organization, name),
                at.clock.read().wall_ns,
            )
            for name in names
        ]
    )


def _url(organization: str, name: str) -> Secret:
    return Secret(f"http://127.0.0.1:9/{organization}/{name}")


def _sent(at: Bench) -> dict[str, str]:
    """Send all that may be sent; return whose heartbeat each run's ping went to."""
    found: dict[str, str] = {}
    while attempts := at.outbox.claim(10).attempts:
        for attempt in attempts:
            found[attempt.run_id] = attempt.url.reveal().split("/")[3]
            delivered(at.outbox, attempt, "200")
    return found


@pytest.mark.parametrize("other", [_ELSEWHERE, _DEV])
def test_another_accounts_name_is_not_looked_for_in_our_cache(at: Bench, other: Account) -> None:
    """The same name means another heartbeat there."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    first = at.run()
    assert _sent(at) == {first: "a"}

    at.outbox.enter(other)
    second = at.run()
    assert at.outbox.claim(10).attempts == ()
    _list(at, "b", "backup")
    assert _sent(at) == {second: "b"}

    at.outbox.enter(_ONE)
    third = at.run()
    assert _sent(at) == {third: "a"}


def test_waiting_ping_is_sent_to_the_account_it_was_made_for(at: Bench) -> None:
    """Its cached ping URL is right for it, whoever sends it."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    waiting = at.run()

    at.outbox.enter(_DEV)
    _list(at, "b", "backup")

    (attempt,) = at.outbox.claim(10).attempts
    assert (attempt.run_id, attempt.url) == (waiting, _url("a", "backup"))
    assert attempt.heartbeat_id is None  # our API isn't asked for it


@pytest.mark.parametrize("is_daemon", [True, False])
def test_report_to_a_daemon_that_is_gone_stays_its_accounts(at: Bench, is_daemon: bool) -> None:
    """It lies in the inbox when a process of another account comes: the new daemon, or a flush."""
    at.outbox.enter(_DEV)
    _list(at, "b", "backup")
    at.outbox.close()
    at.outbox = Outbox(str(at.directory), at.clock, owner="daemon", hostname="host", owns_reports=True)
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    kept = report_of("inbox001", at.clock.read())
    at.clock.advance(5)
    at.outbox.keep({wire.encode("run", kept.to_fields()): kept})
    at.outbox.close()

    at.outbox = Outbox(str(at.directory), at.clock, owner="later", hostname="host", owns_reports=is_daemon)
    at.outbox.enter(_DEV)

    assert _sent(at) == {"inbox001": "a"}


def test_failure_told_to_a_daemon_that_is_gone_is_its_accounts(at: Bench) -> None:
    """It lies in the inbox when a process of another account comes, and withdraws nothing of that."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    at.outbox.close()
    at.outbox = open_outbox(at.directory, at.clock, "other")
    at.outbox.enter(_DEV)
    _list(at, "b", "backup")
    waiting = at.run()
    at.outbox.close()
    at.outbox = Outbox(str(at.directory), at.clock, owner="daemon", hostname="host", owns_reports=True)
    at.outbox.enter(_ONE)
    kept = report_of("inbox001", at.clock.read(), Outcome.FAILED)
    at.outbox.keep({wire.encode("run", kept.to_fields()): kept})
    at.outbox.close()

    at.outbox = open_outbox(at.directory, at.clock, "other")
    at.outbox.enter(_DEV)

    assert _sent(at) == {waiting: "b"}


def test_unresolved_run_waits_for_the_account_it_was_made_with(at: Bench) -> None:
    """It is handed out as somebody else's, and found once that account is back."""
    at.outbox.enter(_ONE)
    _list(at, "a", "other")
    waiting = at.run()

    at.outbox.enter(_DEV)
    _list(at, "b", "backup")
    (unresolved,) = at.outbox.claim(10).unresolved
    assert unresolved.is_foreign
    at.outbox.postpone_unresolved(unresolved.stream_id, "somebody else's", 3600, parked=True)
    assert at.outbox.claim(10).attempts == ()

    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    assert _sent(at) == {waiting: "a"}


def test_failure_of_one_account_withdraws_nothing_of_another(at: Bench) -> None:
    """They are different jobs of one name."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    waiting = at.run()

    at.outbox.enter(_DEV)
    at.run(Outcome.FAILED, change=_by(_DEV))

    assert _sent(at) == {waiting: "a"}


def test_failure_that_names_no_account_withdraws_for_all(at: Bench) -> None:
    """A run whose aura-run was killed may have been anybody's."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    waiting = at.run()

    at.outbox.enter(_DEV)
    at.run(Outcome.LOST)

    assert _sent(at) == {}
    assert at.states() == {waiting: "invalidated"}


def test_rotated_token_joins_its_organization_at_the_first_listing(at: Bench) -> None:
    """Cache, queued pings and order go on as if nothing had happened."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    waiting = at.run(change=_by(_ONE))

    at.outbox.enter(_ROTATED)
    later = at.run(change=_by(_ROTATED))
    (attempt,) = at.outbox.claim(10).attempts
    assert attempt.run_id == waiting
    delivered(at.outbox, attempt, "200")
    _list(at, "a", "backup", "new")
    assert _sent(at) == {later: "a"}

    failed = at.run(change=_by(_ROTATED))
    at.run(Outcome.FAILED, change=_by(_ONE))
    assert _sent(at) == {}
    assert at.states()[failed] == "invalidated"
    assert len(at.outbox.scopes.all()) == 1


def test_process_with_the_old_token_goes_on_in_the_joined_scope(at: Bench) -> None:
    """Its daemon still runs while an aura-run has the new token already."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    other = Bench(at.directory, at.clock, open_outbox(at.directory, at.clock, "other"), runs=100)
    other.outbox.enter(_ROTATED)
    _list(other, "a", "backup")

    run_id = at.run()

    assert _sent(other) == {run_id: "a"}
    other.outbox.close()


def test_same_ids_at_another_base_url_are_other_heartbeats(at: Bench) -> None:
    """A dev server is seeded like the real one."""
    at.outbox.enter(_ONE)
    at.know("backup", "the-id")
    waiting = at.run(ref="heartbeat:the-id")

    at.outbox.enter(_DEV)
    at.outbox.remember(
        [CachedHeartbeat("the-id", "backup", 86400, 600, "up", None, _url("b", "x"), at.clock.read().wall_ns)]
    )
    second = at.run(ref="heartbeat:the-id")

    assert _sent(at) == {waiting: "ping", second: "b"}


@pytest.mark.parametrize("refused", [True, False])
def test_corrected_token_or_url_takes_over_what_waited_for_the_wrong_one(at: Bench, refused: bool) -> None:
    """Nobody ever saw a heartbeat with it: a refused token, or the right one at a wrong URL, was a mistake."""
    at.outbox.enter(_ONE)
    _list(at, "a", "first")
    at.outbox.enter(_ELSEWHERE if refused else account_of("https://api.exampel", Secret("aura_live_rotated")))
    waiting = at.run()
    if refused:
        at.outbox.note_refused()

    at.outbox.enter(_ROTATED)
    _list(at, "a", "first", "backup")

    assert _sent(at) == {waiting: "a"}


def test_token_that_nobody_refused_keeps_its_runs(at: Bench) -> None:
    """Its Aura was only out of reach."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    at.outbox.enter(_ELSEWHERE)
    at.run()

    at.outbox.enter(_ONE)
    _list(at, "a", "backup")

    claim = at.outbox.claim(10)
    assert (claim.attempts, [stream.is_foreign for stream in claim.unresolved]) == ((), [True])


def test_first_token_of_a_store_takes_what_waited_without_one(at: Bench) -> None:
    """People are told to set a token, and do."""
    waiting = at.run()

    at.outbox.enter(_ONE)
    _list(at, "a", "backup")

    assert _sent(at) == {waiting: "a"}


def test_process_without_a_token_uses_the_cache_of_the_only_scope(at: Bench) -> None:
    """Of two it would have to guess."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    at.reopen("without a token")
    first = at.run()
    assert _sent(at) == {first: "a"}

    at.outbox.enter(_DEV)
    _list(at, "b", "backup")
    at.reopen("without a token")
    at.run()
    assert at.outbox.claim(10).attempts == ()


def test_spooled_report_is_read_for_the_account_that_it_names(at: Bench) -> None:
    """Whoever takes it in has another token; the daemon takes an unknown account for its own."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    report = replace(report_of("run99999999", at.clock.read()), account=_DEV.fingerprint)
    spool.write(str(at.directory), report.run_id, wire.encode("run", report.to_fields()))
    claim = at.outbox.claim(10)
    assert (claim.attempts, [stream.is_foreign for stream in claim.unresolved]) == ((), [True])


def test_daemon_takes_reports_of_unknown_accounts_for_its_own(tmp_path: Path) -> None:
    """A user's token of the same organization is as good as the daemon's."""
    clock = MovedClock()
    outbox = Outbox(str(tmp_path / "store"), clock, owner="daemon", hostname="host", owns_reports=True)
    at = Bench(tmp_path / "store", clock, outbox)
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")

    run_id = at.run(change=_by(_DEV))

    assert _sent(at) == {run_id: "a"}
    at.outbox.close()


def test_lost_run_of_the_daemon_counts_for_the_account_it_began_with(at: Bench) -> None:
    """The daemon is started again with another token; what waits for the first one is withdrawn."""
    at.outbox.enter(_ONE)
    _list(at, "a", "backup")
    waiting = at.run()
    at.outbox.begin([("run88888888", "backup", "heartbeat:backup", at.clock.read())])

    at.reopen("the next daemon")
    at.outbox.enter(_DEV)
    at.outbox.lose_open_runs()

    assert at.states() == {waiting: "invalidated"}


@pytest.mark.parametrize("known_by", ["budget", "id", "nothing"])
def test_cache_from_before_scopes_belongs_to_who_proves_it(tmp_path: Path, known_by: str) -> None:
    """By the API budget in the store that is its only one, or by the first heartbeat that Aura shows."""
    directory = tmp_path / "store"
    _write_old_store(directory)
    if known_by == "budget":
        (directory / "budget").mkdir()
        (directory / "budget" / _ONE.fingerprint).touch()
        (directory / "budget" / f"{_ONE.fingerprint}.lock").touch()
    clock = MovedClock()
    at = Bench(directory, clock, open_outbox(directory, clock))

    at.outbox.enter(_ONE)
    run_id = at.run()
    if known_by != "budget":
        assert at.outbox.claim(10).attempts == ()
        _list(at, "a" if known_by == "id" else "b", "backup")

    assert _sent(at) == {run_id: "b" if known_by == "nothing" else "a"}
    at.outbox.close()


def _by(account: Account) -> Callable[[Report], Report]:
    return lambda report: replace(report, account=account.fingerprint)


def _write_old_store(directory: Path) -> None:
    """Write a database as the version before scopes did, with one cached heartbeat."""
    directory.mkdir(mode=0o700)
    connection = sqlite3.connect(directory / "outbox.db")
    steps = _STEPS[: next(number for number, step in enumerate(_STEPS) if "CREATE TABLE scopes" in step)]
    for step in steps:
        connection.executescript(step)
    connection.execute(f"PRAGMA user_version={len(steps)}")
    url = _url("a", "backup").reveal()
    connection.execute(
        "INSERT INTO heartbeats VALUES ('a-backup', 'backup', 86400, 600, 'up', NULL, ?, 1800000000000000000, 1)",
        (url,),
    )
    connection.execute("INSERT INTO streams (id, heartbeat_id) VALUES (1, 'a-backup')")
    connection.execute("INSERT INTO refs VALUES ('heartbeat:backup', 1)")
    connection.commit()
    connection.close()

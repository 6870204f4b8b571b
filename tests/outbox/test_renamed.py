"""Heartbeats that are renamed, replaced or doubled in Aura: which of them gets what was reported under a name."""

from dataclasses import replace

import pytest

from aura_agent.outbox.claims import Attempt
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.queries import queue_rows
from aura_agent.report.record import Outcome
from aura_agent.secret import Secret
from tests.outbox.stores import Bench, delivered, not_delivered


def _list(at: Bench, **names: str) -> None:
    """Let Aura list heartbeats, names by ids."""
    at.outbox.remember(
        [
            CachedHeartbeat(key.replace("_", "-"), name, 86400, 600, "up", None, _url(key), at.clock.read().wall_ns)
            for key, name in names.items()
        ]
    )


def _url(key: str) -> Secret:
    return Secret(f"http://127.0.0.1:9/ping/{key.replace('_', '-')}")


def _sent(at: Bench) -> dict[str, str]:
    """Send all that may be sent; return to which heartbeat each run's ping went."""
    found: dict[str, str] = {}
    while attempts := at.outbox.claim(10).attempts:
        for attempt in attempts:
            found[attempt.run_id] = attempt.url.reveal().rpartition("/")[2]
            delivered(at.outbox, attempt, "200")
    return found


def _only(at: Bench) -> Attempt:
    (attempt,) = at.outbox.claim(10).attempts
    return attempt


def test_new_heartbeat_of_a_name_gets_the_pings_after_a_rename(at: Bench) -> None:
    """Not the old one, which has another name since."""
    _list(at, id_1="backup")
    first = at.run()
    assert _sent(at) == {first: "id-1"}

    _list(at, id_1="backup-old", id_2="backup")
    second = at.run()

    assert _sent(at) == {second: "id-2"}


def test_queued_ping_goes_to_the_heartbeat_that_has_the_name_when_sent(at: Bench) -> None:
    """It says that the job of that name has succeeded, and this heartbeat watches it now."""
    _list(at, id_1="backup")
    waiting = at.run()

    _list(at, id_1="backup-old", id_2="backup")

    assert [row.heartbeat for row in queue_rows(at.outbox, ended=False)] == ["backup"]
    assert _sent(at) == {waiting: "id-2"}


def test_swapped_names_swap_pings_and_failures(at: Bench) -> None:
    """A failure under one name withdraws nothing of the other, whichever heartbeat had which."""
    _list(at, id_1="one", id_2="two")
    for name in ("one", "two"):
        at.run(ref=f"heartbeat:{name}")
    _sent(at)
    good = at.run(ref="heartbeat:two")
    withdrawn = at.run(ref="heartbeat:one")
    at.run(Outcome.FAILED, ref="heartbeat:one")

    _list(at, id_1="two", id_2="one")

    assert _sent(at) == {good: "id-1"}
    assert at.states()[withdrawn] == "invalidated"
    late = at.run(ref="heartbeat:one")
    assert _sent(at) == {late: "id-2"}


def test_earlier_failure_of_a_name_goes_with_it(at: Bench) -> None:
    """A success from before it, which turns up late, is as false at the new heartbeat."""
    _list(at, id_1="backup")
    began = at.clock.read()
    at.clock.advance(5)
    at.run(Outcome.FAILED)

    _list(at, id_1="backup-old", id_2="backup")
    late = at.run(change=lambda report: replace(report, started=began))

    assert at.states()[late] == "invalidated"


def test_id_never_moves_when_its_heartbeat_is_renamed(at: Bench) -> None:
    """Name and id were one queue, and come apart."""
    _list(at, id_1="backup")
    by_id = at.run(ref="heartbeat:id-1")
    by_name = at.run()
    at.outbox.drop(None, "by hand")
    assert set(at.states().values()) == {"superseded", "dropped"}

    _list(at, id_1="backup-old", id_2="backup")
    at.run(Outcome.FAILED, ref="heartbeat:backup")
    by_id = at.run(ref="heartbeat:id-1", change=lambda report: replace(report, replay_all=True))
    at.run(Outcome.FAILED, ref="heartbeat:backup")
    by_name = at.run()

    assert _sent(at) == {by_id: "id-1", by_name: "id-2"}


def test_failure_under_the_id_stays_with_the_renamed_heartbeat(at: Bench) -> None:
    """What the name brought is not withdrawn by it any more."""
    _list(at, id_1="backup")
    at.run(Outcome.FAILED, ref="heartbeat:id-1")
    began = at.clock.read()
    at.clock.advance(5)
    at.run(Outcome.FAILED, ref="heartbeat:id-1")
    _list(at, id_1="backup-old", id_2="backup")

    early = at.run(ref="heartbeat:backup", change=lambda report: replace(report, started=began))

    assert _sent(at) == {early: "id-2"}


def test_renamed_heartbeat_is_fed_on_while_nobody_has_its_name(at: Bench) -> None:
    """Monitoring goes on; another case is another name."""
    _list(at, id_1="backup")
    at.run()
    _sent(at)

    _list(at, id_1="Backup")
    second = at.run()

    assert _sent(at) == {second: "id-1"}


def test_heartbeat_created_with_a_deleted_ones_name_gets_its_pings(at: Bench) -> None:
    """A listing that lacks the old one is enough."""
    _list(at, id_1="backup")
    waiting = at.run()

    _list(at, id_2="backup")

    assert _sent(at) == {waiting: "id-2"}


def test_host_name_heartbeat_that_is_created_later_takes_over(at: Bench) -> None:
    """A command's name means HOST/NAME first."""
    _list(at, id_1="backup")
    first = at.run(ref="auto:backup")
    assert _sent(at) == {first: "id-1"}

    _list(at, id_1="backup", id_2="host/backup")
    second = at.run(ref="auto:backup")

    assert _sent(at) == {second: "id-2"}


def test_name_that_two_others_have_is_nobodys_after_a_rename(at: Bench) -> None:
    """Neither they nor the renamed heartbeat is pinged at random."""
    _list(at, id_1="backup")
    at.run()

    _list(at, id_1="backup-old", id_2="backup", id_3="backup")
    claim = at.outbox.claim(10)

    assert claim.attempts == ()
    assert [stream.heartbeat_id for stream in claim.unresolved] == [None]


def test_second_heartbeat_of_the_same_name_leaves_pings_where_they_were(at: Bench) -> None:
    """Somebody made it by mistake, and check says so; what worked goes on."""
    _list(at, id_1="backup")
    at.run()
    _sent(at)

    _list(at, id_1="backup", id_2="backup")
    second = at.run()

    assert _sent(at) == {second: "id-1"}


@pytest.mark.parametrize("acknowledged", [True, False])
def test_ping_under_way_during_a_rename_ends_where_it_began(at: Bench, acknowledged: bool) -> None:
    """Acknowledged, it is delivered; else the next attempt goes to who has the name now."""
    _list(at, id_1="backup")
    run_id = at.run()
    attempt = _only(at)

    _list(at, id_1="backup-old", id_2="backup")
    assert at.outbox.claim(10).attempts == ()
    if acknowledged:
        delivered(at.outbox, attempt, "200")
        assert _sent(at) == {}
    else:
        not_delivered(at.outbox, attempt, "503", delay_s=60)
        assert _sent(at) == {run_id: "id-2"}
    assert at.states() == {run_id: "delivered"}
    later = at.run()
    assert _sent(at) == {later: "id-2"}


def test_failure_during_the_last_attempt_before_a_rename_withdraws(at: Bench) -> None:
    """The ping and the failure come from one name, and both leave."""
    _list(at, id_1="backup")
    run_id = at.run()
    attempt = _only(at)
    _list(at, id_1="backup-old", id_2="backup")
    at.run(Outcome.FAILED)

    not_delivered(at.outbox, attempt, "503", delay_s=0)

    assert _sent(at) == {}
    assert at.states() == {run_id: "invalidated"}

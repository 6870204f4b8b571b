"""Whether something else pings a heartbeat, told from what Aura saw last and what this store has sent."""

import pytest

from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.queries import other_feeders
from aura_agent.report.record import Outcome
from tests.outbox.stores import Bench, delivered, not_delivered

HOUR = 3600.0


def deliver(at: Bench) -> None:
    """Let a run happen, and its ping be acknowledged."""
    at.run()
    (attempt,) = at.outbox.claim(10).attempts
    delivered(at.outbox, attempt, "200")


def now_ns(at: Bench) -> int:
    return at.clock.read().wall_ns


def foreign(at: Bench, ping_ns: int) -> dict[str, str]:
    """Return the other feeders if Aura saw the last ping at *ping_ns*."""
    return other_feeders(at.outbox, {"id-backup": ping_ns})


def test_a_ping_long_after_ours_is_somebody_elses(at: Bench) -> None:
    """It is told by the heartbeat's name; clocks that differ by a few minutes aren't mistaken for it."""
    at.know("backup")
    deliver(at)
    delivered_ns = now_ns(at)

    assert foreign(at, delivered_ns + int(HOUR * 1e9)) == {"id-backup": "backup"}
    assert foreign(at, delivered_ns + int(240 * 1e9)) == {}
    assert foreign(at, delivered_ns - int(HOUR * 1e9)) == {}


def test_what_an_earlier_listing_said_is_held_against_what_was_sent_then(at: Bench) -> None:
    """Newer pings of ours neither excuse a foreign one nor turn our own older one into one."""
    at.know("backup")
    deliver(at)
    at.clock.advance(2 * HOUR)
    deliver(at)
    ours_ns = now_ns(at)
    at.clock.advance(24 * HOUR)
    deliver(at)

    assert foreign(at, ours_ns) == {}
    assert foreign(at, ours_ns + int(HOUR * 1e9)) == {"id-backup": "backup"}


def test_who_has_never_pinged_accuses_nobody(at: Bench) -> None:
    """A new host takes over a heartbeat: what came before its first ping was the old one's."""
    at.know("backup")
    assert foreign(at, now_ns(at)) == {}

    at.clock.advance(HOUR)
    deliver(at)

    assert foreign(at, now_ns(at) - int(HOUR * 1e9)) == {}


@pytest.mark.parametrize("later", ["waits", "failed", "succeeded"])
def test_what_may_have_arrived_is_ours(at: Bench, later: str) -> None:
    """An attempt whose answer got lost, whatever became of its entry afterwards."""
    at.know("backup")
    deliver(at)
    at.clock.advance(HOUR)
    at.run()
    (attempt,) = at.outbox.claim(10).attempts
    arrived_ns = now_ns(at)
    assert foreign(at, arrived_ns) == {}, "it is under way"

    not_delivered(at.outbox, attempt, "connection lost", delay_s=1)
    if later != "waits":
        at.clock.advance(HOUR)
        at.run(Outcome.FAILED if later == "failed" else Outcome.SUCCEEDED)

    assert foreign(at, arrived_ns) == {}


def test_without_a_fresh_listing_the_cached_one_counts(at: Bench) -> None:
    """For status, which asks Aura nothing."""
    at.know("backup")
    deliver(at)
    assert other_feeders(at.outbox) == {}

    at.clock.advance(HOUR)
    seen = CachedHeartbeat("id-backup", "backup", 3600, 600, "up", now_ns(at), None, now_ns(at))
    at.outbox.remember([seen])

    assert other_feeders(at.outbox) == {"id-backup": "backup"}

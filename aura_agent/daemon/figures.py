"""Figures of the store that only the running agent shows. Reads, never writes."""

from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome


def oldest_waiting_s(outbox: Outbox) -> float:
    """Return how long ago the run of the oldest waiting ping ended; 0 if none waits."""
    (ended_wall_ns,) = outbox.connection.execute(
        "SELECT min(ended_wall_ns) FROM entries WHERE state = 'waiting'"
    ).fetchone()
    return 0.0 if ended_wall_ns is None else max(0, outbox.now().wall_ns - ended_wall_ns) / 1e9


def last_successes(outbox: Outbox) -> dict[str, float]:
    """Return the end of each job's newest success, in seconds since the Unix epoch."""
    rows = outbox.connection.execute(
        "SELECT job, max(started_wall_ns / 1e9 + duration_s) FROM runs WHERE outcome = ? AND job <> '' GROUP BY job",
        (Outcome.SUCCEEDED,),
    )
    return {row[0]: row[1] for row in rows}


def leased_count(outbox: Outbox) -> int:
    """Return how many pings are under way, in whatever process."""
    now = outbox.now()
    (count,) = outbox.connection.execute(
        "SELECT count(*) FROM streams WHERE lease_owner IS NOT NULL AND lease_epoch = ? AND lease_until_ns > ?",
        (now.epoch, now.boot_ns),
    ).fetchone()
    return int(count)

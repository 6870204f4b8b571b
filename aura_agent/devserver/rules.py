"""When a heartbeat is late. Pure: instants are microseconds since the Unix epoch, and *now* is a parameter.

A heartbeat that was never pinged is ``pending`` and can't be late. One that was is due again after its interval and
late after its grace period on top; a ping that arrives at that very instant is still in time. A pause ends all
waiting, and its end starts the wait anew, so that nobody is alerted about pings that nobody awaited.
"""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pending", "up", "down", "paused"]

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What lateness depends on."""

    interval_s: int
    grace_s: int
    last_ping_us: int | None = None
    resumed_us: int | None = None
    paused: bool = False


def deadline_us(facts: Facts) -> int | None:
    """Return the last instant at which the next ping is in time; None: no ping is awaited."""
    if facts.paused or facts.last_ping_us is None:
        return None
    anchor_us = facts.last_ping_us if facts.resumed_us is None else max(facts.last_ping_us, facts.resumed_us)
    return anchor_us + (facts.interval_s + facts.grace_s) * _US


def status(facts: Facts, now_us: int) -> Status:
    """Return the status at *now_us*."""
    if facts.paused:
        return "paused"
    if facts.last_ping_us is None:
        return "pending"
    return "down" if missed_us(facts, now_us) is not None else "up"


def missed_us(facts: Facts, now_us: int) -> int | None:
    """Return the deadline that has passed without a ping, which is when the incident began; None: not late."""
    deadline = deadline_us(facts)
    return deadline if deadline is not None and now_us > deadline else None

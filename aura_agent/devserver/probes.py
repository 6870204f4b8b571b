"""What a probe of a monitor means, and when the next one is due. Pure: instants are microseconds since the epoch."""

from typing import Literal

Verdict = Literal["up", "down"]
MonitorStatus = Literal["pending", "up", "down", "paused"]

_US = 1_000_000


def verdict(status_code: int | None) -> Verdict:
    """Return what an answer says; None: there was none in time. Redirects are answers, and not followed."""
    return "up" if status_code is not None and 200 <= status_code < 400 else "down"


def next_due_us(due_us: int, interval_s: int, now_us: int) -> int:
    """Return when to probe next: an interval after the last time it was due, or after now if that has passed too.

    Keeping to the grid of due times rather than adding up delays keeps the rate; probes that were missed while the
    server was down are not made up for.
    """
    following_us = due_us + interval_s * _US
    return following_us if following_us > now_us else now_us + interval_s * _US

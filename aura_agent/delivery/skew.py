"""What the ``Date`` of an answer (RFC 9110, section 6.6.1) tells of our wall clock. Shown to people, used for nothing.

Whose ``Date`` it is nobody knows for sure, so nothing is decided by it: pings are ordered and aged without it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from aura_agent.units import format_duration

_WORTH_A_WORD_S = 10.0  # less delays no schedule that anybody would notice


@dataclass(slots=True)
class Skew:
    """What the newest acknowledgement told: by how much (s) our clock is *ahead_s* of Aura's; below zero: behind."""

    ahead_s: float | None = None

    def hear(self, ahead_s: float | None) -> None:
        self.ahead_s = self.ahead_s if ahead_s is None else ahead_s

    @property
    def warning(self) -> str:
        """Return a line for people, empty if there is nothing to say."""
        if self.ahead_s is None or abs(self.ahead_s) < _WORTH_A_WORD_S:
            return ""
        way = "ahead of" if self.ahead_s > 0 else "behind"
        by = format_duration(round(abs(self.ahead_s)))
        return f"this host's clock is {by} {way} Aura's: schedules go by it, no ping does; is it synchronized?"


def ahead_of(date: str | None, sent: datetime, received: datetime) -> float | None:
    """Return by how many seconds, at the least, our clock is ahead of the one that gave *date*; below zero: behind.

    *sent* and *received* are our instants, aware, around its own; *date* has whole seconds. None: it can't be read.
    """
    try:
        stamped = parsedate_to_datetime((date or "").strip())
        if stamped.tzinfo is None:
            stamped = stamped.replace(tzinfo=UTC)
        ahead_s = (sent - stamped - timedelta(seconds=1)).total_seconds()
        behind_s = (stamped - received).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return ahead_s if ahead_s > 0 else -behind_s if behind_s > 0 else 0.0

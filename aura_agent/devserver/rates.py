"""The reference's rate limits: 60 requests in a minute and 1,000 in an hour, per token. Time is a parameter.

A window opens with its first request and closes a minute or an hour later; a refused request counts in neither.
"""

from dataclasses import dataclass
from typing import NamedTuple

PER_MINUTE, PER_HOUR = 60, 1000


class Verdict(NamedTuple):
    """May the request pass; how long to wait if not (s); what each window still allows."""

    allowed: bool
    retry_after_s: int
    left_minute: int
    left_hour: int


@dataclass(slots=True)
class _Window:
    opened_s: float
    used: int


class RateLimits:
    """The windows of every token, of the reference's sizes unless told otherwise."""

    def __init__(self, *, per_minute: int = PER_MINUTE, per_hour: int = PER_HOUR) -> None:
        self._limits = ((60, per_minute), (3600, per_hour))  # (seconds, requests)
        self._windows: dict[str, list[_Window]] = {}

    def take(self, token_id: str, now_s: float) -> Verdict:
        """Count one request of *token_id* at *now_s* (monotonic), if its windows allow it."""
        windows = self._windows.setdefault(token_id, [_Window(now_s, 0) for _ in self._limits])
        wait_s = 0.0
        for window, (length_s, limit) in zip(windows, self._limits, strict=True):
            if now_s >= window.opened_s + length_s:
                window.opened_s, window.used = now_s, 0
            if window.used >= limit:
                wait_s = max(wait_s, window.opened_s + length_s - now_s)
        if wait_s == 0:
            for window in windows:
                window.used += 1
        minute, hour = (limit - window.used for window, (_, limit) in zip(windows, self._limits, strict=True))
        return Verdict(wait_s == 0, -int(-wait_s // 1), minute, hour)

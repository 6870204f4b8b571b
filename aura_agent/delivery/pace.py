"""How many pings may begin now, so that no more than a rate go out. Pure: the time is a parameter.

A bucket of tokens: it fills at the rate, and holds what one second brings, so that what comes after a quiet while goes
out at once. Instants are seconds on any clock that only goes forward.
"""


class Pace:
    """A bound of *per_s* pings per second."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._holds = max(1.0, per_s)
        self._tokens = self._holds
        self._at_s = now_s

    def allows(self, now_s: float) -> int:
        """Return how many may begin at *now_s*."""
        self._tokens = min(self._holds, self._tokens + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return int(self._tokens + 1e-9)  # what a wait for one whole token lost to rounding

    def spend(self, count: int) -> None:
        """So many have begun, of those that were allowed."""
        self._tokens -= count

    def next_s(self) -> float:
        """Return how long after the last look one more may begin."""
        return max(0.0, 1.0 - self._tokens) / self._per_s

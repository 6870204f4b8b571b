"""Which of many equal failures are worth a line: the first, every power of two, and the recovery. Pure."""

MAX_KEYS = 10_000  # the oldest is forgotten beyond that, and so logged as a first one again
QUIET_S = 6 * 3600.0  # failures further apart than this are news again, though nobody told of a recovery


class Repeats:
    """Counts failures in a row, per *key*. Not for several threads at once."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, float]] = {}

    def failed(self, key: str, now_s: float) -> int:
        """Count a failure at *now_s* (monotonic); return how many in a row if this one is to be logged, else 0."""
        count, last_s = self._rows.pop(key, (0, now_s))
        count = 1 if now_s - last_s > QUIET_S else count + 1
        if len(self._rows) >= MAX_KEYS:
            del self._rows[next(iter(self._rows))]
        self._rows[key] = (count, now_s)
        return count if count & (count - 1) == 0 else 0

    def recovered(self, key: str) -> int:
        """Return how many failures in a row are over with this success; 0: there is nothing to tell."""
        return self._rows.pop(key, (0, 0.0))[0]

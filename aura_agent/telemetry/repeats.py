"""Which of many equal failures are worth a line: the first, every power of two, and the recovery. Pure."""

MAX_KEYS = 10_000  # the oldest is forgotten beyond that, and so logged as a first one again


class Repeats:
    """Counts failures in a row, per *key*. Not for several threads at once."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}

    def failed(self, key: str) -> int:
        """Count a failure; return how many there have been if this one is to be logged, else 0."""
        count = self._in_a_row.get(key, 0) + 1
        if count == 1 and len(self._in_a_row) >= MAX_KEYS:
            del self._in_a_row[next(iter(self._in_a_row))]
        self._in_a_row[key] = count
        return count if count & (count - 1) == 0 else 0

    def recovered(self, key: str) -> int:
        """Return how many failures in a row are over with this success; 0: there is nothing to tell."""
        return self._in_a_row.pop(key, 0)

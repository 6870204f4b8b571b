"""A job's output as lines for a log, of bounded length and number."""

from collections.abc import Callable

_MAX_LINE_BYTES = 8192  # a longer one comes in pieces
MAX_LOGGED_BYTES = 1_000_000  # per stream and attempt: a job in a loop must not fill the disk with its log


class Lines:
    """Cuts what it is fed into lines and hands on each, as text, until *max_bytes* have been."""

    def __init__(self, emit: Callable[[str], None], max_bytes: int = MAX_LOGGED_BYTES) -> None:
        self._emit = emit
        self._left_bytes = max_bytes
        self._dropped_bytes = 0
        self._begun = b""

    def feed(self, chunk: bytes) -> None:
        taken = chunk[: self._left_bytes]
        self._left_bytes -= len(taken)
        self._dropped_bytes += len(chunk) - len(taken)
        *whole, self._begun = (self._begun + taken).split(b"\n")
        for line in whole:
            self._hand_on(line)
        while len(self._begun) > _MAX_LINE_BYTES:
            self._hand_on(self._begun[:_MAX_LINE_BYTES])
            self._begun = self._begun[_MAX_LINE_BYTES:]

    def end(self) -> None:
        """Hand on a last line without an end, and say how much more there was."""
        if self._begun:
            self._hand_on(self._begun)
            self._begun = b""
        if self._dropped_bytes:
            self._emit(f"[... {self._dropped_bytes} bytes more are not logged]")
            self._dropped_bytes = 0

    def _hand_on(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, _MAX_LINE_BYTES):
            self._emit(line[start : start + _MAX_LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace"))

"""The last bytes of a stream, and how many came before them. Builtins only: aura-run uses it."""

CONTEXT_BYTES = 8192  # kept beyond what is sent, for redaction: a secret may lie across the beginning of that
_CUT = "[... {} bytes before this are left out]\n"


class Tail:
    """Keeps the last *max_bytes* bytes fed to it. Memory stays below twice that, plus one chunk."""

    __slots__ = ("_kept", "_total_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}, below zero")
        self.max_bytes = max_bytes
        self._kept = bytearray()
        self._total_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._total_bytes += len(chunk)
        self._kept += chunk[-self.max_bytes :] if self.max_bytes else b""
        if len(self._kept) > 2 * self.max_bytes:
            del self._kept[: -self.max_bytes]

    def skip(self, count: int) -> None:
        """Count *count* bytes that need not be fed, since ``max_bytes`` of what follows them will be."""
        self._total_bytes += count
        self._kept.clear()

    @property
    def total_bytes(self) -> int:
        """All that was ever fed."""
        return self._total_bytes

    @property
    def dropped_bytes(self) -> int:
        """What was fed and isn't kept."""
        return self._total_bytes - min(len(self._kept), self.max_bytes)

    def content(self) -> bytes:
        """The last bytes, as they came."""
        return bytes(self._kept[-self.max_bytes :]) if self.max_bytes else b""

    def text(self, max_bytes: int | None = None) -> str:
        """Return the content, or the last *max_bytes* of it, for people: what isn't UTF-8 is replaced, the cut lies
        between two characters, and a first line tells how many bytes are missing, if any are.
        """
        _, text, missing_bytes = self.ending(self.max_bytes if max_bytes is None else max_bytes)
        return marked(text, missing_bytes)

    def ending(self, max_bytes: int) -> tuple[str, str, int]:
        """Return the content in two parts, the latter of *max_bytes* at the most, both as ``text`` has them; and how
        many bytes came before the latter.
        """
        content = self.content()
        at = max(0, len(content) - max_bytes)
        if at or self.dropped_bytes:
            at += _continuation_bytes(content[at:])
        before, after = content[:at], content[at:]
        return before.decode("utf-8", "replace"), after.decode("utf-8", "replace"), self.dropped_bytes + at


def marked(text: str, missing_bytes: int) -> str:
    """Return *text* under a line that tells how many bytes came before it, if any did."""
    return (_CUT.format(missing_bytes) if missing_bytes else "") + text


def _continuation_bytes(content: bytes) -> int:
    """Return how many bytes at the start belong to a character that was cut off; 0 if this can't be UTF-8."""
    count = 0
    while count < len(content) and content[count] & 0xC0 == 0x80:
        count += 1
        if count > 3:
            return 0
    return count

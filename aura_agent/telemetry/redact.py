"""Keeps secrets out of what is logged: by their exact values, and by the names of keys.

Runs after exceptions have become text and right before rendering, so nothing is added behind its back. What isn't
plain data is turned into its repr here, since the renderer would do that later, unredacted. Values are added while the
program runs (a ping URL is learned long after the start) and may be asked about from any thread.
"""

import sys
import threading
from bisect import bisect_left
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

HIDDEN = "[redacted]"
SECRET_KEYS = frozenset(
    {"token", "ping_url", "authorization", "proxy_authorization", "cookie", "set_cookie", "password"}
)
MAX_VALUES = 8192  # two or three per ping URL; the oldest is forgotten beyond that
MIN_CHARACTERS = 6  # shorter values would cut ordinary words out of the log
_MAX_DEPTH = 6


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Secrets, the longest first, and how many characters each has, below zero: to be searched."""

    secrets: tuple[str, ...]
    shortness: tuple[int, ...]


class Redactor:
    """A structlog processor that knows the secrets of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a destructor may log in the middle of it
        self._added: dict[str, None] = {}
        self._longest_first: _Sorted | None = _Sorted((), ())
        self._shortest = sys.maxsize  # characters: most of what is logged has fewer

    def add(self, value: str) -> None:
        """Hide *value* from now on; of a URL also its path and query alone, as HTTP libraries show them."""
        forms = [form for form in _forms(value) if len(form) >= MIN_CHARACTERS]
        with self._lock:
            if all(form in self._added for form in forms):
                return
            for form in forms:
                self._added.pop(form, None)
                self._added[form] = None
            while len(self._added) > MAX_VALUES:
                del self._added[next(iter(self._added))]
            self._longest_first = None  # sorted when somebody asks: many are added at a time
            self._shortest = min(self._shortest, *map(len, forms))

    def text(self, text: str) -> str:
        """Return *text* without any secret."""
        if len(text) < self._shortest:
            return text
        known = self._longest_first or self._sorted()
        # None that is longer can be in it: of thousands of URLs that leaves few for most of what is logged.
        for secret in known.secrets[bisect_left(known.shortness, -len(text)) :]:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def clean(self, value: object, depth: int = 0) -> Any:
        """Return *value* as plain data without any secret."""
        if isinstance(value, str):
            return self.text(str(value))
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if depth >= _MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return self._facts(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.clean(inner, depth + 1) for inner in value]
        return self.text(_plain(value))

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return self._facts(event, 0)

    def _sorted(self) -> "_Sorted":
        with self._lock:
            secrets = tuple(sorted(self._added, key=len, reverse=True))
            self._longest_first = _Sorted(secrets, tuple(-len(secret) for secret in secrets))
            return self._longest_first

    def _facts(self, facts: Mapping[Any, object], depth: int) -> dict[str, Any]:
        return {
            self.text(_plain(key)): HIDDEN if fact is not None and _names_a_secret(key) else self.clean(fact, depth + 1)
            for key, fact in facts.items()
        }


@lru_cache(maxsize=1024)  # few keys, in each line
def _names_a_secret(key: object) -> bool:
    return isinstance(key, str) and key.lower().replace("-", "_") in SECRET_KEYS


def _forms(value: str) -> list[str]:
    """Return *value*, and for a URL the part behind the host, with and without what follows the path's key."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return [value]
    if not parts.scheme or not parts.netloc:
        return [value]
    forms = [value]
    if parts.query:  # the key may be in the query, and the path a plain word such as /ping
        return [*forms, f"{parts.path}?{parts.query}", parts.query]
    if parts.path.strip("/"):
        forms.append(parts.path)
    return forms


def _plain(value: object) -> str:
    """Return the text of *value*, whatever its repr does."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001  # a log line about an object must not fail on the object
        return f"<{type(value).__name__} whose repr raised {type(exc).__name__}>"

"""The answer of a probe."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether what is watched is as it should be, why in one line, and the facts behind it.

    facts: numbers and short texts for logs and ``--json``; never a command line, which may hold a password.
    """

    healthy: bool
    reason: str
    facts: Mapping[str, object] = field(default_factory=dict)


def shown(path: str) -> str:
    """Return *path* so that any terminal and JSON encoder takes it: names on disk need not be UTF-8."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if text.isprintable() else ascii(text)[1:-1]

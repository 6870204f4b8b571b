"""How delivery tells what happens, without knowing who listens: a log and counters, a progress bar, or a wrapper."""

from typing import Protocol


class Observer(Protocol):
    """Is told of events: a ``noun.verb_past`` name and facts, none of them secret."""

    def note(self, event: str, **facts: object) -> None: ...


class Silence:
    """Listens to nothing."""

    def note(self, event: str, **facts: object) -> None:
        """Forget it."""

"""How many runs may go on at once: all of them, and those of each group. No I/O; whoever waits is told by an event.

First come, first served, except that a run whose group is full lets others pass. Each group has a queue of its own, so
that thousands that wait cost nothing: what is looked at is the first of each.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

ALL = ""  # no group can be called so


@dataclass(slots=True, eq=False)
class Slot:
    """The right of one run to go on, from the moment that ``given`` is set. ``number`` tells who came first."""

    group: str | None
    number: int
    given: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pools(self) -> tuple[str, ...]:
        """Where it counts."""
        return (ALL,) if self.group is None else (ALL, self.group)


class Slots:
    """Hands out slots, as many as the limits allow; what has no limit is never waited for."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str | None, OrderedDict[Slot, None]] = {}  # by group, in the order in which they came
        self._numbers = count()

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set how many may go on in each group, and ``ALL`` of them. What goes on already isn't ended by that."""
        self._limits = dict(limits)
        self._hand_out()

    def ask(self, group: str | None) -> Slot:
        """Return a slot for a run of *group*: given at once, or later."""
        slot = Slot(group, next(self._numbers))
        self._waiting.setdefault(group, OrderedDict())[slot] = None
        self._hand_out()
        return slot

    def give_back(self, slot: Slot) -> None:
        """Return *slot*, or take back the wish for it."""
        if slot.given.is_set():
            self._taken.subtract(slot.pools)
        else:
            self._forget(slot)
        self._hand_out()

    def full(self, slot: Slot) -> str:
        """Return in words what *slot* waits for."""
        for pool in slot.pools:
            if not self._has_room(pool):
                key = "max_concurrent" if pool == ALL else f"max_concurrent of job group {pool}"
                return f"{self._taken[pool]} runs go on, and {key} is {self._limits[pool]}"
        return "its turn is next"

    def _hand_out(self) -> None:
        while self._waiting and self._has_room(ALL):
            firsts = [next(iter(queue)) for group, queue in self._waiting.items() if self._has_room(group or ALL)]
            if not firsts:
                return
            slot = min(firsts, key=lambda first: first.number)
            self._forget(slot)
            self._taken.update(slot.pools)
            slot.given.set()

    def _forget(self, slot: Slot) -> None:
        queue = self._waiting[slot.group]
        del queue[slot]
        if not queue:
            del self._waiting[slot.group]

    def _has_room(self, pool: str) -> bool:
        return pool not in self._limits or self._taken[pool] < self._limits[pool]

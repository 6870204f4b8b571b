"""How many runs may go on at once: all of them, and those of each group. No I/O; whoever waits is told by an event.

First come, first served, except that a run whose group is full lets others pass. Every slot that frees up is offered
in that order, so nobody is passed for ever by runs of its own group.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

ALL = ""  # no group can be called so


@dataclass(slots=True, eq=False)
class Slot:
    """The right of one run to go on, from the moment that ``given`` is set. *pools*: where it counts."""

    pools: tuple[str, ...]
    given: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """Hands out slots, as many as the limits allow; what has no limit is never waited for."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._waiting: list[Slot] = []

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set how many may go on in each group, and ``ALL`` of them. What goes on already isn't ended by that."""
        self._limits = dict(limits)
        self._hand_out()

    def ask(self, group: str | None) -> Slot:
        """Return a slot for a run of *group*: given at once, or later."""
        slot = Slot((ALL,) if group is None else (ALL, group))
        self._waiting.append(slot)
        self._hand_out()
        return slot

    def give_back(self, slot: Slot) -> None:
        """Return *slot*, or take back the wish for it."""
        if slot.given.is_set():
            for pool in slot.pools:
                self._taken[pool] -= 1
        else:
            self._waiting.remove(slot)
        self._hand_out()

    def full(self, slot: Slot) -> str:
        """Return in words what *slot* waits for."""
        for pool in slot.pools:
            if not self._has_room(pool):
                key = "max_concurrent" if pool == ALL else f"max_concurrent of job group {pool}"
                return f"{self._taken[pool]} runs go on, and {key} is {self._limits[pool]}"
        return "its turn is next"

    def _hand_out(self) -> None:
        left = []
        for slot in self._waiting:
            if all(self._has_room(pool) for pool in slot.pools):
                for pool in slot.pools:
                    self._taken[pool] = self._taken.get(pool, 0) + 1
                slot.given.set()
            else:
                left.append(slot)
        self._waiting = left

    def _has_room(self, pool: str) -> bool:
        return pool not in self._limits or self._taken.get(pool, 0) < self._limits[pool]

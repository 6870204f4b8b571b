"""Clocks that stand still until a test moves them, or sleeps on them."""

import asyncio

from aura_agent.clock import Reading

START_NS = 1_800_000_000_000_000_000


class StillClock:
    """Both clocks at once; the wall can also be moved alone, as NTP would."""

    def __init__(self) -> None:
        self._boot_ns, self._wall_ns = 5_000_000_000, START_NS

    def read(self) -> Reading:
        return Reading(self._boot_ns, self._wall_ns)

    def advance(self, seconds: float) -> None:
        self._boot_ns += round(seconds * 1e9)
        self._wall_ns += round(seconds * 1e9)


class PassingClock(StillClock):
    """Sleeping on it is what makes its time pass."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)

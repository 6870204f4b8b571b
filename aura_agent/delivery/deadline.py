"""Until when a request may be written. Pure: instants come in.

What a claim decides is true for a while only. A process that was stopped or suspended between the claim and the write
must not send it later: the next claim judges it anew.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from aura_agent.clock import Clock, SystemClock

_SUSPENDED_S = 3.0  # clocks of a machine that is awake differ by less

Instants = Callable[[], "Instant"]


class Instant(NamedTuple):
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC, read together: only the first goes on while the machine is suspended."""

    boot_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of the time in which a request may be written, decided at *begun*."""

    begun: Instant
    until_boot_ns: int

    def problem(self, now: Instant) -> str:
        """Return why the request must not be written *now*; empty if it may be."""
        passed_ns = now.boot_ns - self.begun.boot_ns
        asleep_s = (passed_ns - (now.monotonic_ns - self.begun.monotonic_ns)) / 1e9
        if asleep_s > _SUSPENDED_S:
            return f"not sent: the machine was suspended for {asleep_s:.0f} s meanwhile"
        if now.boot_ns >= self.until_boot_ns:
            return f"not sent: {passed_ns / 1e9:.0f} s after it was decided, which is too late"
        return ""


def instants(clock: Clock) -> Instants:
    """Return what reads both clocks, CLOCK_BOOTTIME as *clock* tells it."""
    return lambda: Instant(clock.read().boot_ns, time.monotonic_ns())


def system_instants() -> Instants:
    return instants(SystemClock())

"""What every route works with: the database, the clock, the judge, the prober, the rates, the faults, what came in."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from aura_agent.clock import Clock
from aura_agent.devserver.faults import Fault, Faults
from aura_agent.devserver.instants import from_us
from aura_agent.devserver.judge import Judge
from aura_agent.devserver.prober import Prober
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.received import Received

API_PATH = "/api-v1"
CONTROL_PATH = "/_dev"
PING_PATH = "/ping/"


@dataclass(slots=True)
class Service:
    """One embedded Aura. *origin* is ``http://host:port``; *rates* is None if nobody is limited.

    *order* puts a fault to work and returns its id; *lists_ping_urls*: heartbeats are shown with their ping URLs.
    """

    db: sqlite3.Connection
    clock: Clock
    rates: RateLimits | None
    max_ping_body_bytes: int
    lists_ping_urls: bool
    order: Callable[[Fault], str]
    judge: Judge = field(init=False)
    prober: Prober = field(init=False)
    origin: str = ""
    received: Received = field(default_factory=Received)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.judge = Judge(self.db, self.clock)
        self.prober = Prober(self.db, self.clock)

    def now_us(self) -> int:
        """Wall time, in microseconds since the epoch."""
        return self.clock.read().wall_ns // 1000

    def settled_us(self) -> int:
        """Return the time now, by which every missed deadline has its incident and every check that is due is made."""
        now_us = self.now_us()
        self.judge.settle(now_us)
        self.prober.settle(now_us)
        return now_us

    def wall(self) -> datetime:
        return from_us(self.now_us())

    def monotonic_s(self) -> float:
        return self.clock.read().boot_ns / 1e9

    def ping_url(self, ping_key: str) -> str:
        return f"{self.origin}{PING_PATH}{ping_key}"

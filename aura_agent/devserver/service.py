"""What every route works with: the database, the clock, the judge, the rates, what was received, the faults."""

import sqlite3
from dataclasses import dataclass, field
from datetime import datetime

from aura_agent.clock import Clock
from aura_agent.devserver.faults import Faults
from aura_agent.devserver.instants import from_us
from aura_agent.devserver.judge import Judge
from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.received import Received

API_PATH = "/api-v1"
CONTROL_PATH = "/_dev"
PING_PATH = "/ping/"


@dataclass(slots=True)
class Service:
    """One embedded Aura. *origin* is ``http://host:port``; *rates* is None if nobody is limited."""

    db: sqlite3.Connection
    clock: Clock
    judge: Judge
    rates: RateLimits | None
    max_ping_body_bytes: int
    origin: str = ""
    received: Received = field(default_factory=Received)
    faults: Faults = field(default_factory=Faults)

    def now_us(self) -> int:
        """Wall time, in microseconds since the epoch."""
        return self.judge.now_us()

    def wall(self) -> datetime:
        return from_us(self.now_us())

    def monotonic_s(self) -> float:
        return self.clock.read().boot_ns / 1e9

    def ping_url(self, ping_key: str) -> str:
        return f"{self.origin}{PING_PATH}{ping_key}"

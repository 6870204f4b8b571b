"""The store as who only looks sees it: over a connection of its own, which writes nothing and waits for no writer.

In WAL mode reading needs no lock that a writer has (sqlite.org/wal.html, section 2.2): so people are told how things
stand while somebody keeps the database locked, or the disk is slow to take something.
"""

import sqlite3
from collections.abc import Callable
from typing import Protocol

from aura_agent.outbox.heartbeats import Heartbeats
from aura_agent.outbox.rules import Moment
from aura_agent.outbox.scopes import Identity, Scopes
from aura_agent.outbox.streams import Streams


class Readable(Protocol):
    """What ``aura_agent.outbox.queries`` wants of a store."""

    @property
    def connection(self) -> sqlite3.Connection: ...

    @property
    def scopes(self) -> Scopes: ...

    @property
    def heartbeats(self) -> Heartbeats: ...

    @property
    def streams(self) -> Streams: ...

    def now(self) -> Moment: ...


class Reader:
    """The database behind *connection*; *now* tells the store's time. Not thread-safe: one thread at a time."""

    def __init__(
        self, connection: sqlite3.Connection, hostname: str, identity: Identity, now: Callable[[], Moment]
    ) -> None:
        self.connection = connection
        self.scopes = Scopes(self.connection, identity)
        self.heartbeats = Heartbeats(self.connection, hostname, self.scopes)
        self.streams = Streams(self.connection, self.heartbeats, self.scopes)
        self.now = now

    def close(self) -> None:
        self.connection.close()

"""A real store for parts of the daemon, one that can be made to refuse, and an observer that keeps what it is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aura_agent.outbox.store import Outbox, open_outbox
from aura_agent.outbox.worker import OutboxWorker


@dataclass
class Seen:
    """An observer's notes."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def note(self, event: str, **facts: object) -> None:
        self.events.append((event, facts))

    def named(self, name: str) -> list[dict[str, object]]:
        return [facts for event, facts in self.events if event == name]


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[OutboxWorker]:
    worker = OutboxWorker(open_outbox(str(directory), "daemon"))
    try:
        yield worker
    finally:
        await worker.close()


async def refuse(worker: OutboxWorker, table: str, *, name: str = "refuse") -> None:
    """Let every insert into *table* fail, as it does on a full disk, until ``allow``; *name* tells one from another."""
    statement = f"CREATE TRIGGER {name} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    await worker.call(lambda outbox: _execute(outbox, statement))


async def allow(worker: OutboxWorker, *, name: str = "refuse") -> None:
    await worker.call(lambda outbox: _execute(outbox, f"DROP TRIGGER {name}"))


def _execute(outbox: Outbox, statement: str) -> None:
    outbox.connection.execute(statement)

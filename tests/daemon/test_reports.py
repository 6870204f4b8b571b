"""Conversations with the report server over real sockets: what is said at once, in pieces, too long, or cut off."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aura_agent.clock import SystemClock
from aura_agent.config.models import Config
from aura_agent.daemon.report_server import ReportServer
from aura_agent.daemon.reports import Desk
from aura_agent.outbox.queries import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import Seen, allow, opened, refuse
from tests.waiting import until

pytestmark = pytest.mark.anyio


@dataclass
class Served:
    """A report server on a store of its own, and what it has accepted."""

    path: str
    worker: OutboxWorker
    state: Path
    accepted: list[Report] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)

    woken: int = 0

    def wake(self) -> None:
        self.woken += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def outcomes(self) -> dict[str, str]:
        await self.worker.call(Outbox.take_spool)
        return {row.run_id: row.outcome for row in await self.worker.call(run_rows)}


@asynccontextmanager
async def serving(home: Path, config: Callable[[], Config] = Config) -> AsyncIterator[Served]:
    state = home / "state"
    async with opened(state) as worker:
        made = Served(str(home / "sock"), worker, state)
        desk = Desk(worker, str(state), SystemClock(), made.seen, config, made.accepted.append, made.wake)
        server = ReportServer(desk)
        await server.listen(made.path)
        try:
            yield made
        finally:
            await server.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


def line(run_id: str, verb: str = "run", *, tail: str = "") -> bytes:
    now = SystemClock().read()
    report = Report(
        run_id=run_id,
        boot_id=current_boot_id(),
        started=now,
        ended=now,
        outcome=Outcome.SUCCEEDED,
        ref="heartbeat:h",
        job="j",
        tail=tail,
    )
    return wire.encode(verb, report.to_fields())


async def test_lines_that_come_together_are_answered_in_their_order(served: Served) -> None:
    """Each has its answer, also what was said before the other end stopped talking, and is on disk by then."""
    reader, writer = await served.connect()
    writer.write(b"".join([line("run00000001", "start"), line("run00000001"), b"nonsense\n", line("run00000002")]))
    writer.write_eof()

    answers = [wire.decode(answer) for answer in (await reader.read()).splitlines()]

    assert [verb for verb, _ in answers] == ["job", "ok", "busy", "ok"]
    assert [fields["run"] for verb, fields in answers if verb == "ok"] == ["run00000001", "run00000002"]
    assert await served.outcomes() == {"run00000001": "succeeded", "run00000002": "succeeded"}
    writer.close()


async def test_a_line_that_comes_in_pieces_is_one(served: Served) -> None:
    """However the kernel cuts it."""
    reader, writer = await served.connect()
    whole = line("run00000001", tail="x" * 40_000)
    for at in range(0, len(whole), 9_999):
        writer.write(whole[at : at + 9_999])
        await writer.drain()

    assert wire.decode(await reader.readline())[0] == "ok"
    writer.close()


async def test_a_line_without_its_end_is_no_report(served: Served) -> None:
    """Whoever dies in the middle of it has said nothing; the run that it had introduced is lost."""
    reader, writer = await served.connect()
    writer.write(line("run00000001", "start") + line("run00000001").removesuffix(b"\n"))
    writer.write_eof()

    assert [wire.decode(answer)[0] for answer in (await reader.read()).splitlines()] == ["job"]
    await until(lambda: served.accepted)
    assert await served.outcomes() == {"run00000001": "lost"}
    writer.close()


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_beyond_the_limit_ends_the_conversation(served: Served, end: bytes) -> None:
    """With or without an end: the daemon keeps no more of it, and hangs up."""
    reader, writer = await served.connect()
    writer.write(b"run " + b"x" * wire.MAX_LINE_BYTES + end)

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


@pytest.mark.parametrize("verb", ["start", "run"])
async def test_a_clock_that_no_store_can_hold_is_not_understood(served: Served, verb: str) -> None:
    """Said at once, so that nothing is begun that could not be concluded."""
    reader, writer = await served.connect()
    _, fields = wire.decode(line("run00000001"))
    writer.write(wire.encode(verb, fields | {"start_boot_ns": "9" * 20}))

    answer = wire.decode(await reader.readline())

    assert answer == ("busy", {"v": "1", "reason": "not understood: a number that is too large"})
    writer.close()


async def test_who_says_much_holds_up_nobody(tmp_path: Path) -> None:
    """Anybody may connect, and say many lines at once: another's is answered before they are."""
    looks = threading.Semaphore(0)  # a look at the config for each line

    def config() -> Config:
        looks.acquire()
        return Config()

    async with serving(tmp_path, config) as served:
        try:
            with socket.socket(socket.AF_UNIX) as talker, socket.socket(socket.AF_UNIX) as other:
                talker.connect(served.path)
                talker.sendall(b"hello\n" * 100)
                other.connect(served.path)
                other.sendall(b"hello\n")
                looks.release(10)

                assert await asyncio.to_thread(other.recv, 1000)
        finally:
            looks.release(1000)


async def test_what_the_store_refuses_is_not_acknowledged(served: Served) -> None:
    """The run still goes on as far as we know: said again on the same connection, it is kept."""
    await refuse(served.worker, "inbox")
    reader, writer = await served.connect()
    writer.write(line("run00000001"))
    refused = wire.decode(await reader.readline())
    await allow(served.worker)
    writer.write(line("run00000001"))
    kept = wire.decode(await reader.readline())

    assert (refused[0], kept[0]) == ("busy", "ok")
    await until(lambda: served.accepted)
    assert [report.run_id for report in served.accepted] == ["run00000001"]
    writer.close()


@pytest.mark.parametrize("mended", [True, False])
async def test_an_outcome_that_was_heard_and_not_kept_is_not_lost(served: Served, *, mended: bool) -> None:
    """Its aura-run has gone and left nothing beside the database: the run counts as it ended."""
    await refuse(served.worker, "inbox")
    reader, writer = await served.connect()
    writer.write(line("run00000001", "start") + line("run00000001"))
    answers = [wire.decode(await reader.readline())[0] for _ in range(2)]
    if mended:
        await allow(served.worker)
    else:
        await refuse(served.worker, "runs", name="refuse_more")
    writer.close()
    if mended:
        await until(lambda: served.accepted)
    else:
        await until(lambda: spool.holds(str(served.state), "run00000001"))
        await allow(served.worker, name="refuse_more")

    assert answers == ["job", "busy"]
    assert await served.outcomes() == {"run00000001": "succeeded"}
    assert not served.woken if mended else served.woken


async def test_who_hangs_up_before_the_answer_is_kept_all_the_same(served: Served) -> None:
    """The report was whole: the run isn't lost."""
    _, writer = await served.connect()
    writer.write(line("run00000001", "start") + line("run00000001"))
    await writer.drain()
    writer.close()

    await until(lambda: served.accepted)
    assert await served.outcomes() == {"run00000001": "succeeded"}


@pytest.mark.parametrize("spooled", [True, False])
async def test_a_run_whose_outcome_is_in_the_spool_is_not_lost(served: Served, *, spooled: bool) -> None:
    """The database takes nothing: what its aura-run has left beside it counts, and only without that a run is lost."""
    _, writer = await served.connect()
    writer.write(line("run00000001", "start"))
    await writer.drain()
    (served.state / "outbox.db").unlink()
    if spooled:
        spool.write(str(served.state), "run00000001", line("run00000001"))
    writer.close()

    await until(lambda: served.seen.named("store.failed"))
    left = [path.name for path in (served.state / "spool").iterdir()]
    assert left == ["run00000001.report" if spooled else "run00000001-lost.report"]

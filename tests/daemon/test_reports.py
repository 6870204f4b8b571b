"""Conversations with the report server over real sockets: what is said at once, in pieces, too long, or cut off."""

import asyncio
import errno
import os
import resource
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from aura_agent.clock import Reading, SystemClock
from aura_agent.config.models import Config
from aura_agent.daemon.report_server import MAX_CONNECTIONS, ReportServer
from aura_agent.daemon.reports import Desk
from aura_agent.outbox.queries import kept_reports
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import Seen, allow, opened, refuse
from tests.reports import report_of
from tests.waiting import until
from tests.wrapper.runs import Host

pytestmark = pytest.mark.anyio


@dataclass
class Served:
    """A report server on a store of its own, and what it has accepted."""

    path: str
    worker: OutboxWorker
    state: Path
    server: ReportServer = field(init=False)
    accepted: list[Report] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    remembered: list[Report] = field(default_factory=list)
    woken: int = 0
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def wake(self) -> None:
        self.woken += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def outcomes(self) -> dict[str, str]:
        await self.worker.call(Outbox.take_in)
        return {row.run_id: row.outcome for row in await self.worker.call(run_rows)}


@asynccontextmanager
async def serving(
    home: Path, config: Callable[[], Config] = Config, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[Served]:
    state = home / "state"
    async with opened(state) as worker:
        made = Served(str(home / "sock"), worker, state)
        desk = Desk(
            *(worker, str(state), SystemClock(), made.seen, config, made.accepted.append, made.wake),
            remember=made.remembered.append,
        )
        server = made.server = ReportServer(desk, made.tasks.append, max_connections)
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
    report = report_of(run_id, SystemClock().read(), ref="heartbeat:h", job="j")
    return wire.encode(verb, replace(report, tail=tail).to_fields())


def is_refused(path: str) -> bool:
    """Whether nobody listens at *path* any more."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == errno.ECONNREFUSED


@pytest.mark.parametrize("stops_talking", [True, False])
async def test_lines_that_come_together_are_answered_in_their_order(served: Served, *, stops_talking: bool) -> None:
    """Each has its answer, also what was said before the other end stopped talking, and is on disk by then."""
    reader, writer = await served.connect()
    writer.write(b"".join([line("run00000001", "start"), line("run00000001"), b"nonsense\n", line("run00000002")]))
    if stops_talking:
        writer.write_eof()

    answers = [wire.decode(await reader.readline()) for _ in range(4)]

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


async def test_who_does_not_read_is_heard_on_when_it_does(served: Served) -> None:
    """More answers than the kernel holds for it: the others are served meanwhile, and in the end it has all of them."""
    lines = 5000
    with socket.socket(socket.AF_UNIX) as talker, socket.socket(socket.AF_UNIX) as other:
        for client in (talker, other):
            client.settimeout(20)
            client.connect(served.path)
        talker.sendall(b"hello\n" * lines)
        other.sendall(b"hello\n")
        assert await asyncio.to_thread(other.recv, 1000)

        answers = talker.makefile("rb")
        verbs = await asyncio.to_thread(lambda: {wire.decode(answers.readline())[0] for _ in range(lines)})

    assert verbs == {"busy"}


async def test_more_connections_than_there_may_be_are_told_so(tmp_path: Path) -> None:
    """At once, so that the spool takes their reports; whoever comes when there is room again is heard."""
    async with serving(tmp_path, max_connections=2) as served:
        open_ones = [await served.connect() for _ in range(2)]
        for _, writer in open_ones:
            writer.write(line("run00000001", "start"))
        assert {wire.decode(await reader.readline())[0] for reader, _ in open_ones} == {"job"}

        reader, writer = await served.connect()
        assert wire.decode(await reader.readline()) == ("busy", {"v": "1", "reason": "too many connections"})
        assert await reader.read() == b""
        writer.close()
        for _, other in open_ones:
            other.close()
        await until(lambda: served.accepted)  # the lost runs: their ends have been noticed

        reader, writer = await served.connect()
        writer.write(line("run00000002"))
        assert wire.decode(await reader.readline())[0] == "ok"
        writer.close()


async def test_an_aura_run_that_is_told_so_looks_into_the_config_itself(tmp_path: Path) -> None:
    """What the daemon has no time to lend it: the heartbeat of the job whose command it runs."""
    config = tmp_path / "config.toml"
    config.write_text('[jobs.nightly]\nheartbeat = "beat"\nschedule = "@daily"\ncommand = ["true"]\n')
    async with serving(tmp_path, max_connections=0) as served:
        host = Host(tmp_path, {"AURA_CONFIG": str(config), "AURA_SOCKET": served.path})
        ended = await asyncio.to_thread(host.run, "--no-wait", "--", "true")

    assert (ended.returncode, ended.stderr) == (0, b"")
    report = host.report()
    assert (report["ref"], report["job"]) == ("heartbeat:beat", "nightly")


async def test_a_process_out_of_descriptors_hears_who_waits_when_it_has_some_again(served: Served) -> None:
    """Nobody is turned away, and people are told."""
    limits, told = resource.getrlimit(resource.RLIMIT_NOFILE), line("run00000001")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            client.connect(served.path)
            client.sendall(told)
            await until(lambda: served.seen.named("report.unheard"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        assert wire.decode(await asyncio.to_thread(client.recv, 1000))[0] == "ok"


async def test_whatever_was_acknowledged_when_it_stops_is_on_disk(served: Served) -> None:
    """It stops while many report: who has its ok is in the store, and who hasn't is hung up on."""
    acknowledged: list[str] = []

    def report(who: int) -> None:
        for number in range(100_000):
            run_id = f"run{who}{number:07}"
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(20)
                    client.connect(served.path)
                    client.sendall(line(run_id))
                    answer = client.recv(1000)
            except OSError:
                return
            if answer.startswith(b"ok "):
                acknowledged.append(run_id)

    reporters = [asyncio.create_task(asyncio.to_thread(report, who)) for who in range(4)]
    await until(lambda: len(acknowledged) > 100)
    await served.server.close()
    await asyncio.gather(*reporters)

    kept = {each.run_id for each in await served.worker.call(kept_reports)}
    assert kept.issuperset(acknowledged)
    assert {each.run_id for each in served.accepted} == kept


async def test_a_thread_that_crashes_is_noticed(tmp_path: Path) -> None:
    """Whoever watches over it hears why; nobody finds an open door and no one behind it."""

    class CrashError(BaseException):
        pass

    def config() -> Config:
        raise CrashError

    async with serving(tmp_path, config) as served:
        reader, writer = await served.connect()
        assert await reader.read() == b""
        await asyncio.wait(served.tasks)

        assert isinstance(served.tasks[0].exception(), CrashError)
        assert is_refused(served.path)
        writer.close()


async def test_what_is_being_kept_when_it_stops_is_acknowledged(tmp_path: Path) -> None:
    """The disk is slow: whoever has said all that there is to say hears what became of it."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    asked = count(1)

    def config() -> Config:
        if next(asked) > 1:  # at first for whoever comes, then for what is said
            loop.call_soon_threadsafe(heard.set)
        return Config()

    async with serving(tmp_path, config) as served:
        reader, writer = await served.connect()
        with closing(sqlite3.connect(served.state / "outbox.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer.write(line("run00000001"))
            await heard.wait()
            ending = asyncio.create_task(served.server.close())
            await until(lambda: is_refused(served.path))
            other.execute("COMMIT")
        await ending

        assert wire.decode(await reader.readline())[0] == "ok"
        assert [report.run_id for report in served.accepted] == ["run00000001"]
        writer.close()


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


async def test_what_the_store_refuses_is_in_memory_where_its_run_was_not_introduced(served: Served) -> None:
    """Whoever sends a success from memory then knows of a later failure, though no disk does."""
    await refuse(served.worker, "inbox")
    reader, writer = await served.connect()
    failed = report_of("run00000001", SystemClock().read(), Outcome.FAILED, ref="heartbeat:h", job="j")
    writer.write(wire.encode("run", failed.to_fields()))

    assert wire.decode(await reader.readline())[0] == "busy"
    await until(lambda: [report.run_id for report in served.remembered] == ["run00000001"])
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
        await until(lambda: served.woken)
        assert spool.holds(str(served.state), "run00000001")
        await allow(served.worker, name="refuse_more")

    assert answers == ["job", "busy"]
    assert await served.outcomes() == {"run00000001": "succeeded"}
    assert bool(served.woken) != mended


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


async def test_a_run_that_is_told_to_begin_later_is_of_now(served: Served) -> None:
    """It must not be behind the runs that are to come: it is kept so, not only judged so."""
    reader, writer = await served.connect()
    now = SystemClock().read()
    ahead = report_of("run00000001", Reading(now.boot_ns + 10**15, now.wall_ns), ref="heartbeat:h", job="j")
    writer.write(wire.encode("run", ahead.to_fields()))
    assert wire.decode(await reader.readline())[0] == "ok"

    await served.outcomes()
    rows = await served.worker.call(lambda outbox: outbox.connection.execute("SELECT * FROM entries").fetchall())
    assert now.boot_ns <= rows[0]["started_boot_ns"] <= rows[0]["ended_boot_ns"] <= SystemClock().read().boot_ns
    writer.close()


async def test_who_waits_for_the_sockets_finds_what_lay_in_them(served: Served) -> None:
    """Reports that nobody has looked at yet, on new connections and on old ones, are in the store after that."""
    _, old = await served.connect()
    old.write(line("run00000000", "start"))
    connections = [await served.connect() for _ in range(100)]
    for number, (_, writer) in enumerate(connections, 1):
        writer.write(line(f"run{number:08}", "start") + line(f"run{number:08}"))
    old.write(line("run00000000"))

    await served.server.caught_up()
    await served.worker.call(Outbox.take_in)

    runs = await served.worker.call(lambda outbox: outbox.connection.execute("SELECT run_id FROM runs").fetchall())
    assert len(runs) == 101
    for _, writer in [*connections, (None, old)]:
        writer.close()


async def test_who_waits_for_the_sockets_finds_who_hung_up(served: Served) -> None:
    """A run whose wrapper is gone is lost by then."""
    reader, writer = await served.connect()
    writer.write(line("run00000001", "start"))
    await reader.readline()
    writer.close()

    await served.server.caught_up()

    assert await served.outcomes() == {"run00000001": "lost"}


async def test_who_waits_for_sockets_that_are_closed_goes_on(served: Served) -> None:
    """The daemon stops: nothing more comes."""
    waiting = asyncio.create_task(served.server.caught_up())
    await served.server.close()

    await waiting
    await served.server.caught_up()

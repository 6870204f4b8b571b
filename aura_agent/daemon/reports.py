"""The socket on which aura-runs report: one connection per run, acknowledged only when the report is on disk.

While a connection is open, it is the record that its run goes on; one that closes after ``start`` and without ``run``
means that wrapper and outcome are gone: the run is lost. Anybody may connect; the kernel says who did.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from aura_agent.clock import Clock
from aura_agent.config.lend import lend, matching_jobs
from aura_agent.config.models import Config
from aura_agent.daemon.peers import may_report, peer_of
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.record import Ref, Report
from aura_agent.report.redaction import redact

MAX_CONNECTIONS = 2000


@dataclass(frozen=True, slots=True)
class Desk:
    """What it takes to judge and keep a report. *config* returns the one in force; *accepted* hears of new reports,
    *wake* that others than those were brought in.

    *directory* is the store's, for the spool.
    """

    worker: OutboxWorker
    directory: str
    clock: Clock
    observer: Observer
    config: Callable[[], Config]
    accepted: Callable[[Report], None]
    wake: Callable[[], None]

    async def accept(self, report: Report) -> None:
        """Make *report* durable and tell who listens. Raises StoreError."""
        if await self.worker.accept(report):
            self.accepted(report)

    async def conclude(self, lost: Report) -> None:
        """Keep *lost* unless its run's outcome is known by now; it may have reached the spool."""
        try:
            if await self.worker.call(lambda outbox: outbox.take_spool()):
                self.wake()
            await self.accept(lost)
        except StoreError as problem:
            self.observer.note("store.failed", error=str(problem))
            if spool.holds(self.directory, lost.run_id):
                return
            try:
                spool.write(self.directory, f"{lost.run_id}-lost", wire.encode("run", lost.to_fields()))
            except OSError:
                pass  # neither takes it, which has been logged


class ReportServer:
    """Listens on one Unix socket and holds a conversation on each connection."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._concluding: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def listen(self, path: str) -> None:
        """Open the socket at *path*, 0666 in its directory. Raises OSError."""
        bound = bind_socket(path, 0o666)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self._desk, self), sock=bound)

    async def close(self) -> None:
        """Stop listening and hang up; a run that still goes on will find its way through the spool."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.hang_up()
        await asyncio.gather(*self._concluding, return_exceptions=True)

    def admits(self, connection: "_Connection") -> bool:
        """Take note of a new connection; False: there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= MAX_CONNECTIONS

    def ended(self, connection: "_Connection", lost: Report | None) -> None:
        """A connection has ended; *lost* is the run that has no outcome now. As we stop, nothing follows from that."""
        self._connections.discard(connection)
        if lost is None or self._stopping:
            return
        ended = self._desk.clock.read()
        task = asyncio.create_task(self._desk.conclude(replace(lost, ended=ended)), name=f"lost {lost.job}")
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)


class _Connection(asyncio.Protocol):
    """What one connection has said so far. Its lines are answered one after the other, each before the next is read.

    No task and no stream: a report is little more than one line and one answer, and many may come at once. One line is
    answered in a turn of the loop: who says much holds up nobody.
    """

    def __init__(self, desk: Desk, server: ReportServer) -> None:
        self._desk = desk
        self._server = server
        self._received = bytearray()
        self._turn: asyncio.Handle | None = None
        self._at_end = False
        self._full = False  # the other end doesn't read our answers
        self._hung_up = False
        self._keeping: asyncio.Future[bool] | None = None
        self._refused = False
        self._open: Report | None = None  # how the run would be reported if it were lost now

    # -- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = peer_of(transport.get_extra_info("socket"))
        if not self._server.admits(self):
            transport.write(wire.encode("busy", {"reason": "too many connections"}))
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._go_on()

    def eof_received(self) -> bool:
        self._at_end = True
        self._go_on()
        return True  # what has been said is answered first

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # gone is gone
        self._hung_up = self._at_end = True
        self._full = False
        self._go_on()  # what was said before counts

    # -- the conversation ------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Hear no more; what is being kept is kept."""
        self._received.clear()
        self._transport.abort()

    def _go_on(self) -> None:
        """Answer what can be answered now, and end when nothing more can come."""
        if self._turn is None:
            self._take_turn()

    def _take_turn(self) -> None:
        self._turn = None
        if not (self._keeping or self._full):
            newline_at = self._received.find(b"\n")
            length = len(self._received) if newline_at < 0 else newline_at
            if length > wire.MAX_LINE_BYTES or (self._at_end and newline_at < 0):
                self._received.clear()
                self._end()
                return
            if newline_at >= 0:
                line = bytes(self._received[:newline_at])
                del self._received[: newline_at + 1]
                self._hear(line)
                self._turn = asyncio.get_running_loop().call_soon(self._take_turn)
        if len(self._received) > wire.MAX_LINE_BYTES:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _end(self) -> None:
        if self._hung_up:
            self._server.ended(self, self._open)
        else:
            self._transport.close()

    def _hear(self, line: bytes) -> None:
        try:
            verb, fields = wire.decode(line.strip())
            if not self._may_report(fields.get("job", "")):
                if not self._refused:
                    self._desk.observer.note("report.refused", user=self._peer.user)
                self._refused = True
                self._answer("refused", {"reason": f"{self._peer.user} is not among them"})
            elif verb == "start":
                self._begin(fields)
            elif verb == "run":
                self._keep(Report.from_fields(fields))
            else:
                self._answer("busy", {"reason": f"unknown verb {verb[:40]}"})
        except ValueError as problem:
            self._answer("busy", {"reason": f"not understood: {problem}"})

    def _answer(self, verb: str, fields: dict[str, str]) -> None:
        if not self._hung_up:
            self._transport.write(wire.encode(verb, fields))

    def _begin(self, fields: dict[str, str]) -> None:
        config = self._desk.config()
        argv = fields.get("argv")
        names = matching_jobs(config, argv.split("\0")) if argv else []
        lent = lend(names[0], config.jobs[names[0]]) if len(names) == 1 else {}
        if "heartbeat" in lent:
            fields |= {"job": lent["job"], "ref": f"{Ref.HEARTBEAT}{lent['heartbeat']}"}
        self._open = Report.lost(fields, "aura-run went away without an outcome")
        # Who shares our user has our store, and would have to read the config to find it.
        store = self._desk.directory if self._peer.uid == os.geteuid() else ""
        self._answer("job", lent | {"redact": "\0".join(config.attach.redact), "store": store})

    def _keep(self, report: Report) -> None:
        report = self._redacted(report)
        self._keeping = self._desk.worker.accept(report)
        self._keeping.add_done_callback(partial(self._kept, report))

    def _kept(self, report: Report, keeping: asyncio.Future[bool]) -> None:
        """The report is on disk, or can't be."""
        self._keeping = None
        try:
            is_new = keeping.result()
        except StoreError as problem:
            self._desk.observer.note("store.failed", error=str(problem))
            self._answer("busy", {"reason": str(problem)})
        else:
            self._open = None
            self._answer("ok", {"run": report.run_id})
            if is_new:
                self._desk.accepted(report)
        self._go_on()

    def _redacted(self, report: Report) -> Report:
        """Return *report* as it may leave the host: who wrote it may not have known our patterns."""
        patterns = self._desk.config().attach.redact
        if report.body is None or not patterns:
            return report
        try:
            text = redact(report.body.decode("utf-8", "replace"), patterns)
        except (TimeoutError, ValueError):
            return replace(report, body=None)
        return replace(report, body=text.encode())

    def _may_report(self, job_name: str) -> bool:
        config = self._desk.config()
        job = config.jobs.get(job_name)
        return may_report(self._peer, [*config.agent.reporters, *(job.reporters if job is not None else ())])


def bind_socket(path: str, mode: int) -> socket.socket:
    """Return a Unix socket bound at *path*, in a directory made 0755 if it is missing; one left behind is replaced.

    Raises OSError; one that somebody still answers on is ``EADDRINUSE``.
    """
    with _umask(0o022):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # each socket in it decides for itself who may speak
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            else:
                raise OSError(errno.EADDRINUSE, "somebody already listens there: is another daemon running?", path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        with _umask(0o777 & ~mode):  # a chmod after the bind would come too late for whoever connects in between
            bound.bind(path)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

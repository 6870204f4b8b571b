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

from aura_agent.clock import Clock
from aura_agent.config.lend import lend, matching_jobs
from aura_agent.config.models import Config
from aura_agent.daemon.peers import Peer, may_report, peer_of
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
            try:
                spool.write(self.directory, f"{lost.run_id}-lost", wire.encode("run", lost.to_fields()))
            except OSError:
                pass  # neither takes it, which has been logged


class ReportServer:
    """Listens on one Unix socket and holds a conversation on each connection."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._concluding: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def listen(self, path: str) -> None:
        """Open the socket at *path*, 0666 in its directory. Raises OSError."""
        bound = bind_socket(path, 0o666)
        self._server = await asyncio.start_unix_server(self._connected, sock=bound, limit=wire.MAX_LINE_BYTES)

    async def close(self) -> None:
        """Stop listening and hang up; a run that still goes on will find its way through the spool."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, *self._concluding, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        conversation = _Conversation(self._desk, peer_of(writer.get_extra_info("socket")))
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                writer.write(wire.encode("busy", {"reason": "too many connections"}))
                return
            while (line := await reader.readline()).endswith(b"\n"):  # a line without its end says something else
                writer.write(await conversation.answer(line))
                await writer.drain()
        except (OSError, ValueError):
            pass  # the other end is gone, or sent a line beyond the limit: the finally clause draws the conclusion
        except asyncio.CancelledError:
            pass  # we are stopping: nothing is concluded from that
        finally:
            self._connections.discard(task)
            writer.close()
            if not self._stopping and conversation.open is not None:
                self._concluding.add(task)
                await conversation.hung_up()
                self._concluding.discard(task)


class _Conversation:
    """What one connection has said so far."""

    def __init__(self, desk: Desk, peer: Peer) -> None:
        self._desk = desk
        self._peer = peer
        self._refused = False
        self.open: Report | None = None  # how the run would be reported if it were lost now

    async def answer(self, line: bytes) -> bytes:
        """Return the answer to one line."""
        try:
            verb, fields = wire.decode(line.strip())
            if not self._may_report(fields.get("job", "")):
                if not self._refused:
                    self._desk.observer.note("report.refused", user=self._peer.user)
                self._refused = True
                return wire.encode("refused", {"reason": f"{self._peer.user} is not among them"})
            if verb == "start":
                return self._start(fields)
            if verb == "run":
                return await self._run(fields)
        except ValueError as problem:
            return wire.encode("busy", {"reason": f"not understood: {problem}"})
        return wire.encode("busy", {"reason": f"unknown verb {verb[:40]}"})

    async def hung_up(self) -> None:
        """The connection is gone: a run that was begun on it and has no outcome is lost."""
        if self.open is not None:
            await self._desk.conclude(replace(self.open, ended=self._desk.clock.read()))

    def _start(self, fields: dict[str, str]) -> bytes:
        config = self._desk.config()
        argv = fields.get("argv")
        names = matching_jobs(config, argv.split("\0")) if argv else []
        lent = lend(names[0], config.jobs[names[0]]) if len(names) == 1 else {}
        if "heartbeat" in lent:
            fields |= {"job": lent["job"], "ref": f"{Ref.HEARTBEAT}{lent['heartbeat']}"}
        self.open = Report.lost(fields, "aura-run went away without an outcome")
        # Who shares our user has our store, and would have to read the config to find it.
        store = self._desk.directory if self._peer.uid == os.geteuid() else ""
        return wire.encode("job", lent | {"redact": "\0".join(config.attach.redact), "store": store})

    async def _run(self, fields: dict[str, str]) -> bytes:
        report = self._redacted(Report.from_fields(fields))
        try:
            await self._desk.accept(report)
        except (StoreError, OverflowError) as problem:
            if isinstance(problem, StoreError):
                self._desk.observer.note("store.failed", error=str(problem))
            return wire.encode("busy", {"reason": str(problem)})
        self.open = None
        return wire.encode("ok", {"run": report.run_id})

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

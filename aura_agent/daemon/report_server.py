"""The report socket's connections, in a thread of their own: whatever the event loop or the disk has to do, who reports
is heard at once, and acknowledged as soon as the report is on disk.

Each connection is at any time in one pair of hands: this thread's, or, while its report is being kept, the outbox's,
which answers and gives it back. So no lock is needed, and a connection is closed by nobody who doesn't have it. Its
lines are answered one after the other, each before the next is looked at, and one in a turn: who says much holds up
nobody.
"""

import asyncio
import os
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from aura_agent.background_thread import BackgroundThread
from aura_agent.config.models import Job
from aura_agent.daemon.expectation import judged
from aura_agent.daemon.peers import Peer, peer_of
from aura_agent.daemon.reports import Conversation, Desk
from aura_agent.daemon.sockets import bind_socket
from aura_agent.errors import StoreSilentError
from aura_agent.report import wire
from aura_agent.report.record import Report

MAX_CONNECTIONS = 2000
_OF_ONE_USER = 0.5  # of these, for others than root and ourselves
_REFUSAL_LOGGED_S = 60.0  # a stranger is named once in that time, however often he comes
GATHER_S = 0.05  # the loop has better to do than to wake up for each of many reports
_RECEIVE_BYTES = 64 << 10
_ACCEPTED_IN_A_TURN = 64
_CATCH_UP_S = 5.0  # for so long a claim waits at the most for what lies in the sockets
_CATCH_UP_TURNS = 1000
_NO_DESCRIPTORS_S = 1.0  # until we try again to take connections, where the process has no more descriptors


class ReportServer:
    """Listens on one Unix socket. *watch* is given the task that the thread is: it never ends by itself.

    Who comes when there are *max_connections* is told so.
    """

    def __init__(
        self,
        desk: Desk,
        watch: Callable[["asyncio.Task[None]"], None] = lambda _: None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._desk = desk
        self._watch = watch
        self._max_connections = max_connections
        self._listening_again_s: float | None = None  # by time.monotonic(); None: we listen
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._ready: deque[_Connection] = deque()  # have a line that can be answered, or may have
        self._places: Counter[int] = Counter()  # how many connections each uid has
        self._refused_s: dict[int, float] = {}  # when, by time.monotonic(), which uid was last named
        self._stopping = False
        self._asking: deque[asyncio.Future[None]] = deque()  # who waits until all that lies in the sockets is seen
        self._turns_asked = 0
        self._asked_since_s: float | None = None  # by time.monotonic(); None: every question has been answered
        # In the loop:
        self._serving: asyncio.Task[None] | None = None
        self._news: deque[Report] = deque()
        self._telling = False
        self._concluding: set[asyncio.Task[None]] = set()
        self._judging: set[asyncio.Task[None]] = set()

    async def listen(self, path: str) -> None:
        """Open the socket at *path*, 0666 in its directory. Raises OSError."""
        self._listener = bind_socket(path, 0o666)
        self._listener.listen(socket.SOMAXCONN)
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._told_to_stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for descriptor in (self._listener.fileno(), self._told_to_stop, self._asked):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._serving = asyncio.create_task(self._serve_in_thread(), name="report socket")
        self._watch(self._serving)

    def deaf_s(self) -> float:
        """Return for how long (s) the thread has owed an answer to ``caught_up``."""
        since_s = self._asked_since_s
        return 0.0 if since_s is None or self._stopping else time.monotonic() - since_s

    async def caught_up(self) -> None:
        """Return once the thread has looked at all that lies in the sockets now; at the latest after some seconds.

        What it found is on its way to the outbox's thread, before whatever is asked of that next. A daemon that was
        frozen has reports there that are older than what it is about to send.
        """
        if self._serving is None or self._stopping:
            return
        answer: asyncio.Future[None] = self._loop.create_future()
        self._asking.append(answer)
        if self._asked_since_s is None:
            self._asked_since_s = time.monotonic()
        os.eventfd_write(self._asked, 1)
        await asyncio.wait({answer}, timeout=_CATCH_UP_S)
        if self._concluding:  # runs whose wrappers have hung up meanwhile
            await asyncio.wait(set(self._concluding), timeout=_CATCH_UP_S)

    async def close(self) -> None:
        """Stop listening and hang up; a run that still goes on will find its way through the spool."""
        if self._serving is None:
            return
        os.eventfd_write(self._told_to_stop, 1)
        await asyncio.wait({self._serving})
        self._serving = None
        for task in self._judging:  # who reported it has it still, and hands it over again
            task.cancel()
        with suppress(StoreSilentError):
            await self._desk.worker.call(lambda _: None)  # what is being kept is kept, and answered
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()
        os.close(self._told_to_stop)
        os.close(self._asked)
        self._tell()
        await asyncio.gather(*self._concluding, return_exceptions=True)

    # -- in the thread ---------------------------------------------------------------------------------------------

    async def _serve_in_thread(self) -> None:
        thread = BackgroundThread("reports")
        try:
            await self._loop.run_in_executor(thread, self._serve)
        finally:
            thread.close()

    def _serve(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            self._stopping = True
            self._answer_who_asked()
            self._listener.close()
            for connection in list(self._connections.values()):
                if not connection.is_being_kept:
                    self._end(connection)

    def _turn(self) -> bool:
        """Go one step on with each connection that can; False: we were told to stop."""
        events = self._epoll.poll(self._patience_s())
        for descriptor, _ in events:
            if descriptor == self._told_to_stop:
                return False
            if descriptor == self._asked:
                os.eventfd_read(self._asked)
                self._turns_asked = 0
            elif descriptor == self._listener.fileno():
                self._admit()
            else:
                self._go_on(self._connections[descriptor])
        if self._asking:
            self._turns_asked += 1
            if self._turns_asked > _CATCH_UP_TURNS or not (events or self._ready):
                self._answer_who_asked()
        for _ in range(len(self._ready)):
            self._go_on(self._ready.popleft())
        return True

    def _answer_who_asked(self) -> None:
        """Tell who waits for it that nothing is left in the sockets; what was found there goes to the loop before."""
        self._asked_since_s = None
        while self._asking:
            self._soon(partial(_answer, self._asking.popleft()))

    def _patience_s(self) -> float | None:
        if self._listening_again_s is None:
            return 0.0 if self._ready or self._asking else None
        left_s = self._listening_again_s - time.monotonic()
        if left_s <= 0:
            self._listening_again_s = None
            self._epoll.modify(self._listener, select.EPOLLIN)
        return 0.0 if self._ready or self._asking else max(0.0, left_s)

    def _admit(self) -> None:
        """Take the connections that wait, and hear at once those that have said something."""
        for _ in range(_ACCEPTED_IN_A_TURN):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as problem:
                self._soon(partial(self._desk.observer.note, "report.unheard", error=problem.strerror))
                self._epoll.modify(self._listener, 0)
                self._listening_again_s = time.monotonic() + _NO_DESCRIPTORS_S
                return
            connection = _Connection(accepted)
            self._connections[accepted.fileno()] = connection
            self._places[connection.conversation.peer.uid] += 1
            self._go_on(connection, is_new=True)

    def _why_not(self, peer: Peer) -> bytes:
        """Return what is said to *peer*, who has come, instead of hearing him; empty: he is heard.

        A stranger is judged before a byte is read, and no user but root can take all places.
        """
        rights = self._desk.rights_of(peer, self._desk.config())
        if not rights:
            self._note_refusal(peer)
            return wire.encode("refused", {"reason": f"{peer.user} is not among them"})
        share = 1.0 if rights.is_us else _OF_ONE_USER
        if len(self._connections) > self._max_connections or self._places[peer.uid] > self._max_connections * share:
            return wire.encode("busy", {"reason": "too many connections"})
        return b""

    def _note_refusal(self, peer: Peer) -> None:
        now_s = time.monotonic()
        if now_s - self._refused_s.get(peer.uid, -_REFUSAL_LOGGED_S) >= _REFUSAL_LOGGED_S:
            if len(self._refused_s) >= self._max_connections:
                self._refused_s.clear()
            self._refused_s[peer.uid] = now_s
            self._soon(partial(self._desk.observer.note, "report.refused", user=peer.user))

    def _go_on(self, connection: "_Connection", *, is_new: bool = False) -> None:
        try:
            if is_new and (answer := self._why_not(connection.conversation.peer)):
                connection.say(answer)
                self._end(connection)
            else:
                self._step(connection)
        except Exception as problem:  # noqa: BLE001  # whatever one has said, the others are heard
            self._soon(partial(self._desk.observer.note, "report.failed", exc_info=problem))
            self._end(connection)

    def _step(self, connection: "_Connection") -> None:
        """Answer the next line, if it is there; end when nothing more can come."""
        if connection.unsent and not connection.send():
            self._await(connection, select.EPOLLOUT)
            return
        line = connection.next_line()
        if line is None and not connection.is_over:
            if connection.receive():
                self._ready.append(connection)
            else:
                self._await(connection, select.EPOLLIN)
        elif line is None:
            self._end(connection)
        else:
            self._hear(connection, line)

    def _hear(self, connection: "_Connection", line: bytes) -> None:
        heard = self._desk.hear(connection.conversation, line)
        if heard.refuses:
            user = connection.conversation.peer.user
            self._soon(partial(self._desk.observer.note, "report.refused", user=user))
        if heard.report is None:
            connection.say(heard.answer)
            self._ready.append(connection)
            return
        connection.is_being_kept = True
        if heard.of_job is not None:
            self._soon(partial(self._judge, connection, heard.report, *heard.of_job))
        elif self._desk.must_redact(heard.report):
            self._soon(partial(self._keep_redacted, connection, heard.report))
        else:
            self._desk.worker.keep(heard.line, heard.report, partial(self._kept, connection, heard.report))

    def _await(self, connection: "_Connection", what: int) -> None:
        """Come back to the connection, once, when *what* can be done."""
        arm = self._epoll.modify if connection.is_watched else self._epoll.register
        connection.is_watched = True
        arm(connection.socket, what | select.EPOLLONESHOT)

    def _end(self, connection: "_Connection") -> None:
        """Hang up. The run that has no outcome on record now is concluded; as we stop, nothing follows from that."""
        del self._connections[connection.socket.fileno()]
        uid = connection.conversation.peer.uid
        self._places[uid] -= 1
        if not self._places[uid]:
            del self._places[uid]
        connection.socket.close()
        run = connection.conversation.open
        if run is not None and not self._stopping:
            self._soon(partial(self._conclude, run))

    # -- in the outbox's thread --------------------------------------------------------------------------------------

    def _kept(self, connection: "_Connection", report: Report, problem: Exception | None) -> None:
        """The report is on disk, or can't be: say so, and give the connection back."""
        if problem is None:
            connection.conversation.open = None
            connection.say(wire.encode("ok", {"run": report.run_id}))
            self._news.append(report)
            if not self._telling:
                self._telling = True
                self._soon(self._tell)
        else:
            if connection.conversation.open is not None:
                connection.conversation.open = report
            self._soon(partial(self._desk.remember, report))  # its aura-run may have said no start, and hang up
            connection.say(wire.encode("busy", {"reason": str(problem)}))
            self._soon(partial(self._desk.observer.note, "store.failed", error=str(problem)))
        connection.is_being_kept = False
        try:
            self._await(connection, select.EPOLLIN if connection.has_nothing_left else select.EPOLLOUT)
        except (OSError, ValueError):  # the kernel watches no more, or we stop, and all is closed
            if not self._stopping:
                self._end(connection)

    # -- in the event loop -------------------------------------------------------------------------------------------

    def _soon(self, what: Callable[[], None]) -> None:
        """Have *what* done in the loop; where that has ended, it has nothing to do any more."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            pass

    def _tell(self) -> None:
        """Tell of what is kept, at once, and of what is within ``GATHER_S`` after that together."""
        if not self._news:
            self._telling = False  # whoever keeps a report from here on calls us
            if not self._news:
                return
            self._telling = True
        self._loop.call_later(GATHER_S, self._tell)
        while self._news:
            self._desk.accepted(self._news.popleft())

    def _judge(self, connection: "_Connection", success: Report, name: str, job: Job) -> None:
        task = asyncio.create_task(self._keep_judged(connection, success, name, job), name=f"judge {name}")
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _keep_judged(self, connection: "_Connection", success: Report, name: str, job: Job) -> None:
        """Keep *success* as what *job* makes of it; the file that it expects may lie on a disk that hangs."""
        report = await judged(success, name, job)
        if self._desk.must_redact(report):
            self._keep_redacted(connection, report)
        else:
            self._desk.worker.keep(
                wire.encode("run", report.to_fields()), report, partial(self._kept, connection, report)
            )

    def _keep_redacted(self, connection: "_Connection", report: Report) -> None:
        redacted = self._desk.redacted(report)
        line = wire.encode("run", redacted.to_fields())
        self._desk.worker.keep(line, redacted, partial(self._kept, connection, redacted))

    def _conclude(self, run: Report) -> None:
        task = asyncio.create_task(self._desk.conclude(run), name=f"conclude {run.job}")
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)


def _answer(asked: "asyncio.Future[None]") -> None:
    if not asked.done():
        asked.set_result(None)


class _Connection:
    """A connection's bytes, both ways. Its socket blocks, and none of its calls do."""

    __slots__ = ("_at_end", "_received", "conversation", "is_being_kept", "is_watched", "socket", "unsent")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.conversation = Conversation(peer_of(accepted))
        self.unsent = b""
        self.is_being_kept = False
        self.is_watched = False
        self._received = bytearray()
        self._at_end = False

    @property
    def is_over(self) -> bool:
        """Whether no line can come any more, or one that is too long does."""
        return self._at_end or len(self._received) > wire.MAX_LINE_BYTES

    @property
    def has_nothing_left(self) -> bool:
        """Whether all that has come is heard, and all answers are sent."""
        return not (self.unsent or self._received or self._at_end)

    def next_line(self) -> bytes | None:
        """Return the next line without its end; None: it isn't there as a whole, or is too long."""
        newline_at = self._received.find(b"\n", 0, wire.MAX_LINE_BYTES + 1)
        if newline_at < 0:
            return None
        line = bytes(self._received[:newline_at])
        del self._received[: newline_at + 1]
        return line

    def receive(self) -> bool:
        """Take what has come; False: nothing has."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # gone is gone: what was said before counts
        self._received += data
        self._at_end = not data
        return True

    def say(self, answer: bytes) -> None:
        self.unsent += answer
        self.send()

    def send(self) -> bool:
        """Send what can be sent now; return whether that was all."""
        try:
            sent = self.socket.send(self.unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            sent = len(self.unsent)  # nobody is there to read it
        self.unsent = self.unsent[sent:]
        return not self.unsent

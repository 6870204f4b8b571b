"""Write log lines without ever blocking the caller: a bounded queue and one thread that does the blocking writes.

A pipe that nobody reads, a stopped terminal or a hung disk blocks the thread alone. O_NONBLOCK would not do: it belongs
to the open file description, which other processes share. When the queue is full the oldest lines go, since the newest
say what is wrong now. Lines keep their order. Lines that were dropped, or that an error kept from being written, are
counted, and reported in one line where the gap is, once writing works again.

Any thread may write a line, also from a destructor that the garbage collector runs in the middle of another write: that
line is put aside until the write is done. SimpleQueue is reentrant by design.
"""

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

MAX_LINES = 10_000
MAX_BYTES = 4 << 20
_TRY_AGAIN_S = 0.01  # after a poll(2) that promised room where there was none


class LogWriter:
    """Writes lines to the file descriptor *fd*; None: there is nothing to write to, and every line is dropped.

    The thread starts with the first line. ``describe_gap`` renders the line that reports how many were dropped.
    """

    def __init__(self, fd: int | None, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self.describe_gap: Callable[[int], str] = lambda count: f"{count} log lines were dropped"
        self.dropped = 0  # lines since the start
        self._fd = fd
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lock = threading.RLock()  # a destructor may come between its acquisition and the owner's entry, too
        self._owner: int | None = None  # the thread that is at the following
        self._put_aside: deque[bytes] = deque()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._gap = 0  # lines dropped before those in the queue, and not reported yet
        self._error = ""
        self._wakes: SimpleQueue[threading.Event | None] = SimpleQueue()
        self._is_awake = False
        self._has_thread = False
        self._mid_line = False

    @property
    def problem(self) -> str:
        """What is wrong with the log now, in words; empty if nothing is."""
        if self._fd is None or not self._gap:
            return ""
        cause = f"can't be written ({self._error})" if self._error else "isn't read: the reader of stderr has stopped"
        return f"the log {cause}; {self.dropped} lines were dropped since the start"

    def write_line(self, line: str) -> None:
        """Queue *line*, without its newline. Never blocks, never raises."""
        if self._fd is None:
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if self._owner == threading.get_ident():
            self._put_aside.append(data)
            return
        with self._exclusively():
            self._add(data)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines of now are written or given up; False: *timeout_s* has passed first."""
        written = threading.Event()
        with self._exclusively():
            if not self._has_thread:
                return not self._lines
            self._wakes.put(written)
        return written.wait(timeout_s)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Let no other thread in, and no destructor; what they write meanwhile is added at the end."""
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
                while self._put_aside:
                    self._add(self._put_aside.popleft())
            finally:
                self._owner = None

    def _add(self, data: bytes) -> None:
        self._lines.append(data)
        self._bytes += len(data)
        while self._lines and (len(self._lines) > self._max_lines or self._bytes > self._max_bytes):
            self._bytes -= len(self._lines.popleft())
            self._count(1)
        self._wake()

    def _wake(self) -> None:
        if not self._has_thread:
            thread = threading.Thread(target=self._write_queued, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is to be had now: the next line tries again
                return
            self._has_thread = True
        if not self._is_awake:
            self._is_awake = True
            self._wakes.put(None)

    def _count(self, lines: int) -> None:
        self.dropped += lines
        self._gap += lines

    def _write_queued(self) -> None:
        while True:
            flushed = self._wakes.get()
            while batch := self._take():
                self._write_batch(*batch)
            if flushed is not None:
                flushed.set()

    def _take(self) -> tuple[int, bytes, int] | None:
        """Take the gap to report and as many lines as fit into one atomic write, and their number; None: no lines."""
        with self._exclusively():
            if not self._lines:
                self._is_awake = False
                return None
            size = count = 0
            for line in self._lines:
                if count and size + len(line) > select.PIPE_BUF:
                    break
                size += len(line)
                count += 1
            self._bytes -= size
            return self._gap, b"".join([self._lines.popleft() for _ in range(count)]), count

    def _write_batch(self, gap: int, data: bytes, count: int) -> None:
        """Report *gap*, if there is one, then write the *count* lines of *data*."""
        problem: OSError | None = None
        written = 0
        if gap:
            _, problem = self._write(self.describe_gap(gap).encode("utf-8", "backslashreplace") + b"\n")
        if problem is None:
            with self._exclusively():
                self._gap -= gap
            written, problem = self._write(data)
        self._error = "" if problem is None else problem.strerror or type(problem).__name__
        if problem is not None:
            with self._exclusively():
                self._count(count - written)

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Write *data*, however long that takes; return how many lines are written in full, and what ended it early.

        What an error cut off in the middle of a line gets its newline first: the next line stands alone.
        """
        assert self._fd is not None
        start = 1 if self._mid_line else 0
        view = memoryview(b"\n" + data if start else data)
        taken = 0
        problem: OSError | None = None
        while taken < len(view) and problem is None:
            try:
                taken += os.write(self._fd, view[taken:])
            except BlockingIOError:  # somebody who shares the file description made it non-blocking
                self._wait_for_room(self._fd)
            except OSError as exc:
                problem = exc
        done = bytes(view[:taken])
        if done:
            self._mid_line = not done.endswith(b"\n")
        return max(0, done.count(b"\n") - start), problem

    @staticmethod
    def _wait_for_room(fd: int) -> None:
        room = select.poll()
        room.register(fd, select.POLLOUT)
        room.poll()
        time.sleep(_TRY_AGAIN_S)


class LogStream(io.TextIOBase):
    """Stands in for ``sys.stderr``: whole lines of text go to *writer*, through *redact*."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LogWriter, redact: Callable[[str], str], *, is_terminal: bool) -> None:
        self._writer = writer
        self._redact = redact
        self._is_terminal = is_terminal
        self._begun = ""

    def write(self, text: str, /) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._writer.write_line(self._redact(line))
        return len(text)

    def flush(self) -> None:
        """End the line that was begun. Doesn't wait until it is written."""
        line, self._begun = self._begun, ""
        if line:
            self._writer.write_line(self._redact(line))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._is_terminal

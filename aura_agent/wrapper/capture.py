"""The job's output on its way through us: kept for a ping's body (a tee), or held back until the job fails.

Only where asked for: without ``--quiet`` and ``--attach output`` the job writes to our own descriptors. Standard output
and standard error stay apart, each in its order and unbuffered; one thread for each moves bytes and nothing else.
What can't belong to the tail any more is moved from pipe to pipe by the kernel, uncopied (splice(2)).
Held output lies in memory up to a bound, then in an unlinked file; when that disk is full it passes straight through.
The threads are there before the job is: a host that has none left must not leave it with a pipe that nobody reads.
"""

import _thread
import os
import select
from errno import EINVAL, EISDIR, EOPNOTSUPP
from fcntl import fcntl, ioctl
from sys import byteorder
from termios import FIONREAD

from aura_agent.process.tail import Tail

_CHUNK_BYTES = 1 << 16
_HELD_IN_MEMORY_BYTES = 1 << 20  # for each of the two streams
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2)
_WORTH_SPLICING_BYTES = 1 << 15  # below that two copies cost less than a call more


class _Held:
    """One stream's output, kept back until it is shown or dropped."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._memory = bytearray()
        self._file: int | None = None
        self._straight = False

    def write(self, chunk: bytes) -> None:
        if self._straight:
            _write_all(self._target, chunk)
            return
        if self._file is None and len(self._memory) + len(chunk) <= _HELD_IN_MEMORY_BYTES:
            self._memory += chunk
            return
        try:
            if self._file is None:
                self._file = _unlinked_file()
                self._spill(bytes(self._memory))
                self._memory.clear()
            self._spill(chunk)
        except OSError:
            self.show()
            self._straight = True
            _write_all(self._target, chunk)

    def show(self) -> None:
        """Print what is held, and hold no more of it. Raises OSError: nobody takes it."""
        if self._file is not None:
            os.lseek(self._file, 0, os.SEEK_SET)
            while chunk := os.read(self._file, _CHUNK_BYTES):
                _write_all(self._target, chunk)
            os.close(self._file)
            self._file = None
        _write_all(self._target, bytes(self._memory))
        self._memory.clear()

    def _spill(self, chunk: bytes) -> None:
        assert self._file is not None
        at = os.lseek(self._file, 0, os.SEEK_CUR)
        written = 0
        while written < len(chunk):
            try:
                written += os.write(self._file, chunk[written:])
            except OSError:
                os.ftruncate(self._file, at)
                raise


class Capture:
    """Pipes for one job's two streams and the threads that empty them."""

    def __init__(self, *, hold: bool, tail: Tail | None) -> None:
        """Make the pipes and begin to read them. Raises OSError or RuntimeError: no descriptors or threads are left."""
        self.tail = tail
        self._feeding = _thread.allocate_lock()
        self._held = {target: _Held(target) for target in (1, 2)} if hold else {}
        self._opened: list[int] = []
        self._wake_read, self._wake_write = self._pipe()
        self._done: list[_thread.LockType] = []
        ends = [self._pipe() for _ in (1, 2)]
        self.outputs = (ends[0][1], ends[1][1])  # what the job is to have as its stdout and stderr
        for target, (read, write) in zip((1, 2), ends, strict=True):
            try:
                fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass  # the user's pipe budget is used up (pipe(7)): a smaller pipe serves
            finished = _thread.allocate_lock()
            finished.acquire()
            try:
                _thread.start_new_thread(self._move, (read, target, finished))
            except RuntimeError:
                self.finish()
                raise
            self._opened.remove(read)  # the thread's now
            self._done.append(finished)

    def started(self) -> None:
        """The job has its own descriptors: close ours, so that its end is seen."""
        for output in self.outputs:
            os.close(output)
            self._opened.remove(output)

    def finish(self) -> None:
        """The job has ended: take what is in the pipes, and no more; a grandchild may keep its ends open."""
        os.write(self._wake_write, b"x")
        for finished in self._done:
            finished.acquire()
        self._done.clear()
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened.clear()

    def show(self) -> None:
        """Print what was held back, each stream to its own place."""
        for held in self._held.values():
            try:
                held.show()
            except OSError:
                pass  # nobody is there to read it

    def _pipe(self) -> tuple[int, int]:
        try:
            ends = os.pipe()
        except OSError:
            for descriptor in self._opened:
                os.close(descriptor)
            raise
        self._opened += ends
        return ends

    def _move(self, read: int, target: int, finished: "_thread.LockType") -> None:
        held = self._held.get(target)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        left_bytes: int | None = None  # once the job has ended: what the pipe can hold of its output
        splices = held is None
        try:
            while left_bytes is None or left_bytes > 0:
                ready = dict(poll.poll())
                if left_bytes is None and self._wake_read in ready:
                    left_bytes = _PIPE_BYTES
                if read not in ready:
                    break
                passed = self._pass_by(read, target, left_bytes) if splices else 0
                splices = passed is not None and splices
                if not passed:
                    chunk = os.read(read, _CHUNK_BYTES)
                    if not chunk:
                        break
                    passed = len(chunk)
                    if self.tail is not None:
                        with self._feeding:
                            self.tail.feed(chunk)
                    if held is None:
                        _write_all(target, chunk)
                    else:
                        held.write(chunk)
                if left_bytes is not None:
                    left_bytes -= passed
        except OSError:
            pass  # the reader of our output is gone: closing the pipe tells the job so, by SIGPIPE, as without us
        finally:
            os.close(read)
            finished.release()

    def _pass_by(self, read: int, target: int, left_bytes: int | None) -> int | None:
        """Let the kernel move what a whole tail follows in the pipe already; return how many bytes that were.

        None: *target* takes nothing in this way (a terminal, a file that is appended to).
        """
        assert self.tail is not None
        waiting = int.from_bytes(ioctl(read, FIONREAD, bytes(4)), byteorder)
        if left_bytes is not None:
            waiting = min(waiting, left_bytes)
        spare = waiting - self.tail.max_bytes
        if spare < _WORTH_SPLICING_BYTES:
            return 0
        try:
            moved = os.splice(read, target, spare)
        except BlockingIOError:
            _wait_for_room(target)
            return 0
        except OSError as problem:
            if problem.errno != EINVAL:
                raise
            return None
        with self._feeding:
            self.tail.skip(moved)
        return moved


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            _wait_for_room(target)


def _wait_for_room(target: int) -> None:
    """Somebody who shares our output made it non-blocking: wait as it would."""
    room = select.poll()
    room.register(target, select.POLLOUT)
    room.poll()


def _unlinked_file() -> int:
    """Open a file without a name. Raises OSError."""
    directory = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  # file-hierarchy(7): /tmp may be memory
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        if problem.errno not in (EOPNOTSUPP, EISDIR):  # open(2): a file system, or a kernel, without O_TMPFILE
            raise
    path = os.path.join(directory, f"aura-run-{os.urandom(16).hex()}")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return file

"""The job's output on its way through us: kept for a ping's body (a tee), or held back until the job fails.

Only where asked for: without ``--quiet`` and ``--attach output`` the job writes to our own descriptors. Standard output
and standard error stay apart, each in its order and unbuffered; one thread for each moves bytes and nothing else.
What can't belong to the tail any more is moved from pipe to pipe by the kernel, uncopied (splice(2)).
Held output lies in memory up to a bound, then in an unlinked file; when that disk is full it passes straight through.
The threads run before the job does: a host that has none left must not leave it with a pipe that nobody reads. Where
memory is used up, output passes straight through by a buffer that is there from the beginning.
Only they wait for whoever reads our output; the main thread hears signals meanwhile.
"""

import _thread
import os
import select
from errno import EINVAL, EISDIR, EOPNOTSUPP
from fcntl import fcntl, ioctl
from sys import byteorder
from termios import FIONREAD
from time import monotonic

from aura_agent.process.tail import Tail
from aura_agent.wrapper.job import SIGCHLD, Signals

_CHUNK_BYTES = 1 << 16
_SHOWN_BYTES = 1 << 14
_HELD_IN_MEMORY_BYTES = 1 << 20  # for each of the two streams
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2)
_BEGIN_S = 5.0  # a thread that hasn't begun by then has no memory to begin with
_WORTH_SPLICING_BYTES = 1 << 15  # below that two copies cost less than a call more


class _Target:
    """One of our own two streams, and how much of it has been taken."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.taken_bytes = 0

    def write(self, view: memoryview) -> None:
        """Write all of *view*, however long that takes. Raises OSError: nobody takes it."""
        while view:
            try:
                taken_bytes = os.write(self.descriptor, view)
            except BlockingIOError:
                self.wait_for_room()
                continue
            self.taken_bytes += taken_bytes
            view = view[taken_bytes:]

    def wait_for_room(self) -> None:
        """Somebody who shares our output made it non-blocking: wait as it would."""
        room = select.poll()
        room.register(self.descriptor, select.POLLOUT)
        room.poll()


class _Held:
    """One stream's output, kept back until it is shown or dropped."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._memory = bytearray()
        self._file: int | None = None
        self._straight = False

    def write(self, chunk: memoryview) -> None:
        if self._straight:
            self._target.write(chunk)
            return
        try:
            if self._file is None and len(self._memory) + len(chunk) <= _HELD_IN_MEMORY_BYTES:
                self._memory += chunk
                return
            if self._file is None:
                self._file = _unlinked_file()
                self._spill(memoryview(self._memory))
                self._memory = bytearray()
            self._spill(chunk)
        except (OSError, MemoryError):
            self.show()
            self._straight = True
            self._target.write(chunk)

    def show(self) -> None:
        """Print what is held, and hold no more of it. Raises OSError: nobody takes it."""
        if self._file is not None:
            os.lseek(self._file, 0, os.SEEK_SET)
            while chunk := os.read(self._file, _SHOWN_BYTES):
                self._target.write(memoryview(chunk))
            os.close(self._file)
            self._file = None
        self._target.write(memoryview(self._memory))
        self._memory = bytearray()

    def _spill(self, chunk: memoryview) -> None:
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
        self._targets = (_Target(1), _Target(2))
        self._hold = hold
        self._shows = False
        self._opened: list[int] = []
        self._wake_read, self._wake_write = self._pipe()
        self._begun: list[_thread.LockType] = []
        self._done: list[_thread.LockType] = []
        ends = [self._pipe() for _ in (1, 2)]
        self.outputs = (ends[0][1], ends[1][1])  # what the job is to have as its stdout and stderr
        for target, (read, write) in zip(self._targets, ends, strict=True):
            try:
                fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass  # the user's pipe budget is used up (pipe(7)): a smaller pipe serves
            self._start_thread(read, target)
        deadline = monotonic() + _BEGIN_S
        if not all(begun.acquire(timeout=max(0.0, deadline - monotonic())) for begun in self._begun):
            self.abandon()
            raise RuntimeError("no memory for a thread")

    def _start_thread(self, read: int, target: _Target) -> None:
        begun, finished = _thread.allocate_lock(), _thread.allocate_lock()
        begun.acquire()
        finished.acquire()
        try:
            _thread.start_new_thread(self._move, (read, target, begun, finished))
        except BaseException:
            self.abandon()
            raise
        self._opened.remove(read)  # the thread's now
        self._begun.append(begun)
        self._done.append(finished)

    def started(self) -> None:
        """The job has its own descriptors: close ours, so that its end is seen."""
        for output in self.outputs:
            self._opened.remove(output)
            os.close(output)

    def abandon(self) -> None:
        """No job writes to the pipes: let the threads end. What they may still use stays open."""
        os.write(self._wake_write, b"x")
        self.started()

    def finish(self, signals: Signals, *, show: bool, timed_out: bool) -> None:
        """The job has ended: take what is in the pipes, and no more; a grandchild may keep its ends open. With *show*
        print what was held back, each stream to its own place.

        Nobody has to read it: what would have ended the job that writes, a signal or a time-out, ends this, and the
        rest is lost.
        """
        self._shows = show
        os.write(self._wake_write, b"x")
        if signals.see_out(self._is_done, self._progress, bounded=timed_out):
            self._close()
        else:
            self._feeding.acquire()  # the tail stays as it is, whatever the threads do until we end

    def _is_done(self) -> bool:
        return not any(finished.locked() for finished in self._done)

    def _progress(self) -> int:
        return sum(target.taken_bytes for target in self._targets)

    def _close(self) -> None:
        """Wait for the threads, and close what is open."""
        for finished in self._done:
            finished.acquire()
        self._done.clear()
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened.clear()

    def _pipe(self) -> tuple[int, int]:
        try:
            ends = os.pipe()
        except OSError:
            for descriptor in self._opened:
                os.close(descriptor)
            raise
        self._opened += ends
        return ends

    def _move(self, read: int, target: _Target, begun: "_thread.LockType", finished: "_thread.LockType") -> None:
        """One thread: see to one stream to its end."""
        try:
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            held = _Held(target) if self._hold else None
            begun.release()
            try:
                self._empty(read, target, held, buffer)
            finally:
                os.close(read)
            if held is not None:
                self._await_end()
                if self._shows:
                    held.show()
        except (OSError, MemoryError):
            pass  # the reader of our output is gone: closing the pipe tells the job so, by SIGPIPE, as without us
        finally:
            finished.release()
            os.kill(os.getpid(), SIGCHLD)

    def _await_end(self) -> None:
        woken = select.poll()
        woken.register(self._wake_read, select.POLLIN)
        woken.poll()

    def _empty(self, read: int, target: _Target, held: _Held | None, buffer: memoryview) -> None:
        """Move what comes out of *read*, until that ends or the job has ended. Raises OSError: nobody takes it."""
        poll = select.poll()
        poll.register(read, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        left_bytes: int | None = None  # once the job has ended: what the pipe can hold of its output
        splices = held is None
        while left_bytes is None or left_bytes > 0:
            ready = dict(poll.poll())
            if left_bytes is None and self._wake_read in ready:
                left_bytes = _PIPE_BYTES
            if read not in ready:
                break
            passed = self._pass_by(read, target, left_bytes) if splices else 0
            splices = passed is not None and splices
            if not passed:
                passed = os.readv(read, (buffer,))
                if not passed:
                    break
                chunk = buffer[:passed]
                self._feed(chunk)
                (target if held is None else held).write(chunk)
            if left_bytes is not None:
                left_bytes -= passed

    def _feed(self, chunk: memoryview) -> None:
        if (tail := self.tail) is not None:
            try:
                with self._feeding:
                    tail.feed(bytes(chunk))
            except MemoryError:
                self.tail = None  # the ping goes without it

    def _pass_by(self, read: int, target: _Target, left_bytes: int | None) -> int | None:
        """Let the kernel move what a whole tail follows in the pipe already; return how many bytes that were.

        None: *target* takes nothing in this way (a terminal, a file that is appended to).
        """
        if (tail := self.tail) is None:
            return None
        waiting = int.from_bytes(ioctl(read, FIONREAD, bytes(4)), byteorder)
        if left_bytes is not None:
            waiting = min(waiting, left_bytes)
        spare = waiting - tail.max_bytes
        if spare < _WORTH_SPLICING_BYTES:
            return 0
        try:
            moved = os.splice(read, target.descriptor, spare)
        except BlockingIOError:
            target.wait_for_room()
            return 0
        except OSError as problem:
            if problem.errno != EINVAL:
                raise
            return None
        target.taken_bytes += moved
        with self._feeding:
            tail.skip(moved)
        return moved


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

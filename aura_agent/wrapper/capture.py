"""The job's output on its way through us: kept for a ping's body (a tee), or held back until the job fails.

Only where asked for: without ``--quiet`` and ``--attach output`` the job writes to our own descriptors. Standard output
and standard error stay apart, each in its order and unbuffered; one thread for each moves bytes and nothing else.
Held output lies in memory up to a bound, then in an unlinked file; when that disk is full it passes straight through.
"""

import _thread
import os
import select

from aura_agent.process.tail import Tail

_CHUNK_BYTES = 1 << 16
_HELD_IN_MEMORY_BYTES = 3 << 20  # for each of the two streams
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2)


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
        """Print what is held, and hold no more of it."""
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
        self.tail = tail
        self._feeding = _thread.allocate_lock()
        self._held = {target: _Held(target) for target in (1, 2)} if hold else {}
        self._wake_read, self._wake_write = os.pipe()
        self._pipes: list[tuple[int, int]] = []
        self._done: list[_thread.LockType] = []

    def open(self) -> tuple[int, int]:
        """Return the descriptors that the job is to have as its stdout and stderr."""
        import fcntl

        for _ in (1, 2):
            read, write = os.pipe()
            try:
                fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                pass  # the user's pipe budget is used up (pipe(7)): a smaller pipe serves
            self._pipes.append((read, write))
        return self._pipes[0][1], self._pipes[1][1]

    def pump(self) -> None:
        """Begin moving output; call it once the job has been started."""
        for target, (read, write) in zip((1, 2), self._pipes, strict=True):
            os.close(write)
            finished = _thread.allocate_lock()
            finished.acquire()
            self._done.append(finished)
            _thread.start_new_thread(self._move, (read, target, finished))
        self._pipes.clear()

    def finish(self) -> None:
        """The job has ended: take what is in the pipes, and no more; a grandchild may keep its ends open."""
        for read, write in self._pipes:
            os.close(read)
            os.close(write)
        self._pipes.clear()
        os.write(self._wake_write, b"x")
        for finished in self._done:
            finished.acquire()
        self._done.clear()
        os.read(self._wake_read, 1)

    def show(self) -> None:
        """Print what was held back, each stream to its own place."""
        for held in self._held.values():
            held.show()

    def _move(self, read: int, target: int, finished: "_thread.LockType") -> None:
        held = self._held.get(target)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll())
                if read not in ready:
                    break
                chunk = os.read(read, _CHUNK_BYTES)
                if not chunk:
                    break
                if self.tail is not None:
                    with self._feeding:
                        self.tail.feed(chunk)
                if held is None:
                    _write_all(target, chunk)
                else:
                    held.write(chunk)
        except OSError:
            pass  # the reader of our output is gone: closing the pipe tells the job so, by SIGPIPE, as without us
        finally:
            os.close(read)
            finished.release()


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _unlinked_file() -> int:
    directory = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # what O_TMPFILE makes has no name to guess
    return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

"""Reading a job's pipe from the event loop, without a thread and without a task.

A pump owns its descriptor and reads until the last holder of the other end is gone. That may be long after the job:
what a job leaves in the background holds its pipe too. So wait for the job, give the pump a moment to read what is
still in the pipe, take the tail and let the pump read on: closing would kill that grandchild with SIGPIPE.
"""

import asyncio
import os
from collections.abc import Callable

from aura_agent.process.tail import Tail

_CHUNK_BYTES = 65536  # what a pipe holds by default, pipe(7)


class Pump:
    """Feeds what comes out of *fd* to *tail* and *on_chunk* until end of file. Make it inside the running loop."""

    __slots__ = ("_ended", "_failure", "_fd", "_loop", "_on_chunk", "_tail")

    def __init__(self, fd: int, tail: Tail | None = None, on_chunk: Callable[[bytes], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd: int | None = fd
        self._tail = tail
        self._on_chunk = on_chunk
        self._ended = asyncio.Event()
        self._failure: Exception | None = None
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    @property
    def open(self) -> bool:
        """Whether somebody still holds the other end."""
        return self._fd is not None

    async def drained(self, timeout_s: float | None = None) -> bool:
        """Wait for end of file, at most *timeout_s*; False: somebody still holds the pipe, and the pump reads on.

        Raises what *on_chunk* raised first; the pipe is read to its end all the same, so that the job never blocks.
        """
        if self.open:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ended.wait()
            except TimeoutError:
                return False
        if self._failure is not None:
            raise self._failure
        return True

    def release(self) -> None:
        """Keep reading so that nobody blocks or dies of SIGPIPE, but drop what comes from here on."""
        self._tail = None
        self._on_chunk = None

    def close(self) -> None:
        """Stop reading and close; who still writes gets SIGPIPE. For the end of the daemon, or after ``drained()``."""
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
        self._ended.set()

    def _readable(self) -> None:
        if self._fd is None:
            return
        try:
            chunk = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""  # EIO: how a terminal says end of file
        if not chunk:
            self.close()
            return
        if self._tail is not None:
            self._tail.feed(chunk)
        if self._on_chunk is not None and self._failure is None:
            try:
                self._on_chunk(chunk)
            except Exception as exc:  # noqa: BLE001 - kept for drained(): a broken reader must not block the job
                self._failure = exc


async def pump(fd: int, tail: Tail, on_chunk: Callable[[bytes], None] | None = None) -> None:
    """Read *fd* to its end, and close it: also when cancelled. Raises what *on_chunk* raised."""
    reader = Pump(fd, tail, on_chunk)
    try:
        await reader.drained()
    finally:
        reader.close()

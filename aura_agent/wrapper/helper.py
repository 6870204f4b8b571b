"""Work on the store in a process of its own: a disk that hangs delays neither the job, nor a signal, nor our exit.

A frozen file system or a dead NFS server keeps a system call from returning, and a thread in such a call keeps its
whole process from ending. So a forked helper does whatever may block on the store, and is waited for with a bound. What
a helper needs is imported before the fork: another thread of ours may be importing, and its locks stay locked in there.
"""

import os
from select import POLLIN, poll
from time import monotonic

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 5.0  # for what must become durable: a busy disk takes a second now and then
GLANCE_S = 1.0  # for all else
_MOST_DESCRIPTORS = 1 << 20


def ask(work: "Callable[[], bytes]", patience_s: float) -> bytes | None:
    """Return the result of *work*, done by a helper; None if that takes longer. Raises OSError if there can be none.

    If the helper fails, the result is empty.
    """
    reading, writing = os.pipe()
    try:
        try:
            fork_helper(lambda: _write(writing, work()), writing)
        finally:
            os.close(writing)
        return _read(reading, patience_s)
    finally:
        os.close(reading)


def leave_to_helper(work: "Callable[[], None]", *, keeps: int = -1, patience_s: float = 0.0) -> None:
    """Have *work* done by a helper that has the open file *keeps*, and wait for that at most *patience_s*."""
    try:
        reading, writing = os.pipe()
    except OSError:
        return
    try:
        fork_helper(work, writing, keeps)
    except OSError:
        pass
    finally:
        os.close(writing)
    if patience_s:
        _read(reading, patience_s)
    os.close(reading)


def fork_helper(work: "Callable[[], object]", end: int, keeps: int = -1) -> None:
    """Have *work* done by a process that has only *end* and *keeps* of our open files. Raises OSError.

    It closes *end* last, once its locks are free: whoever reads there needn't wait until its memory is freed, too.
    """
    if os.fork():
        return
    try:
        _close_all_but(end, keeps)
        work()
        _close_all_but(end)
        os.close(end)
    except BaseException:  # noqa: BLE001, S110  # the other end finds no answer
        pass
    finally:
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    first = 0
    for file in sorted(file for file in kept if file >= 0):
        os.closerange(first, file)
        first = file + 1
    os.closerange(first, _MOST_DESCRIPTORS)


def _write(pipe: int, answer: bytes) -> None:
    while answer:
        answer = answer[os.write(pipe, answer) :]


def _read(pipe: int, patience_s: float) -> bytes | None:
    """Return all that comes from *pipe* until its end; None if that takes longer."""
    deadline_s = monotonic() + patience_s
    poller = poll()
    poller.register(pipe, POLLIN)
    received = b""
    while poller.poll(max(0.0, deadline_s - monotonic()) * 1000):
        data = os.read(pipe, 4096)
        if not data:
            return received
        received += data
    return None

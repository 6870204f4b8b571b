"""Work on the store in a process of its own: a disk that hangs delays neither the job, nor a signal, nor our exit.

A frozen file system or a dead NFS server keeps a system call from returning, and a thread in such a call keeps its
whole process from ending. So a forked helper does whatever may block on the store, and is waited for with a bound. What
a helper needs is imported before the fork: another thread of ours may be importing, and its locks stay locked in there.
"""

import os
import sys
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SHUT_WR,
    SOCK_CLOEXEC,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from time import monotonic

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 5.0  # for what must become durable: a busy disk takes a second now and then
GLANCE_S = 1.0  # for all else
_MOST_DESCRIPTORS = 1 << 20
_INT_BYTES = 4


class Helper:
    """A forked process at the other end of a socket."""

    def __init__(self, work: "Callable[[socket], None]", *, keeps: int = -1) -> None:
        """Start *work*, which gets its end of the socket; of our descriptors it has *keeps* alone. Raises OSError."""
        self._socket, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            if os.fork() == 0:
                _work_and_exit(work, theirs, keeps)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._received = b""
        self.descriptor: int | None = None  # what it has opened for us

    def tell(self, message: bytes, *, more: bool = False) -> None:
        """Send *message*; the helper sees the end of what we say unless there is *more* to come."""
        try:
            self._socket.settimeout(GLANCE_S)
            self._socket.sendall(message)
            if not more:
                self._socket.shutdown(SHUT_WR)
        except OSError:
            pass  # it is gone, or hangs: that is seen when it is to answer

    def answer(self, patience_s: float, *, first: bool = False) -> bytes | None:
        """Return all that the helper says, or its *first* words; None if it takes longer."""
        deadline_s = monotonic() + patience_s
        while not (first and self._received):
            left_s = deadline_s - monotonic()
            if left_s <= 0:
                return None
            self._socket.settimeout(left_s)
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, CMSG_LEN(_INT_BYTES), MSG_CMSG_CLOEXEC)
            except TimeoutError:
                return None
            except OSError:
                break
            for _, kind, content in ancillary:
                if kind == SCM_RIGHTS:
                    self.descriptor = int.from_bytes(content[:_INT_BYTES], sys.byteorder)
            if not data:
                break
            self._received += data
        return self._received

    def close(self) -> None:
        self._socket.close()


def give(to: socket, message: bytes, descriptor: int | None = None) -> None:
    """Say *message*, with an open file, from within a helper. Raises OSError: nobody listens any more."""
    if descriptor is None:
        to.sendall(message)
    else:
        to.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, descriptor.to_bytes(_INT_BYTES, sys.byteorder))])


def heard(of: socket) -> bytes:
    """Return all that is said to a helper, until the other end has nothing more to say or is gone."""
    received = b""
    while data := of.recv(1 << 16):
        received += data
    return received


def ask(work: "Callable[[], bytes]", patience_s: float) -> bytes | None:
    """Return what *work* does, done by a helper; None if that takes longer. Raises OSError if there can be none."""
    helper = Helper(lambda to: give(to, work()))
    try:
        return helper.answer(patience_s)
    finally:
        helper.close()


def leave_to_helper(work: "Callable[[], None]", *, keeps: int = -1, patience_s: float = 0.0) -> None:
    """Have *work* done, and wait for that at most *patience_s*."""
    try:
        helper = Helper(lambda _: work(), keeps=keeps)
    except OSError:
        return
    if patience_s:
        helper.answer(patience_s)
    helper.close()


def _work_and_exit(work: "Callable[[socket], None]", to: socket, keeps: int) -> None:
    """Be the helper: without our descriptors, or whoever reads the job's output would wait for us."""
    try:
        first = 0
        for kept in sorted({to.fileno(), *([keeps] if keeps >= 0 else [])}):
            os.closerange(first, kept)
            first = kept + 1
        os.closerange(first, _MOST_DESCRIPTORS)
        work(to)
    except BaseException:  # noqa: BLE001, S110  # the other end finds no answer
        pass
    finally:
        os._exit(0)

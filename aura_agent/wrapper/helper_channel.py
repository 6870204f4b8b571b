"""A conversation with a helper, over a socket: it can hand over a file that it has opened and locked."""

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

from aura_agent.wrapper.helper import GLANCE_S, fork_helper

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable

_INT_BYTES = 4


class Helper:
    """A forked process at the other end of a socket."""

    def __init__(self, work: "Callable[[socket], None]") -> None:
        """Start *work*, which gets its end of the socket. Raises OSError."""
        self._socket, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            fork_helper(lambda: work(theirs), theirs.fileno())
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

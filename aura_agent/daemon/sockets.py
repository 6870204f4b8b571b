"""How the daemon comes by its Unix sockets: with their rights from the start, and never in somebody's place."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aura_agent.private_files import make_parents


def bind_socket(path: str, mode: int) -> socket.socket:
    """Return a Unix socket bound at *path*, in a directory made 0755 if it is missing; one left behind is replaced.

    Raises OSError; one that somebody still answers on is ``EADDRINUSE``.
    """
    make_parents(os.path.dirname(path), 0o755)  # each socket in it decides for itself who may speak
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


def remove_socket(path: str, inode: int) -> None:
    """Remove the socket at *path* at a clean stop, unless another process has bound a new one since."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except OSError:
        pass  # the next start replaces it


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

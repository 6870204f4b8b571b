"""aura-run's side of the daemon's socket: introduce the run, hear what the config knows of it, hand over its outcome.

All waiting for one connection together takes at most a second: a daemon that doesn't answer by then counts as absent,
and the report goes to the spool instead.
"""

import os
import sys
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket
from time import monotonic

from aura_agent.report.wire import MAX_LINE_BYTES, decode, encode

PATIENCE_S = 1.0


class Refused(Exception):  # an answer, not a failure
    """The daemon answers, but takes no report from this user."""


class NotTrusted(PermissionError):
    """Somebody answers whom root must not believe."""


class Busy(Exception):  # an answer, too
    """The daemon answers, but can't keep this report now."""


class Daemon:
    """One connection. While it is open, it is the record that the run goes on.

    Methods raise TimeoutError when *patience_s* is used up, and another OSError when nobody is at the other end.
    """

    def __init__(self, path: str, patience_s: float = PATIENCE_S) -> None:
        """Connect. Raises OSError: nobody answers there."""
        self._left_s = patience_s
        self._received = b""
        self._socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            self._socket.settimeout(patience_s)
            self._socket.connect(path)
            _check_peer(self._socket, path)
        except OSError:
            self._socket.close()
            raise

    def introduce(self, fields: dict[str, str]) -> None:
        """Say that the run has begun. Raises OSError."""
        self._send(encode("start", fields))

    def settings(self) -> dict[str, str]:
        """Return what the config knows of the run that was introduced. Raises OSError, Refused.

        A daemon that has no room for us, or doesn't understand, is as good as none.
        """
        verb, fields = self._answer()
        if verb != "job":
            raise OSError(16, "the daemon is busy")
        return fields

    def hand_over(self, record: bytes) -> None:
        """Return once the daemon has made *record* durable. Raises OSError, Refused, Busy."""
        self._send(record)
        while True:
            verb, fields = self._answer()
            if verb == "ok":
                return
            if verb != "job":
                raise Busy(fields.get("reason", ""))

    def close(self) -> None:
        self._socket.close()

    def _send(self, line: bytes) -> None:
        started = self._start_waiting()
        try:
            self._socket.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            # A stranger is answered before he has said anything: that answer counts, to whatever is said.
            if not self._received:
                self._received = self._socket.recv(65536)
            if not self._received:
                raise
        finally:
            self._left_s -= monotonic() - started

    def _answer(self) -> tuple[str, dict[str, str]]:
        while b"\n" not in self._received:
            if len(self._received) > MAX_LINE_BYTES:
                raise OSError(90, "the daemon's answer is too long")
            started = self._start_waiting()
            try:
                received = self._socket.recv(65536)
            finally:
                self._left_s -= monotonic() - started
            if not received:
                raise OSError(104, "the daemon closed the connection")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        try:
            verb, fields = decode(line)
        except ValueError:
            raise OSError(71, "the daemon's answer makes no sense") from None
        if verb == "refused":
            raise Refused(fields.get("reason", ""))
        return verb, fields

    def _start_waiting(self) -> float:
        if self._left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(self._left_s)
        return monotonic()


def _check_peer(connection: socket, path: str) -> None:
    """Raise NotTrusted: we are root, and any user may have put this socket there, to learn what runs.

    An agent in a pod is not root, and its socket lies in a volume of the pod's.
    """
    if os.geteuid() != 0:
        return
    credentials = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)  # struct ucred: pid, uid, gid (unix(7))
    uid = int.from_bytes(credentials[4:8], sys.byteorder)
    directory = os.path.dirname(path) or "."
    place = os.stat(directory)
    is_shared = place.st_mode & 0o1000 != 0  # as /tmp is: whoever likes keeps files there
    if uid != 0 and (is_shared or place.st_uid not in (0, uid)):
        raise NotTrusted(1, f"uid {uid} listens there, and {directory} is not the agent's alone")

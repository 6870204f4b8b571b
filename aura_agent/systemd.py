"""The protocol of sd_notify(3) and sd_watchdog_enabled(3), without libsystemd.

One datagram per message to the socket that NOTIFY_SOCKET names; without that variable everything here does nothing.
Telling the supervisor never fails the caller: what can't be sent is dropped, and the methods say so. VARIABLES must not
be handed on to a job, which could otherwise speak for the daemon.
"""

import os
import socket
import time
from collections.abc import Mapping

VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
_PATIENCE_S = 1.0  # for what must arrive: the supervisor's queue of datagrams may be full for a moment
_MAX_STATUS_CHARACTERS = 500


class Notifier:
    """Speaks to the supervisor at *address*: a path, ``@name`` in the abstract namespace, or nothing.

    *watchdog_s* is the supervisor's time-out, None where it sets none: feed the watchdog at least twice as often.
    """

    def __init__(self, address: str = "", *, watchdog_s: float | None = None) -> None:
        self._address = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
        self.watchdog_s = watchdog_s if address else None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, pid: int | None = None) -> "Notifier":
        """Return the notifier that the environment asks for; *pid* is this process, if it isn't the caller's."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) < 2:
            return cls()  # vsock: is for virtual machines, and everything else is nothing that sd_notify(3) knows
        return cls(address, watchdog_s=_watchdog_s(environ, os.getpid() if pid is None else pid))

    @property
    def enabled(self) -> bool:
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """Say that start-up, or a reload, is over."""
        return self._send("READY=1" + _status_line(status), patient=True)

    def reloading(self) -> bool:
        """Say that a reload has begun; ``ready`` ends it. The time stamp is what Type=notify-reload asks for."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}", patient=True)

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1" + _status_line(status), patient=True)

    def status(self, text: str) -> bool:
        """Show *text* in ``systemctl status``; it is public, and one line."""
        return self._send(_status_line(text).lstrip("\n"))

    def watchdog(self) -> bool:
        """Say that the caller is alive."""
        return self._send("WATCHDOG=1")

    def _send(self, message: str, *, patient: bool = False) -> bool:
        """Return whether *message* was handed over; True also if nobody wants it."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_PATIENCE_S if patient else 0)
                sender.sendto(message.encode(errors="replace"), self._address)
        except OSError:
            return False
        return True


def _status_line(text: str) -> str:
    line = " ".join(text.split())[:_MAX_STATUS_CHARACTERS]
    return f"\nSTATUS={line}" if line else ""


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the time-out in seconds; None if there is none, or it is meant for another process."""
    usec, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit()) or len(usec) > 18 or int(usec) == 0:
        return None
    return int(usec) / 1e6 if owner in {"", str(pid)} else None

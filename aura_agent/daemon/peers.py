"""Who may report runs: users and groups by name, checked against what the kernel says of a connection's other end."""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as SO_PEERCRED tells it (unix(7))."""

    pid: int
    uid: int
    gid: int

    @property
    def user(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", credentials))


def may_report(peer: Peer, reporters: Iterable[str]) -> bool:
    """Whether *peer* is root, us, or among *reporters*: user names, numeric uids, ``@group`` or ``@gid``.

    Names that this host doesn't know let nobody in.
    """
    return peer.uid in (0, os.geteuid()) or any(_covers(name, peer) for name in reporters)


def _covers(name: str, peer: Peer) -> bool:
    try:
        if not name.startswith("@"):
            return peer.uid == (int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
        if name[1:].isdecimal():
            return peer.gid == int(name[1:])
        group = grp.getgrnam(name[1:])
        return peer.gid == group.gr_gid or pwd.getpwuid(peer.uid).pw_name in group.gr_mem
    except KeyError:
        return False

"""Who may report runs: users and groups by name, checked against what the kernel says of a connection's other end."""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import IPv6Address, ip_address

from aura_agent.config.models import Config
from aura_agent.report.ping_url import host_of
from aura_agent.report.record import Ref

_REMEMBERED_S = 10.0  # somebody may be put into a group at any time
_REMEMBERED_PEERS = 1000
_MAX_ID_CHARS = 48  # of the 64 that a run id may have


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


@dataclass(frozen=True, slots=True)
class Rights:
    """What a peer may report: *everything*, or each of *jobs* with the heartbeat that the config gives it.

    *is_us*: the peer is root or the daemon's user, who could do by himself what the daemon does for him.
    """

    everything: bool
    jobs: frozenset[str] = frozenset()
    is_us: bool = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.jobs)

    def permitted(self, fields: dict[str, str], matching: Sequence[str], config: Config) -> dict[str, str] | None:
        """Return the *fields* of a report as they may be kept; None: they may not be.

        *matching* are the jobs whose command the run has. Who may report a job alone can't choose its heartbeat.
        """
        if self.everything:
            return fields if self.is_us or not _leads_here(fields.get("ref", "")) else None
        ref, named = fields.get("ref", ""), fields.get("job", "")
        names = [named] if named in self.jobs else [name for name in matching if name in self.jobs]
        names = names or [name for name in self.jobs if ref == _own_ref(name, config)]
        if len(names) != 1:
            return None
        own = _own_ref(names[0], config)
        if ref not in ("", own) and not ref.startswith(Ref.AUTO):
            return None
        return fields | {"job": names[0], "ref": own}


def _own_ref(job: str, config: Config) -> str:
    return f"{Ref.HEARTBEAT}{config.jobs[job].heartbeat or job}"


def rights_of(peer: Peer, config: Config) -> Rights:
    """Return the rights that *config* gives *peer*: root, we, and who is among ``[agent] reporters`` have all.

    Reporters are user names, numeric uids, ``@group`` or ``@gid``; an unknown name counts for no user.
    """
    if peer.uid in (0, os.geteuid()):
        return Rights(everything=True, is_us=True)
    if any(_covers(name, peer) for name in config.agent.reporters):
        return Rights(everything=True)
    covers = cache(partial(_covers, peer=peer))
    jobs = (name for name, job in config.jobs.items() if any(map(covers, job.reporters)))
    return Rights(everything=False, jobs=frozenset(jobs))


def _leads_here(ref: str) -> bool:
    """Whether *ref* is a URL that is written as one of this host: the daemon reaches services that the peer may not."""
    if not ref.startswith(Ref.URL):
        return False
    try:
        host = host_of(ref.removeprefix(Ref.URL))
    except ValueError:
        return False  # it is refused for that
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if name == "localhost" or name.endswith((".localhost", "ip6-localhost", "ip6-loopback")):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        try:
            address = ip_address(socket.inet_aton(name))  # 127.1 and 2130706433, as the resolver reads them
        except OSError:
            return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback or (mapped or address).is_unspecified


class RightsOfPeers:
    """What peers may report, remembered for a while: a stranger who comes again and again costs no look-up of names."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._known: dict[tuple[int, int], tuple[float, Rights]] = {}

    def of(self, peer: Peer, config: Config, now_s: float) -> Rights:
        """Return the rights that *config* gives *peer*; *now_s* is by a clock that only goes forwards."""
        if self._config is not config or len(self._known) >= _REMEMBERED_PEERS:
            self._config = config
            self._known.clear()
        known = self._known.get((peer.uid, peer.gid))
        if known is not None and now_s - known[0] < _REMEMBERED_S:
            return known[1]
        rights = rights_of(peer, config)
        self._known[peer.uid, peer.gid] = (now_s, rights)
        return rights


def own_run_id(peer: Peer, run_id: str) -> str:
    """Return the id under which a run is kept that *peer* calls *run_id*: no user ends another's run.

    Ids of root and of ourselves are the generated ones, of hexadecimal digits, and stay as they are.
    """
    return run_id if peer.uid in (0, os.geteuid()) else f"{run_id[:_MAX_ID_CHARS]}u{peer.uid}"


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

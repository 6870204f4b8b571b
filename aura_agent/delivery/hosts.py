"""How hard each host is asked, and when one that doesn't answer is asked again. Pure: time and randomness come in.

A host's share of the attempts in flight grows with its answers and shrinks with its failures, and the last quarter of
the slots is never one host's alone: one that hangs can't hold up the others. Of the share, half is for ping URLs that
haven't just hung.

One ping URL never speaks for its host: an answer such as 503, or none over an open connection, backs off that URL. A
host is *down* when several attempts in a row could not connect, or when different URLs fail in a row with no good
answer between them. Then it is left alone but for one probe at a time, however much waits for it, on a schedule short
enough to notice soon that a network is back. The URL that has been tried least is the next probe. The first good answer
opens the host again, and has the other hosts that are down probed at once.

Instants are seconds on any clock that only goes forward.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from aura_agent.delivery.backoff import CAP_S, delay_s

PROBE_CAP_S = 60.0  # between the probes of a host that doesn't answer at all; one that answers 5xx has up to CAP_S
_UNKNOWN_WINDOW = 4
_DOWN_AFTER = 3  # failures in a row, to connect or of as many URLs: one reset connection is no outage
_SHARED = 4  # one slot in so many is for other hosts
_LAST_CALL_S = (2.0, 10.0)  # how long before an entry expires it is tried once more
_SOONEST_LAST_CALL_S = 1.0


class Failure(Enum):
    """How an attempt failed: without a connection, without an answer in time, it broke off, or by an answer."""

    CONNECT = auto()
    HANG = auto()
    BROKEN = auto()
    ERROR = auto()


@dataclass(frozen=True, slots=True)
class Slow:
    """The URLs of a host that have just hung, and how many more attempts may begin to them."""

    urls: frozenset[int]
    room: int


@dataclass(slots=True)
class _Host:
    """What is known of one host. *probes*: how many have failed since it is down, 0 while it isn't.

    *unconnected* counts the attempts in a row that could not connect, *failing* are the URLs that have failed since
    the last good answer, *hung* those whose last attempt hung, *in_flight* those under way.
    """

    window: int
    in_flight: list[int] = field(default_factory=list)
    unconnected: int = 0
    failing: set[int] = field(default_factory=set)
    hung: set[int] = field(default_factory=set)
    probes: int = 0
    closed_until_s: float = 0.0


class Hosts:
    """The hosts of one courier, which has *limit* attempts in flight at the most."""

    def __init__(self, limit: int, rng: random.Random) -> None:
        self._rng = rng
        self._widest = max(1, limit - limit // _SHARED)
        self._hosts: dict[str, _Host] = {}
        self._held_until_s: dict[str, float] = {}  # by host, where one has asked to be left alone

    @property
    def unknown_room(self) -> int:
        """How many attempts may begin to a host that ``rooms`` doesn't name."""
        return min(_UNKNOWN_WINDOW, self._widest)

    def rooms(self, now_s: float) -> Mapping[str, int]:
        """Return how many more attempts may begin now, by host."""
        held = {name: 0 for name in self._held_until_s if self.held_s(name, now_s) > 0}
        return {name: self._room(host, now_s) for name, host in self._hosts.items()} | held

    def probes(self, now_s: float) -> frozenset[str]:
        """Return the hosts that are down and due for a probe."""
        return frozenset(name for name, room in self.rooms(now_s).items() if room and self._hosts[name].probes)

    def next_open_s(self, now_s: float) -> float | None:
        """Return how long until a probe is due, or a host may be asked again that asked to be left alone.

        None: there is no such host, or each that is down has its probe under way.
        """
        waits = [wait_s for name in self._held_until_s if (wait_s := self.held_s(name, now_s)) > 0]
        for name, host in self._hosts.items():
            if host.probes and not host.in_flight:
                waits.append(max(host.closed_until_s - now_s, self.held_s(name, now_s)))
        return max(0.0, min(waits)) if waits else None

    def down(self) -> frozenset[str]:
        """Return the hosts that don't answer."""
        return frozenset(name for name, host in self._hosts.items() if host.probes)

    def began(self, name: str, url: int) -> None:
        """An attempt to *url*, a number that stands for it, has begun."""
        self._known(name).in_flight.append(url)

    def given_up(self, name: str, url: int) -> None:
        """An attempt has ended without saying anything of the host."""
        host = self._known(name)
        if url in host.in_flight:
            host.in_flight.remove(url)

    def answered(self, name: str, url: int) -> bool:
        """An attempt has ended with an answer that only a living service gives; return whether it was down."""
        self.given_up(name, url)
        host = self._known(name)
        host.hung.discard(url)
        host.window = min(self._widest, host.window + 1)
        return self.lives(name)

    def slow(self) -> dict[str, Slow]:
        """Return by host the URLs that have just hung, and their part of its room."""
        return {
            name: Slow(
                frozenset(host.hung), max(0, max(1, host.window // 2) - sum(url in host.hung for url in host.in_flight))
            )
            for name, host in self._hosts.items()
            if host.hung
        }

    def lives(self, name: str) -> bool:
        """Somebody has had such an answer of it, perhaps not by an attempt of ours; return whether it was down.

        Then it may be the network that is back: every other host that is down is due for a probe.
        """
        host = self._hosts.get(name)
        if host is None:
            return False
        was_down = host.probes > 0
        host.unconnected, host.probes, host.closed_until_s = 0, 0, 0.0
        host.failing.clear()
        if was_down:
            self.probe_now()
        return was_down

    def probe_now(self) -> None:
        """A probe of each host that is down is due."""
        for host in self._hosts.values():
            host.closed_until_s = 0.0

    def failed(self, name: str, url: int, failure: Failure, now_s: float, *, left_s: float | None = None) -> bool:
        """An attempt to *url* has failed; return whether that is news: its host is down.

        *left_s* is for how long what was sent stays true.
        """
        self.given_up(name, url)
        host = self._known(name)
        host.failing.add(url)
        host.unconnected = host.unconnected + 1 if failure is Failure.CONNECT else 0
        (host.hung.add if failure is Failure.HANG else host.hung.discard)(url)
        if now_s < host.closed_until_s:
            return False  # it began before the host was known to be down
        if not host.probes and host.unconnected < _DOWN_AFTER and len(host.failing) < _DOWN_AFTER:
            if failure is not Failure.ERROR:
                host.window = max(self.unknown_room, host.window // 2)
            return False
        host.probes += 1
        host.window = 1
        cap_s = CAP_S if failure is Failure.ERROR else PROBE_CAP_S
        host.closed_until_s = now_s + retry_delay_s(host.probes, self._rng, cap_s=cap_s, left_s=left_s)
        return host.probes == 1

    def hold(self, name: str, until_s: float) -> None:
        """It asked to be left alone until then; no answer before that ends it."""
        self._held_until_s[name] = max(until_s, self._held_until_s.get(name, 0.0))

    def held_s(self, name: str, now_s: float) -> float:
        """Return for how long it is to be left alone because it asked for that."""
        return max(0.0, self._held_until_s.get(name, 0.0) - now_s)

    def forget(self, name: str) -> None:
        """Nothing waits for it any more: nothing is left to probe it with."""
        host = self._hosts.get(name)
        if host is not None and not host.in_flight:
            del self._hosts[name]

    def _known(self, name: str) -> _Host:
        return self._hosts.setdefault(name, _Host(self.unknown_room))

    def _room(self, host: _Host, now_s: float) -> int:
        return 0 if now_s < host.closed_until_s else max(0, host.window - len(host.in_flight))


def retry_delay_s(
    failures: int, rng: random.Random, *, cap_s: float = PROBE_CAP_S, left_s: float | None = None
) -> float:
    """Return the wait after *failures* in a row: full jitter up to 1, 2, 4, … s, *cap_s* at the most.

    Where that would come too late for what expires in *left_s*, it is tried once more shortly before: each agent at a
    moment of its own, for many have jobs that are due at the same full hour.
    """
    wait_s = delay_s(failures, rng, cap_s=cap_s)
    if left_s is None:
        return wait_s
    last_call_s = left_s - rng.uniform(*_LAST_CALL_S)
    return last_call_s if _SOONEST_LAST_CALL_S <= last_call_s < wait_s else wait_s

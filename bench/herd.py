"""Ten thousand agents after one outage of an hour: when do their pings arrive? In simulated time, with the real policy.

What decides is the courier's own code: ``Hosts``, ``Pace``, the back-off, the order by expiry. What is simulated is the
world around it: clocks, jobs that succeed, a network that is away for an hour and then back for all at once. Agents
lose it in two ways: half of them are refused at once, half wait for their connections in vain.

    .venv/bin/python -m bench.herd            the figures alone; make bench-delivery also draws docs/herd.svg
"""

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aura_agent.delivery.backoff import CAP_S
from aura_agent.delivery.courier import MAX_RATE_PER_S
from aura_agent.delivery.hosts import Failure, Hosts, retry_delay_s
from aura_agent.delivery.pace import Pace

DRAWING = Path(__file__).parent.parent / "docs" / "herd.svg"
_BEGIN_S, _BACK_S = 37.0, 3637.0  # away from the full minutes at which jobs end
_UNTIL_S = _BACK_S + 180.0
_PERIODS_S = (300.0, 900.0, 3600.0, 86_400.0)
_LIMIT = 16
_HOST = "aura"
_CONNECT_S = 10.0
# Of what expires sooner after the network's return nobody can ask that it arrives: a look every few seconds, by each of
# ten thousand agents, for an hour, is what it would take.
_TOO_SOON_S = 15.0


@dataclass(slots=True)
class _Stream:
    """One heartbeat of an agent, and its newest success that waits, if there is one."""

    period_s: float
    next_run_s: float
    expires_s: float | None = None
    due_s: float = 0.0
    tries: int = 0
    sending_s: float | None = None  # the expiry of what is under way
    in_vain: bool = False  # and whether the network was away when it began


@dataclass(slots=True)
class _Agent:
    hosts: Hosts
    pace: Pace
    rng: random.Random
    refused: bool
    streams: list[_Stream]
    wakes_at_s: float = float("inf")


@dataclass
class Herd:
    """What came of one simulation. Instants are seconds after the network's return."""

    agents: int
    arrivals: list[float] = field(default_factory=list)
    drained_s: float = 0.0  # when the last ping that had waited was in
    waited: int = 0  # how many waited at the return, and were true
    missed: list[float] = field(default_factory=list)  # when those expired that waited and never arrived
    attempts: int = 0  # during the outage

    @property
    def per_second(self) -> list[int]:
        counts = Counter(int(at_s) for at_s in self.arrivals)
        return [counts[second] for second in range(int(self.drained_s) + 1)]

    @property
    def mean(self) -> float:
        return sum(self.per_second) / len(self.per_second)

    @property
    def peak(self) -> int:
        return max(self.per_second)

    @property
    def missed_late(self) -> int:
        """How many missed their deadline although they had the time."""
        return sum(at_s > _TOO_SOON_S for at_s in self.missed)


class Simulation:
    """One run; *seed* makes it repeatable."""

    def __init__(self, agents: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, int, _Stream | None]] = []  # when, tie-break, agent, end of what
        self._count = 0
        self._agents = [self._agent(number) for number in range(agents)]
        self._waited: set[tuple[int, int]] = set()
        self.herd = Herd(agents)

    def run(self) -> Herd:
        noted = False
        while self._events:
            now_s, _, number, ended = heapq.heappop(self._events)
            if now_s > _UNTIL_S:
                break
            if now_s >= _BACK_S and not noted:
                noted = True
                self._note_what_waits()
            agent = self._agents[number]
            if ended is not None:
                self._end(agent, number, ended, now_s)
            elif now_s >= agent.wakes_at_s:
                agent.wakes_at_s = float("inf")
            self._turn(agent, number, now_s)
        self.herd.arrivals = [at_s for at_s in self.herd.arrivals if at_s <= self.herd.drained_s]
        return self.herd

    def _agent(self, number: int) -> _Agent:
        rng = random.Random(self._rng.random())
        streams = []
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8])):
            period_s = rng.choice(_PERIODS_S)
            # Half of all jobs run at full five minutes, as people write them; and it takes them a while.
            phase_s = rng.uniform(0, period_s) if rng.random() < 0.5 else rng.randrange(int(period_s // 300)) * 300.0
            streams.append(_Stream(period_s, phase_s + rng.uniform(0.5, 30.0)))
        agent = _Agent(Hosts(_LIMIT, rng), Pace(MAX_RATE_PER_S, 0.0), rng, rng.random() < 0.5, streams)
        for stream in streams:
            self._push(stream.next_run_s, number, None)
        return agent

    def _push(self, at_s: float, number: int, ended: _Stream | None) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, number, ended))

    def _turn(self, agent: _Agent, number: int, now_s: float) -> None:
        """What ``Courier`` does in a turn, with lists in place of a store."""
        for stream in agent.streams:
            if stream.next_run_s <= now_s:
                stream.expires_s, stream.due_s = stream.next_run_s + 1.25 * stream.period_s, 0.0
                stream.next_run_s += stream.period_s
                self._push(stream.next_run_s, number, None)
            if stream.expires_s is not None and stream.expires_s <= now_s:
                self._lose(number, stream)
        busy = sum(stream.sending_s is not None for stream in agent.streams)
        free = min(_LIMIT - busy, agent.pace.allows(now_s))
        probes = agent.hosts.probes(now_s) if free else frozenset()
        if probes:
            self._hurry(agent)
        room = agent.hosts.rooms(now_s).get(_HOST, agent.hosts.unknown_room)
        waiting = [stream for stream in agent.streams if stream.expires_s is not None and stream.sending_s is None]
        due = sorted((stream for stream in waiting if stream.due_s <= now_s), key=_expiry)
        for stream in due[: min(free, room)]:
            self._begin(agent, number, stream, now_s)
        if probes and not due:
            agent.hosts.forget(_HOST)
        self._sleep(agent, number, waiting, now_s)

    def _sleep(self, agent: _Agent, number: int, waiting: list[_Stream], now_s: float) -> None:
        probe_s = agent.hosts.next_open_s(now_s)
        if probe_s is not None:
            at_s = now_s + probe_s
        elif agent.hosts.down():
            return  # the end of the probe wakes us
        else:
            at_s = min((stream.due_s for stream in waiting if stream.due_s > now_s), default=float("inf"))
            if agent.pace.next_s() > 0 and any(stream.due_s <= now_s for stream in waiting):
                at_s = min(at_s, now_s + agent.pace.next_s())
        if at_s < agent.wakes_at_s:
            agent.wakes_at_s = at_s
            self._push(at_s, number, None)

    def _begin(self, agent: _Agent, number: int, stream: _Stream, now_s: float) -> None:
        agent.pace.spend(1)
        agent.hosts.began(_HOST, id(stream))
        stream.sending_s = stream.expires_s
        stream.in_vain = _BEGIN_S <= now_s < _BACK_S
        if stream.in_vain:
            self.herd.attempts += 1
            takes_s = agent.rng.uniform(0.001, 0.05) if agent.refused else _CONNECT_S
        else:
            takes_s = agent.rng.uniform(0.05, 0.3)
            if now_s >= _BACK_S:
                self.herd.arrivals.append(now_s - _BACK_S)
        self._push(now_s + takes_s, number, stream)

    def _end(self, agent: _Agent, number: int, stream: _Stream, now_s: float) -> None:
        sent_s, stream.sending_s = stream.sending_s, None
        if stream.in_vain:
            stream.tries += 1
            left_s = None if sent_s is None else sent_s - now_s
            stream.due_s = now_s + retry_delay_s(stream.tries, agent.rng, cap_s=CAP_S, left_s=left_s)
            agent.hosts.failed(_HOST, id(stream), Failure.CONNECT, now_s, left_s=left_s)
            return
        if agent.hosts.answered(_HOST, id(stream)):
            self._hurry(agent)
        stream.tries = 0
        if sent_s == stream.expires_s:
            stream.expires_s = None
        key = (number, id(stream))
        if key in self._waited:
            self._waited.discard(key)
            self.herd.drained_s = max(self.herd.drained_s, now_s - _BACK_S)

    def _hurry(self, agent: _Agent) -> None:
        for stream in agent.streams:
            if stream.tries:
                stream.due_s = 0.0

    def _lose(self, number: int, stream: _Stream) -> None:
        """What waits has expired. An attempt under way may still bring it in."""
        if stream.sending_s != stream.expires_s and (number, id(stream)) in self._waited:
            self._waited.discard((number, id(stream)))
            assert stream.expires_s is not None
            self.herd.missed.append(stream.expires_s - _BACK_S)
        stream.expires_s, stream.tries = None, 0

    def _note_what_waits(self) -> None:
        for number, agent in enumerate(self._agents):
            for stream in agent.streams:
                if stream.expires_s is not None and stream.expires_s > _BACK_S:
                    self._waited.add((number, id(stream)))
        self.herd.waited = len(self._waited)


def _expiry(stream: _Stream) -> float:
    return stream.expires_s or 0.0


def draw(herd: Herd) -> str:
    """Return the arrivals per second as an SVG."""
    width, height, left, bottom = 720, 240, 56, 28
    seconds, peak = herd.per_second, max(herd.peak, 3 * herd.mean)
    step = (width - left - 8) / len(seconds)

    def y(count: float) -> float:
        return 12 + (height - bottom - 12) * (1 - count / peak)

    def lines() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
            ' font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        )
        bars = "".join(
            f"M{left + at * step:.1f} {y(0):.1f}V{y(count):.1f}h{step * 0.85:.1f}V{y(0):.1f}z"
            for at, count in enumerate(seconds)
        )
        yield f'<path d="{bars}" fill="#4a7ebb"/>'
        for level, what in ((herd.mean, "mean"), (3 * herd.mean, "3 times the mean")):
            yield f'<path d="M{left} {y(level):.1f}H{width - 8}" stroke="#b33" stroke-dasharray="4 3"/>'
            yield f'<text x="{width - 8}" y="{y(level) - 3:.1f}" text-anchor="end" fill="#b33">{what}</text>'
            yield f'<text x="{left - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{level:.0f}/s</text>'
        for at in range(0, len(seconds), 10):
            yield f'<text x="{left + at * step:.1f}" y="{height - 12}">{at} s</text>'
        yield (
            f'<text x="{left}" y="{height - 1}">after the network is back: {len(herd.arrivals):,} pings of'
            f" {herd.agents:,} agents</text></svg>"
        )

    return "\n".join(lines()) + "\n"


def simulate(agents: int = 10_000, seed: int = 1) -> Herd:
    return Simulation(agents, seed).run()


def table(herd: Herd) -> list[tuple[str, str, str, str]]:
    """Return what was measured: what, the goal, how much, what is beside it."""
    return [
        (
            f"herd of {herd.agents:,}: peak second over the mean of the drain",
            "<= 3",
            f"{herd.peak / herd.mean:.2f}",
            f"{herd.peak}/s over {herd.mean:.0f}/s, drained in {herd.drained_s:.0f} s",
        ),
        (
            f"  expired of {herd.waited:,} true pings, with {_TOO_SOON_S:.0f} s or more to go",
            "0",
            str(herd.missed_late),
            f"{len(herd.missed) - herd.missed_late} with less",
        ),
        ("  attempts per agent and minute of outage", "", f"{herd.attempts / herd.agents / 60:.2f}", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000, help="agents")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for row in table(simulate(given.n, given.seed)):
        print("{:<66}{:>11}{:>9}   {}".format(*row))


if __name__ == "__main__":
    main()

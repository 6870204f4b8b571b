"""Three days without a network, in simulated time: 500 jobs, one store, the courier's own policy."""

import random
from collections import Counter

from aura_agent.delivery.hosts import Failure, Hosts
from aura_agent.outbox.claims import Ended, Rooms
from aura_agent.outbox.heartbeats import CachedHeartbeat
from aura_agent.outbox.store import Outbox
from aura_agent.report.record import Outcome
from aura_agent.secret import Secret
from tests.outbox.stores import MovedClock
from tests.reports import report_of

_HOST = "aura.example"
_DAYS = 3
_STEP_S = 360
_STEPS = _DAYS * 86_400 // _STEP_S
_PERIODS_S = (900.0, 21_600.0, 86_400.0, 7 * 86_400.0)


def test_three_days_of_outage_with_500_jobs() -> None:
    """Attempts stay few, the newest true success of each job arrives at the end, once, and nothing stale or failed."""
    rng = random.Random(3)
    clock = MovedClock()
    outbox = Outbox(None, clock, owner="test", hostname="host")
    hosts = Hosts(16, rng)
    beats = {f"beat{number}": rng.choice(_PERIODS_S) for number in range(500)}
    outbox.remember(
        [
            CachedHeartbeat(name, name, period_s, 600.0, "up", None, Secret(f"https://{_HOST}/{name}"), 0)
            for name, period_s in beats.items()
        ]
    )
    newest: dict[str, tuple[str, Outcome]] = {}
    sent: Counter[str] = Counter()
    now_s = attempts = 0

    def turn(*, away: bool) -> int:
        """What the courier does at one instant; return how many attempts that were."""
        nonlocal attempts
        made = 0
        ended: list[Ended] = []
        while True:
            probes = hosts.probes(now_s)
            rooms = Rooms(dict(hosts.rooms(now_s)), hosts.unknown_room, probes)
            claim = outbox.claim(16, rooms=rooms, ended=ended)
            ended = []
            if not claim.attempts:
                return made
            for attempt in claim.attempts:
                made += 1
                hosts.began(attempt.host, attempt.stream_id)
                if away:
                    hosts.failed(attempt.host, attempt.stream_id, Failure.CONNECT, now_s, left_s=attempt.left_s)
                    ended.append(Ended(attempt=attempt, reason="away", delay_s=rng.uniform(0, 300)))
                else:
                    hosts.answered(attempt.host, attempt.stream_id)
                    sent[attempt.run_id] += 1
                    ended.append(Ended(attempt=attempt, reason="", acknowledged=True))

    due_s = {name: rng.uniform(0, min(period_s, 43_200)) for name, period_s in beats.items()}
    for step in range(_STEPS):
        now_s = step * _STEP_S
        for name, period_s in beats.items():
            if due_s[name] <= now_s:
                due_s[name] += max(period_s, 7200.0)  # the most frequent ones are left out now and then
                newest[name] = _run(outbox, clock, name, step, rng)
        attempts += turn(away=True)
        clock.advance(_STEP_S)
    now_s += 600
    turn(away=False)

    states = dict(outbox.connection.execute("SELECT run_id, state FROM entries").fetchall())
    assert 0 < attempts < 2 * _STEPS
    assert set(sent.values()) == {1}
    for name, (run_id, outcome) in newest.items():
        if outcome is Outcome.SUCCEEDED:
            fresh = beats[name] + 600 > _age_s(outbox, clock, run_id)
            assert (states[run_id], sent[run_id]) == (("delivered", 1) if fresh else ("expired", 0))
    assert set(sent) <= {run_id for run_id, _ in newest.values()}
    assert "waiting" not in states.values()


def _run(outbox: Outbox, clock: MovedClock, name: str, number: int, rng: random.Random) -> tuple[str, Outcome]:
    outcome = rng.choice([Outcome.SUCCEEDED] * 9 + [Outcome.FAILED])
    run_id = f"run{name}n{number}"
    outbox.accept([report_of(run_id, clock.read(), outcome, ref=f"heartbeat:{name}", job=name)])
    return run_id, outcome


def _age_s(outbox: Outbox, clock: MovedClock, run_id: str) -> float:
    (ended_ns,) = outbox.connection.execute("SELECT ended_boot_ns FROM entries WHERE run_id = ?", (run_id,)).fetchone()
    return float(clock.read().boot_ns - ended_ns) / 1e9

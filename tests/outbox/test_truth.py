"""The promises of the outbox, held against a naive reading of everything that ever happened.

Random lives of a store: runs that overlap, failures, attempts that succeed, fail, hang or are lost, new processes,
reboots, steps of the wall clock, heartbeats that become known late under several names. The oracle keeps the whole
log and knows none of the store's shortcuts.
"""

import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from aura_agent.clock import Reading
from aura_agent.outbox.claims import Attempt
from aura_agent.outbox.store import LEASE_S
from aura_agent.outbox.streams import CachedHeartbeat
from aura_agent.report import boots
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from tests.outbox.stores import SECOND_NS, MovedClock, delivered, not_delivered, open_outbox

_LIFETIME_S = 4200.0
_UNKNOWN_S = 86_400.0
_FAILURES = [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.KILLED, Outcome.NOT_STARTED, Outcome.LOST]


@dataclass
class _Run:
    """A run as the oracle remembers it; *heartbeat* is what it feeds in truth, whatever it was called."""

    heartbeat: str
    key: tuple[int, int, str]
    ended: Reading
    outcome: Outcome
    max_age_s: float | None
    replay_all: bool
    delivered: bool = False


@dataclass
class _Life:
    """One store, its oracle, and what may happen next."""

    rng: random.Random
    directory: Path
    clock: MovedClock
    log: dict[str, _Run] = field(default_factory=dict)
    open_runs: list[tuple[str, Reading, int]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    sent_ns: dict[Attempt, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    boot: int = 1
    runs: int = 0
    owner: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, mode=0o700)
        self._open()

    # -- what happens --------------------------------------------------------------------------------------------

    def step(self) -> None:
        happens = [self.begin] * 6 + [self.end] * 6 + [self.send] * 6 + [self.answer] * 6 + [self.wait] * 3
        happens += [self.learn, self.learn, self.restart, self.reboot, self.set_clock]
        self.rng.choice(happens)()

    def begin(self) -> None:
        self.runs += 1
        self.open_runs.append((f"run{self.runs:08}", self.clock.read(), self.boot))
        self.clock.advance(self.rng.choice([0.0, 0.5, 30.0]))

    def end(self) -> None:
        if not self.open_runs:
            return
        run_id, started, boot = self.open_runs.pop(self.rng.randrange(len(self.open_runs)))
        self._report(run_id, started, boot, self.rng.choice([Outcome.SUCCEEDED] * 20 + _FAILURES + [Outcome.SKIPPED]))

    def send(self) -> None:
        for attempt in self.outbox.claim(self.rng.choice([1, 8])).attempts:
            self._check(attempt)
            self.attempts.append(attempt)

    def answer(self) -> None:
        if not self.attempts:
            return
        attempt = self.attempts.pop(self.rng.randrange(len(self.attempts)))
        if self.rng.random() < 0.5:
            delivered(self.outbox, attempt, "200")
            self.log[attempt.run_id].delivered = True
        else:
            parked = self.rng.random() < 0.2
            not_delivered(self.outbox, attempt, "503", delay_s=3600.0 if parked else 5.0, parked=parked)

    def wait(self) -> None:
        self.clock.advance(self.rng.choice([1.0, 6.0, 6.0, 20.0, 20.0, LEASE_S + 1, 1800.0]))

    def learn(self) -> None:
        """A listing: it names more heartbeats than the last one did."""
        self.known.add(self.rng.choice(["one", "two"]))
        rows = [
            CachedHeartbeat(f"id-{name}", name, 3600, 600, "up", None, Secret(_url(name)), 0) for name in self.known
        ]
        self.outbox.remember(rows)

    def restart(self) -> None:
        """Killed: its attempts have no end that it knows of."""
        self.outbox.close()
        self.attempts.clear()
        self._open()

    def reboot(self) -> None:
        self.outbox.close()
        self.attempts.clear()
        for run_id, started, boot in self.open_runs:
            self._judge_later.append((run_id, started, boot))
        self.open_runs.clear()
        self.boot += 1
        self.clock.reading = Reading(7 * SECOND_NS, self.clock.read().wall_ns + 60 * SECOND_NS)
        self._open()
        for run_id, started, boot in self._judge_later:
            self._report(run_id, started, boot, Outcome.LOST)
        self._judge_later.clear()

    def set_clock(self) -> None:
        """The wall clock is wrong by an hour from now on."""
        now = self.clock.read()
        self.clock.reading = Reading(now.boot_ns, now.wall_ns + self.rng.choice([-1, 1]) * 3600 * SECOND_NS)

    def finish(self) -> None:
        """The network lasts: everything that may be sent is sent."""
        for name in ("one", "two"):
            self.known.add(name)
        self.learn()
        self.attempts.clear()
        self.clock.advance(LEASE_S + 1)
        self.outbox.hurry()
        while attempts := self.outbox.claim(4).attempts:
            for attempt in attempts:
                self._check(attempt)
                delivered(self.outbox, attempt, "200")
                self.log[attempt.run_id].delivered = True

    # -- what must hold ------------------------------------------------------------------------------------------

    def check_nothing_true_is_missing(self) -> None:
        """Each success is delivered, unless something on record says why not."""
        states = {
            row["run_id"]: row["state"] for row in self.outbox.connection.execute("SELECT run_id, state FROM entries")
        }
        for run_id, run in self.log.items():
            if run.outcome is not Outcome.SUCCEEDED or run.delivered:
                continue
            later = [other for other in self.log.values() if other.heartbeat == run.heartbeat and other.key > run.key]
            reasons = {
                "invalidated": any(other.outcome.withdraws for other in later),
                "superseded": any(other.outcome is Outcome.SUCCEEDED for other in later),
                "expired": self._may_be_expired(run),
            }
            assert reasons.get(states[run_id], False), (run_id, states[run_id], run, reasons)

    def _check(self, attempt: Attempt) -> None:
        """An attempt is made only for a success that nothing contradicts."""
        run = self.log[attempt.run_id]
        others = [other for other in self.log.values() if other.heartbeat == run.heartbeat]
        assert run.outcome is Outcome.SUCCEEDED
        assert not run.delivered
        assert not [other for other in others if other.outcome.withdraws and other.key > run.key]
        assert not [other for other in others if other.delivered and other.key > run.key]
        assert all(self.log[other.run_id].heartbeat != run.heartbeat for other in self._under_way())
        if run.key[0] == self.boot:
            age_s = (self.clock.read().boot_ns - run.ended.boot_ns) / 1e9
            assert age_s <= min(self._lifetime_s(attempt, run), run.max_age_s or _UNKNOWN_S)
        self.sent_ns[attempt] = self.clock.read().boot_ns

    def _under_way(self) -> list[Attempt]:
        """Return the attempts whose leases haven't run out."""
        now_ns = self.clock.read().boot_ns
        return [attempt for attempt in self.attempts if now_ns - self.sent_ns[attempt] < LEASE_S * 1e9]

    def _lifetime_s(self, attempt: Attempt, run: _Run) -> float:
        assert attempt.patience_known is (attempt.heartbeat_id is not None)
        return _LIFETIME_S if run.heartbeat in self.known and attempt.heartbeat_id else _UNKNOWN_S

    def _may_be_expired(self, run: _Run) -> bool:
        if run.key[0] != self.boot:
            return True  # across boots the wall clock decides, which this life keeps setting wrong
        age_s = (self.clock.read().boot_ns - run.ended.boot_ns) / 1e9
        return age_s > min(_LIFETIME_S, run.max_age_s or _UNKNOWN_S)

    # -- private -------------------------------------------------------------------------------------------------

    _judge_later: list[tuple[str, Reading, int]] = field(default_factory=list)

    def _open(self) -> None:
        """Open the store in the current boot, as a new process: the kernel's boot is always the newest line."""
        self.owner += 1
        own = boots.current_boot_id()
        lines = [f"boot{number}" for number in range(1, self.boot)] + [own]
        (self.directory / "boots").write_text("\n".join(lines) + "\n")
        self.outbox = open_outbox(self.directory, self.clock, f"owner{self.owner}")

    def _report(self, run_id: str, started: Reading, boot: int, outcome: Outcome) -> None:
        name = self.rng.choice(["one", "two"])
        ref = self.rng.choice([f"heartbeat:{name}", f"heartbeat:id-{name}", f"auto:{name}", f"url:{_url(name)}"])
        if ref.startswith("url:") and name not in self.known:
            ref = f"heartbeat:{name}"  # nobody could tell yet whose URL it is, and it can be sent
        run = _Run(
            heartbeat=name,
            key=(boot, started.boot_ns, run_id),
            ended=self.clock.read() if boot == self.boot else started,
            outcome=outcome,
            max_age_s=self.rng.choice([None, None, 600.0]),
            replay_all=self.rng.random() < 0.3,
        )
        self.log[run_id] = run
        report = Report(
            run_id=run_id,
            boot_id=boots.current_boot_id() if boot == self.boot else f"boot{boot}",
            started=started,
            ended=run.ended,
            outcome=outcome,
            ref=ref,
            max_age_s=run.max_age_s,
            replay_all=run.replay_all,
        )
        self.outbox.accept([report])
        if self.rng.random() < 0.1:
            self.outbox.accept([replace(report, reason="told twice")])


def _url(name: str) -> str:
    return f"http://127.0.0.1:9/ping/{name}"


@pytest.mark.parametrize("part", range(40))
def test_no_false_ping_is_sent_and_no_true_one_lost(tmp_path: Path, part: int) -> None:
    """Whatever happens, in whatever order."""
    seed = os.environ.get("AURA_TEST_SEED", "1") + f"-{part}"
    life = _Life(random.Random(seed), tmp_path / "store", MovedClock())
    for _ in range(150):
        life.step()
    life.finish()

    life.check_nothing_true_is_missing()
    life.outbox.close()

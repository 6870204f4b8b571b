"""What may be sent and what must be, worked out naively from the whole log of what happened to the stores of a host.

It knows nothing of how any of it works: no marks, no states, no pruning, and a time that no clock tells. The words of
the promises (docs/delivery.md) are spelt out anew here, so that a change of the rules' code can't change them.
"""

from collections import defaultdict
from dataclasses import dataclass, field

S = 10**9
WITHDRAWING = {"failed", "timed_out", "killed", "not_started", "lost"}
INTERVAL_NS, GRACE_NS = 3600 * S, 600 * S
UNKNOWN_NS = 24 * 3600 * S
ATTEMPT_NS = 30 * S


@dataclass(frozen=True, slots=True)
class Run:
    """An outcome on record. *heartbeat* is what it feeds in truth, *ref* what the report called that.

    *key* is (number of the boot, time since boot, run id) at the start of the deciding attempt; *ended_ns* is true time.
    """

    run_id: str
    heartbeat: str
    ref: str
    key: tuple[int, int, str]
    ended_ns: int
    outcome: str
    max_age_ns: int | None = None
    replay_all: bool = False


@dataclass(slots=True)
class Post:
    """An attempt that began; *known*: the store knew then which heartbeat it was for."""

    run: Run
    until_ns: int
    known: bool
    ended: bool = False


@dataclass
class Log:
    """Everything that happened, per store where that matters. *clock_was_right*: the wall clock, at all times."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    known: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    posts: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))
    delivered: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    given_away: set[tuple[str, str]] = field(default_factory=set)
    perfect: list[Run] = field(default_factory=list)
    arrived: list[tuple[Run, int]] = field(default_factory=list)
    clock_was_right: bool = True
    boot: int = 1
    boot_began_ns: int = 0

    def record(self, store: str, run: Run) -> None:
        """The outcome of *run* is on record, durably, with or without anybody having looked at it."""
        if run.outcome == "succeeded" and not self._withdrawing(store, run):
            self.perfect.append(run)  # over a perfect network its ping would have arrived as it ended
        self.runs[store].append(run)

    def success(self, store: str, run_id: str) -> Run | None:
        found = [run for run in self.runs[store] if run.run_id == run_id and run.outcome == "succeeded"]
        return found[0] if found else None

    # -- (a) no false ping ---------------------------------------------------------------------------------------

    def against(self, store: str, run_id: str, now_ns: int) -> list[str]:
        """Return what speaks against beginning a POST for *run_id* now."""
        run = self.success(store, run_id)
        if run is None:
            return ["it has no success on record"]
        found = []
        if run_id in self.delivered[store]:
            found.append("it has been delivered")
        found += [f"{other} withdraws it" for other in self._withdrawing(store, run)]
        found += [
            f"{other} started later and has been delivered"
            for other in self._same_stream(store, run)
            if other.key > run.key and other.run_id in self.delivered[store]
        ]
        if self._least_age_ns(run, now_ns) > self._lifetime_ns(run, known=run.heartbeat in self.known[store]):
            found.append("it has expired")
        newest = max((other for other in self._same_stream(store, run) if other.outcome == "succeeded"), key=_key)
        if newest.key > run.key and not run.replay_all and self._may_be_sent(store, newest, now_ns):
            found.append(f"{newest} started later, is as true, and waits")
        found += [
            f"{post} is under way"
            for post in self.posts[store]
            if post.run.heartbeat == run.heartbeat and post.known and not post.ended and now_ns < post.until_ns
        ]
        return found

    # -- (b) no true ping is lost --------------------------------------------------------------------------------

    def missing(self, store: str, states: dict[str, str], now_ns: int, handed_to: str) -> list[str]:
        """Return the successes that nothing explains not to have been delivered, after the network has lasted."""
        found = []
        for run in self.runs[store]:
            if run.outcome != "succeeded" or run.run_id in self.delivered[store]:
                continue
            later = [other for other in self.runs[store] if other.heartbeat == run.heartbeat and other.key > run.key]
            later_successes = [other for other in later if other.outcome == "succeeded"]
            explained = {
                "invalidated": any(other.outcome in WITHDRAWING for other in later),
                "superseded": any(
                    other.run_id in self.delivered[store] or not run.replay_all for other in later_successes
                ),
                "expired": self._most_age_ns(run, now_ns) > self._lifetime_ns(run, known=True),
                "dropped": handed_to != store and self.success(handed_to, run.run_id) is not None,
            }
            state = states.get(run.run_id, "unheard of")
            if not explained.get(state, False):
                found.append(f"{run} is {state}, which nothing explains")
        return found

    # -- Aura's view ---------------------------------------------------------------------------------------------

    def outlived(self) -> list[str]:
        """Return where Aura's view "up" outlived what a perfect network would have given it, by more than it may.

        Aura's timer: up until interval + grace after the newest arrival. A perfect network brings each ping as its run
        ends; ours may be behind by the time that the last delivery took, and by no more.
        """
        found = []
        for run, at_ns in self.arrived:
            brought = [
                other.ended_ns for other in self.perfect if other.heartbeat == run.heartbeat and other.ended_ns <= at_ns
            ]
            up_until_ns = at_ns + INTERVAL_NS + GRACE_NS
            perfect_until_ns = max(brought, default=0) + INTERVAL_NS + GRACE_NS
            if up_until_ns - perfect_until_ns > at_ns - run.ended_ns:
                found.append(f"{run}, arrived at {at_ns}: up until {up_until_ns}, rather than {perfect_until_ns}")
            late_ns = at_ns - run.ended_ns
            if self.clock_was_right and late_ns > self._lifetime_ns(run, known=False) + ATTEMPT_NS:
                found.append(f"{run}, arrived at {at_ns}: stale by all means")
        return found

    # -- what the words mean -------------------------------------------------------------------------------------

    def _same_stream(self, store: str, run: Run) -> list[Run]:
        """Return what is on record for the heartbeat of *run*: under one name only, while nobody knows whose it is."""
        known = run.heartbeat in self.known[store]
        return [
            other for other in self.runs[store] if other.heartbeat == run.heartbeat and (known or other.ref == run.ref)
        ]

    def _withdrawing(self, store: str, run: Run) -> list[Run]:
        return [
            other for other in self._same_stream(store, run) if other.outcome in WITHDRAWING and other.key > run.key
        ]

    def _may_be_sent(self, store: str, run: Run, now_ns: int) -> bool:
        known = run.heartbeat in self.known[store]
        return (
            run.outcome == "succeeded"
            and (store, run.run_id) not in self.given_away
            and self._most_age_ns(run, now_ns) <= self._lifetime_ns(run, known=known)
        )

    def _lifetime_ns(self, run: Run, *, known: bool) -> int:
        patience_ns = INTERVAL_NS + GRACE_NS if known else UNKNOWN_NS
        return patience_ns if run.max_age_ns is None else min(patience_ns, run.max_age_ns)

    def _least_age_ns(self, run: Run, now_ns: int) -> int:
        """Return how old *run* is known to be at least: exactly, but after a reboot with a clock that was wrong."""
        exact = run.key[0] == self.boot or self.clock_was_right
        return now_ns - (run.ended_ns if exact else self.boot_began_ns)

    def _most_age_ns(self, run: Run, now_ns: int) -> int:
        exact = run.key[0] == self.boot or self.clock_was_right
        return now_ns - run.ended_ns if exact else 100 * 365 * 24 * 3600 * S


def _key(run: Run) -> tuple[int, int, str]:
    return run.key

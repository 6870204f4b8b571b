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

    *named*: by its name, which the other heartbeat of its API may have by now.
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
    named: bool = False


@dataclass(slots=True)
class Post:
    """An attempt that began, to *heartbeat*, for no longer than *until_ns*."""

    run: Run
    heartbeat: str
    until_ns: int
    ended: bool = False


@dataclass(slots=True)
class Timer:
    """Aura's view of a heartbeat: up until no ping has come for interval + grace."""

    up_until_ns: int = 0

    def ping(self, at_ns: int) -> None:
        self.up_until_ns = max(self.up_until_ns, at_ns + INTERVAL_NS + GRACE_NS)


@dataclass
class Log:
    """Everything that happened, per store where that matters. *clock_was_right*: the wall clock, at all times."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    known: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    posts: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))
    delivered: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    perfect: list[tuple[Run, int]] = field(default_factory=list)  # what would have arrived over a perfect network, when
    arrived: list[tuple[Run, int]] = field(default_factory=list)
    clock_was_right: bool = True
    swapped: dict[str, bool] = field(default_factory=lambda: defaultdict(bool))  # as each store was last told
    names_were_swapped: bool = False
    delivered_to: dict[str, str] = field(default_factory=dict)  # by run
    damaged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # runs whose pings' rows are
    boot: int = 1
    boot_began_ns: int = 0

    def record(self, store: str, run: Run, now_ns: int) -> None:
        """The outcome of *run* is on record, durably, with or without anybody having looked at it."""
        superseded = not run.replay_all and self._later_successes(store, run)
        if run.outcome == "succeeded" and not superseded and not self._withdrawing(store, run):
            self.perfect.append((run, now_ns))
        self.runs[store].append(run)

    def feeds(self, store: str, run: Run) -> str:
        """Return the heartbeat that *run* feeds, as far as *store* has been told who has which name."""
        return other_of(run.heartbeat) if run.named and self.swapped[store] else run.heartbeat

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
            if other.key > run.key
            and other.run_id in self.delivered[store]
            and self.delivered_to[other.run_id] == self.feeds(store, run)
        ]
        if self._least_age_ns(run, now_ns) > self._lifetime_ns(run, known=self.feeds(store, run) in self.known[store]):
            found.append("it has expired")
        if not run.replay_all:
            # Whatever became of that: had the network been perfect, Aura would have heard of it, and then no more of this.
            found += [f"{other} is a success that started later" for other in self._later_successes(store, run)]
        found += [
            f"{post} is under way"
            for post in self.posts[store]
            if post.run in self._same_stream(store, run)
            and post.heartbeat == self.feeds(store, run)
            and not post.ended
            and now_ns < post.until_ns
        ]
        return found

    def too_late(self, store: str, run: Run, decided_ns: int, now_ns: int) -> list[str]:
        """Return what speaks against writing a request now that was decided on then."""
        found = [] if now_ns - decided_ns < ATTEMPT_NS else [f"it was decided {(now_ns - decided_ns) / S} s ago"]
        if self._least_age_ns(run, now_ns) > self._lifetime_ns(run, known=run.heartbeat in self.known[store]):
            found.append("it has expired")
        return found

    # -- (b) no true ping is lost --------------------------------------------------------------------------------

    def missing(self, store: str, states: dict[str, str], now_ns: int, handed_to: str) -> list[str]:
        """Return the successes that nothing explains not to have been delivered, after the network has lasted."""
        found = []
        for run in self.runs[store]:
            if run.outcome != "succeeded" or run.run_id in self.delivered[store]:
                continue
            beat = self.feeds(store, run)
            later = [other for other in self.runs[store] if self.feeds(store, other) == beat and other.key > run.key]
            # Nobody says with which account a run began whose wrapper is gone; and names have told others apart before.
            vague = [
                other
                for other in self.runs[store]
                if other.key > run.key
                and (
                    (other.outcome == "lost" and other.ref == run.ref)
                    or (self.names_were_swapped and self.api_of(other) == self.api_of(run))
                )
            ]
            later_successes = [other for other in later if other.outcome == "succeeded"]
            explained = {
                "invalidated": any(other.outcome in WITHDRAWING for other in [*later, *vague]),
                "superseded": any(
                    other.run_id in self.delivered[store] or not run.replay_all for other in later_successes
                )
                or (self.names_were_swapped and any(other.outcome == "succeeded" for other in vague)),
                "expired": self._most_age_ns(run, now_ns) > self._lifetime_ns(run, known=True),
                "held": True,  # the store was put back
                "quarantined": run.run_id in self.damaged[store],
                "dropped": handed_to != store and self.success(handed_to, run.run_id) is not None,
            }
            state = states.get(run.run_id, "unheard of")
            if not explained.get(state, False):
                found.append(f"{run} is {state}, which nothing explains")
        return found

    # -- Aura's view ---------------------------------------------------------------------------------------------

    def outlived(self) -> list[str]:
        """Return where Aura's view "up" outlived what a perfect network would have given it, by more than it may.

        A perfect network brings each ping in the moment in which its run is on record. Ours may be behind that by the
        time from the end of the run that it brought last until its arrival, and by no more.
        """
        if self.names_were_swapped:
            return []  # what feeds what has changed meanwhile
        return [
            problem for beat in sorted({run.heartbeat for run, _ in self.arrived}) for problem in self._outlived(beat)
        ]

    def _outlived(self, heartbeat: str) -> list[str]:
        found = []
        ours, perfect = Timer(), Timer()
        events = [(at_ns, 0, run) for run, at_ns in self.perfect] + [(at_ns, 1, run) for run, at_ns in self.arrived]
        for at_ns, is_ours, run in sorted(events, key=lambda event: event[:2]):
            if run.heartbeat != heartbeat:
                continue
            if not is_ours:
                perfect.ping(at_ns)
                continue
            ours.ping(at_ns)
            late_ns = at_ns - run.ended_ns
            if ours.up_until_ns - perfect.up_until_ns > late_ns:
                found.append(f"{run}, arrived at {at_ns}: {ours}, rather than {perfect}")
            if self.clock_was_right and late_ns > self._lifetime_ns(run, known=False) + ATTEMPT_NS:
                found.append(f"{run}, arrived at {at_ns}: stale by all means")
        return found

    def api_of(self, run: Run) -> str:
        return run.heartbeat.partition("/")[0]

    # -- what the words mean -------------------------------------------------------------------------------------

    def _same_stream(self, store: str, run: Run) -> list[Run]:
        """Return what is on record for the heartbeat of *run*: under one name only, while nobody knows whose it is."""
        beat = self.feeds(store, run)
        known = beat in self.known[store]
        return [
            other for other in self.runs[store] if self.feeds(store, other) == beat and (known or other.ref == run.ref)
        ]

    def _withdrawing(self, store: str, run: Run) -> list[Run]:
        return [
            other for other in self._same_stream(store, run) if other.outcome in WITHDRAWING and other.key > run.key
        ]

    def _later_successes(self, store: str, run: Run) -> list[Run]:
        return [
            other for other in self._same_stream(store, run) if other.outcome == "succeeded" and other.key > run.key
        ]

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


def other_of(heartbeat: str) -> str:
    """Return the other heartbeat of the same API."""
    api, _, name = heartbeat.partition("/")
    return f"{api}/{'two' if name == 'one' else 'one'}"

"""What may be sent: the rules that keep pings true, as pure functions of what is known.

A *stream* is one heartbeat within one store; a waiting success may be sent only while nothing later contradicts it:

- order: runs are ordered by the start of their deciding attempt: (epoch, CLOCK_BOOTTIME, run id), never by wall clock
- supersede: with ``replay = "latest"`` only the stream's newest success goes out, and none in its place: over a perfect
  network Aura would have heard of it and then of nothing older; a success that started before one already delivered
  never does
- invalidate: a failure that started later withdraws it: delivering it would silence the alarm that is deserved
- expire: it is older than the heartbeat's interval + grace, or than the job's ``max_age``: the next one was due by then

``judge`` answers "what may still be sent?", ``effect`` "what does this outcome do to the queue?", ``hear`` the same for
many. Nothing here reads a clock, a file or a database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from aura_agent.report.record import Outcome

UNKNOWN_LIFETIME_S = 24 * 3600.0  # how long a ping stays true when the heartbeat's interval isn't known
_FOREVER_S = 1e9
_END_OF_TIME_NS = 2**63 - 1


class Key(NamedTuple):
    """A run's place in the order of its stream."""

    epoch: int
    boot_ns: int
    run_id: str


class Moment(NamedTuple):
    """An instant on both clocks: the boot's count, nanoseconds within that boot, nanoseconds since the Unix epoch.

    Of what now is, *newest_epoch* is the highest count in the store: where processes don't agree on the boot, it may be
    another one's.
    """

    epoch: int
    boot_ns: int
    wall_ns: int
    newest_epoch: int | None = None


class State(StrEnum):
    """Where an entry of the outbox stands; all but ``waiting`` are final."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"
    INVALIDATED = "invalidated"
    EXPIRED = "expired"
    DROPPED = "dropped"
    QUARANTINED = "quarantined"  # its row can't be read


@dataclass(frozen=True, slots=True)
class Waiting:
    """A success that waits. *ended* is when it became true, *max_age_s* its job's own limit, if it has one.

    *under_way*: an attempt is, which nothing cancels, and whose end decides. *may_have_arrived*: one was, and nobody
    knows its end. *held*: the store went back in time, and the ping may have been sent before: it isn't for now.
    """

    key: Key
    ended: Moment
    max_age_s: float | None = None
    replay_all: bool = False
    under_way: bool = False
    may_have_arrived: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream remembers: its newest failure, delivered success and success, and its heartbeat's patience.

    The keys outlive the rows that they came from.
    """

    failed: Key | None = None
    delivered: Key | None = None
    succeeded: Key | None = None
    lifetime_s: float | None = None  # interval + grace; None: not known


@dataclass(frozen=True, slots=True)
class Run:
    """What a run's outcome says to its stream; *key* is of its deciding attempt, the rest as for ``Waiting``."""

    key: Key
    ended: Moment
    outcome: Outcome
    max_age_s: float | None = None
    replay_all: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A run whose success may not be sent any more, and why."""

    run_id: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a stream's waiting entries: those withdrawn, and those that may go out, in order."""

    withdrawn: tuple[Withdrawal, ...]
    sendable: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """What an outcome does to its stream's queue, and why: in this order.

    *entry* is a success that waits from now on, *succeeded* or *failed* the run that is the stream's newest success or
    failure from now on, *judgement* what becomes of all that waits, *entry* among it; None: nothing changes for it.
    """

    reason: str
    entry: Waiting | None = None
    succeeded: Key | None = None
    failed: Key | None = None
    judgement: Judgement | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What outcomes have done to a stream and its queue, one after the other; *stream* is what it remembers then.

    *entered* are the successes among them, *withdrawn*, by run and in the order of the withdrawals, what waits no more,
    of these too; *sendable* is what may go out. *rested*: at some point nothing waited any more; *since* is the end of
    the first success that has come after that, None if none has.
    """

    stream: Stream
    entered: tuple[Waiting, ...]
    withdrawn: Mapping[str, Withdrawal]
    sendable: tuple[Waiting, ...]
    rested: bool
    since: Moment | None


def is_news(outcome: Outcome, on_record: Outcome | None) -> bool:
    """Whether a run's *outcome* counts beside what is *on_record* of it: the first does, and one after ``lost``."""
    return on_record is None or (on_record is Outcome.LOST and outcome is not Outcome.LOST)


def effect(stream: Stream, waiting: Sequence[Waiting], run: Run, now: Moment, epoch_age_s: float = 0.0) -> Effect:
    """Decide what the outcome of *run*, which is news, does to *stream*, in which *waiting* waits.

    What a lost run has withdrawn stays withdrawn if its outcome turns up: it isn't among *waiting* any more.
    """
    if run.outcome is Outcome.SKIPPED:
        return Effect("it never ran: what waits is as true as before")
    if run.outcome is Outcome.SUCCEEDED:
        entry = Waiting(run.key, run.ended, run.max_age_s, run.replay_all, held=run.held)
        newest = run.key if stream.succeeded is None or stream.succeeded < run.key else None
        return Effect(
            "a success waits, to be sent at once",
            entry=entry,
            succeeded=newest,
            judgement=judge(stream, [*waiting, entry], now, epoch_age_s),
        )
    if stream.failed is not None and stream.failed > run.key:
        return Effect("a run that started later has failed already", judgement=judge(stream, waiting, now, epoch_age_s))
    stream = replace(stream, failed=run.key)
    return Effect(
        "it withdraws each success that started earlier",
        failed=run.key,
        judgement=judge(stream, waiting, now, epoch_age_s),
    )


def hear(stream: Stream, waiting: Sequence[Waiting], runs: Iterable[Run], now: Moment, epoch_age_s: float) -> Heard:
    """Return what *runs*, all of them news, do one after the other to *stream*, in which *waiting* waits."""
    entered: list[Waiting] = []
    withdrawn: dict[str, Withdrawal] = {}
    sendable: tuple[Waiting, ...] = ()
    rested, since = False, None
    for run in runs:
        done = effect(stream, waiting, run, now, epoch_age_s)
        stream = replace(stream, failed=done.failed or stream.failed, succeeded=done.succeeded or stream.succeeded)
        if done.entry is not None:
            entered.append(done.entry)
            waiting = [*waiting, done.entry]
            since = since or run.ended
        if done.judgement is not None:
            sendable = done.judgement.sendable
            gone = {withdrawal.run_id: withdrawal for withdrawal in done.judgement.withdrawn}
            withdrawn |= gone
            waiting = [entry for entry in waiting if entry.key.run_id not in gone]
            if not waiting:
                rested, since = True, None
    return Heard(stream, tuple(entered), withdrawn, sendable, rested, since)


def judge(stream: Stream, waiting: Sequence[Waiting], now: Moment, epoch_age_s: float = 0.0) -> Judgement:
    """Decide each entry of *waiting*, all of one stream, as things stand *now*; *epoch_age_s*: as for ``age_s``.

    What is under way is neither withdrawn nor sendable.
    """
    newest = max((entry.key for entry in waiting), default=None)
    if newest is not None and (stream.succeeded is None or stream.succeeded < newest):
        stream = replace(stream, succeeded=newest)
    withdrawn: list[Withdrawal] = []
    sendable: list[Waiting] = []
    for entry in sorted(waiting, key=lambda entry: entry.key):
        if entry.under_way:
            continue
        verdict = _withdrawal(stream, entry, now, epoch_age_s)
        if verdict is not None:
            withdrawn.append(Withdrawal(entry.key.run_id, *verdict))
        elif entry.held:
            sendable.clear()  # a success that started earlier isn't sent either: this one may have been delivered
        else:
            sendable.append(entry)
    return Judgement(tuple(withdrawn), tuple(sendable))


def age_s(ended: Moment, now: Moment, epoch_age_s: float = 0.0) -> float:
    """Return how long ago *ended* was, never below zero.

    Within a boot CLOCK_BOOTTIME tells, whatever the wall clock did; across boots only the wall clock is left, and the
    caller has already lifted ``ended.wall_ns`` to the newest instant that the store had seen by then, so that a run
    stamped before the clock was set doesn't look decades old. *epoch_age_s* is for how long the store has known the
    boot of *now*: what is from before that is at least as old, though a clock that was far ahead may have stamped it.
    """
    if now.epoch == ended.epoch:
        return max(0, now.boot_ns - ended.boot_ns) / 1e9
    return max(epoch_age_s, (now.wall_ns - ended.wall_ns) / 1e9)


def true_end(reported: Moment, now: Moment, newest_before_ns: int) -> Moment:
    """Return *reported*, the end of a run, with its wall time mended as far as the store knows better.

    In the boot that still goes on, the end is as long ago as CLOCK_BOOTTIME says, counted back from the wall clock of
    now. And no run ended before *newest_before_ns*, the newest instant known from the boots before its own. So a
    clock that wasn't set yet, then or now, makes nothing look decades old.
    """
    wall_ns = reported.wall_ns
    if reported.epoch == now.epoch:
        wall_ns = now.wall_ns - max(0, now.boot_ns - reported.boot_ns)
    return reported._replace(wall_ns=max(wall_ns, newest_before_ns))


def lifetime_s(stream: Stream, max_age_s: float | None) -> float:
    """Return how long a success of *stream* stays worth sending, in seconds after its end."""
    patience_s = UNKNOWN_LIFETIME_S if stream.lifetime_s is None else stream.lifetime_s
    return patience_s if max_age_s is None else min(patience_s, max_age_s)


def left_s(stream: Stream, entry: Waiting, now: Moment, epoch_age_s: float = 0.0) -> float:
    """Return for how long *entry* stays worth sending from *now* on; below zero: it expired so long ago."""
    return lifetime_s(stream, entry.max_age_s) - age_s(entry.ended, now, epoch_age_s)


def urgency_wall_ns(stream: Stream, waiting: Sequence[Waiting]) -> int:
    """Return about when (Unix epoch) the first of *waiting* expires: for the order among streams, and nothing else.

    Never later than what SQLite can hold, whatever a clock has said.
    """
    first_ns = min(
        entry.ended.wall_ns + int(min(lifetime_s(stream, entry.max_age_s), _FOREVER_S) * 1e9) for entry in waiting
    )
    return min(first_ns, _END_OF_TIME_NS)


def _withdrawal(stream: Stream, entry: Waiting, now: Moment, epoch_age_s: float) -> tuple[State, str] | None:
    if stream.failed is not None and stream.failed > entry.key:
        arrived = " (may have arrived)" if entry.may_have_arrived else ""
        return State.INVALIDATED, f"a run that started later did not succeed{arrived}"
    if stream.delivered is not None and stream.delivered > entry.key:
        return State.SUPERSEDED, "a success that started later has been delivered"
    limit_s = lifetime_s(stream, entry.max_age_s)
    if age_s(entry.ended, now, epoch_age_s) > limit_s:
        return State.EXPIRED, f"older than {limit_s:g} s: the next one was due by then"
    if stream.succeeded is not None and stream.succeeded > entry.key and not entry.replay_all:
        return State.SUPERSEDED, "a later success took its place"
    return None

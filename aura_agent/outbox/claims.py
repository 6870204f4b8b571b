"""What one look at the queue gives: the right to send, what can't be sent yet, what was withdrawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aura_agent.outbox.rules import Key, State
from aura_agent.secret import Secret

LEASE_S = 90.0  # an attempt (30 s) and a fresh look at its URL (30 s), with room; a holder that needs longer hangs
ATTEMPT_S = 30.0
LONGEST_WAIT_S = 2 * 3600.0  # no back-off, parking or Retry-After lasts longer: a later instant is damage


@dataclass(frozen=True, slots=True)
class Attempt:
    """The right to send one entry, once: the lease on its stream."""

    entry_id: int
    stream_id: int
    run_id: str
    key: Key
    job: str
    heartbeat: str
    heartbeat_id: str | None  # None too where this process's token has no say in it
    url: Secret
    host: str  # and port of the URL
    body: bytes | None
    tries: int  # attempts of this stream in a row that brought no 2xx, this one not counted
    patience_known: bool  # whether the heartbeat's interval is known
    left_s: float  # until the entry expires
    deadline_ns: int  # CLOCK_BOOTTIME: the request must have been written by then
    silent_s: float  # for how long no attempt at the stream has had any answer
    lease_until_ns: int  # which lease it is, for one process may have had several on the stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended: *acknowledged*, or to be made again after *delay_s* at the earliest.

    *answered*: there was some answer; *asked_anew*: the API has confirmed the ping URL since.
    *unsent*: nothing of the request was written, and it is to be judged anew. *parked* is for what people have to mend.
    *host_not_before_s* holds back everything for that host (Retry-After).
    """

    attempt: Attempt
    reason: str
    duration_s: float = 0.0
    acknowledged: bool = False
    unsent: bool = False
    answered: bool = True
    asked_anew: bool = False
    delay_s: float = 0.0
    parked: bool = False
    drop_body: bool = False
    host_not_before_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rooms:
    """How many attempts may begin to each host; *unknown* to one that *known* doesn't name.

    *reopened* are hosts for which a failure before now says nothing any more: what backs off for them is due. To those
    of *probed* goes what has been tried least. *slow* are the streams that have just hung, by host, and how many more
    attempts may begin for them.
    """

    known: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 1_000_000
    reopened: frozenset[str] = frozenset()
    probed: frozenset[str] = frozenset()
    slow: Mapping[str, tuple[frozenset[int], int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """An entry that the rules have just withdrawn."""

    entry_id: int
    heartbeat: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """Pings of a heartbeat that need a person, found before anything was sent."""

    heartbeat: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """What came of dropping entries by hand: ids of those that wait no more, and of those that were being sent."""

    dropped: tuple[int, ...]
    under_way: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A stream with something to send whose ping URL isn't known.

    *is_foreign*: only another account can ask for it. *is_doubt*: nothing waits in it; a later run in it may be of the
    heartbeat to whose bare URL a ping waits.
    """

    stream_id: int
    heartbeat_id: str | None
    refs: tuple[str, ...]
    tries: int
    is_foreign: bool = False
    is_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What one look at the queue gave.

    *settled* are the states of the entries whose attempts had ended, in their order. *parked* are invalid ping URLs.
    *lost* are the jobs of runs that were judged since the last look, *notices* tell people what was set aside.
    *next_due_s*: seconds until there may be more to send; None: not before a report. *hook_calls*: there is something
    that people may want to be told of. *problem*: what is wrong with the store, though it can be read.
    """

    settled: tuple[State, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    parked: tuple[Parked, ...] = ()
    withdrawn: tuple[Gone, ...] = ()
    lost: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    next_due_s: float | None = None
    hook_calls: bool = False
    problem: str = ""

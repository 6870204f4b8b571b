"""Leases: who may send what, when, and what the end of an attempt means for its entry and its stream.

One stream has one lease, of one process; it ends with the attempt, or with the look-up of its ping URL, when its holder
is gone, or after ``LEASE_S``. Which entry of a stream is next the rules say, in the transaction that takes the lease. A
host's Retry-After holds for all streams. Works inside the transactions of ``aura_agent.outbox.store``.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from aura_agent.outbox import damage
from aura_agent.outbox.claims import ATTEMPT_S, LEASE_S, LONGEST_WAIT_S, Attempt, Ended, Parked, Rooms, Unresolved
from aura_agent.outbox.database import savepoint
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.hooks import HookCalls
from aura_agent.outbox.pruning import Pruner
from aura_agent.outbox.rules import Moment, State
from aura_agent.outbox.senders import Senders
from aura_agent.outbox.streams import Destination, Streams, of_runs
from aura_agent.report.ping_url import host_of
from aura_agent.secret import Secret

PARKED_S = 3600.0
NO_HOST = "(none)"  # the host of an invalid ping URL; empty: not looked at yet
_MOST_LOOKS = 1000  # at streams in one claim: nobody else writes meanwhile
_LOOKS_AT_ONE = 3  # a stream may be due once more after a merge or a repair; more often is a fault of ours
_SET_BACK_S = 60.0


@dataclass(slots=True)
class Leased:
    """What one claim found to do. *more*: it stopped looking before it had seen all that is due."""

    attempts: list[Attempt] = field(default_factory=list)
    unresolved: list[Unresolved] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    more: bool = False


@dataclass(slots=True)
class _Left:
    """How many attempts may still begin in this claim, by host; *slow*: of those for streams that have just hung."""

    by_host: dict[str, int]
    slow: dict[str, int]
    own_scope: int
    not_before_ns: dict[str, int] = field(default_factory=dict)  # of hosts that were looked up


class Leases:
    """The leases of one store; *owner* names our process among its *senders*."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        streams: Streams,
        entries: Entries,
        hook_calls: HookCalls,
        pruner: Pruner,
        senders: Senders,
        owner: str,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._entries = entries
        self._hook_calls = hook_calls
        self._pruner = pruner
        self._senders = senders
        self._owner = owner

    def take(self, limit: int, only_runs: frozenset[str] | None, rooms: Rooms, now: Moment) -> Leased:
        """Lease up to *limit* entries that may be sent, the most urgent first, as far as their hosts have room.

        Whatever a look at a stream comes to, it is looked at a few times at the most; so this ends.
        """
        leased = Leased()
        for host in rooms.reopened:
            self._streams.hurry_host(host)
        slow = {host: room for host, (_, room) in rooms.slow.items()}
        left = _Left(dict(rooms.known), slow, self._streams.own_scope())
        looks = Counter[int]()
        while rows := self._due(now, only_runs, limit - len(leased.attempts), left, rooms):
            if looks.total() >= _MOST_LOOKS:
                leased.more = True
                break
            for row in rows:
                looks[row["id"]] += 1
                if looks[row["id"]] > _LOOKS_AT_ONE:
                    self._streams.set_due(row["id"], now.epoch, now.boot_ns + int(_SET_BACK_S * 1e9))
                else:
                    self._look(row, now, left, rooms, leased)
        return leased

    def next_due_s(self, now: Moment, only_runs: frozenset[str] | None) -> float | None:
        """Return when the next stream is due, beside those whose hosts have no room. Two ranges of the index."""
        condition, values = of_runs(only_runs)
        (lease_ends_ns,) = self._connection.execute(
            "SELECT min(lease_until_ns) FROM streams WHERE due_boot_ns IS NOT NULL"
            " AND (due_epoch, due_boot_ns) <= (?, ?) AND lease_epoch = ? AND lease_until_ns > ? AND lease_until_ns <= ?"
            f"{condition}",
            (now.epoch, now.boot_ns, now.epoch, now.boot_ns, _latest_lease_ns(now), *values),
        ).fetchone()
        (due_ns,) = self._connection.execute(
            "SELECT min(due_boot_ns) FROM streams WHERE due_boot_ns IS NOT NULL"
            f" AND due_epoch = ? AND due_boot_ns > ?{condition}",
            (now.epoch, now.boot_ns, *values),
        ).fetchone()
        instants = [instant for instant in (lease_ends_ns, due_ns) if instant is not None]
        return max(0, min(instants) - now.boot_ns) / 1e9 if instants else None

    def end(self, ended: Ended, now: Moment) -> State:
        """Settle one attempt. An acknowledgement is final, whatever has been reported since the attempt began."""
        problem: Exception | None = None
        for _ in range(2):
            try:
                with savepoint(self._connection):
                    return self._end(ended, now)
            except damage.UNREADABLE as found:
                problem = found
                self._entries.quarantine(self._stream_of(ended.attempt), now)
        return self._end_over_damage(ended, now, str(problem))

    def release_gone(self) -> list[str]:
        """Take from processes that have died their leases and hook calls: what they were at is due, and may be done.

        Return which those are, for ``Senders.forget`` once that is committed: without their signs nobody would do it.
        """
        gone = self._senders.gone()
        for name in gone:
            self._streams.release(name)
            self._hook_calls.release(name)
        return gone

    # -- private -------------------------------------------------------------------------------------------------

    def _end(self, ended: Ended, now: Moment) -> State:
        attempt = ended.attempt
        self._pruner.saw(attempt.entry_id)
        if ended.host_not_before_s is not None:
            self._hold_host(attempt.host, now, ended.host_not_before_s)
        row = self._connection.execute(
            "SELECT stream_id, due_boot_ns, silent_wall_ns"
            " FROM entries LEFT JOIN streams ON streams.id = stream_id WHERE entries.id = ?",
            (attempt.entry_id,),
        ).fetchone()
        if row is None:
            self._release(attempt, attempt.stream_id)
            return State.DROPPED
        stream_id, due_boot_ns, silent_ns = row  # merged into another one since, perhaps, and the lease with it
        if not ended.unsent:
            self._streams.note_answer(stream_id, silent_ns, now, answered=ended.answered, asked_anew=ended.asked_anew)
        hurried = due_boot_ns == 0  # since the lease was taken
        is_ours = self._release(attempt, stream_id) and now.boot_ns < attempt.lease_until_ns
        if ended.acknowledged:
            if not is_ours:  # others have judged it meanwhile, or do so now: what they withdrew stays so
                self._entries.settle(stream_id, now, attempt.entry_id)
            self._connection.execute(
                "UPDATE entries SET state = iif(state IN ('waiting', 'quarantined'), 'delivered', state),"
                " reason = iif(state IN ('waiting', 'quarantined'), ?, reason),"
                " tries = min(max(tries, 0), 1000000) + 1, changed_wall_ns = ? WHERE id = ?",
                (ended.reason, now.wall_ns, attempt.entry_id),
            )
            self._streams.note_delivery(stream_id, attempt.key, now)
        elif ended.unsent:
            if is_ours and not hurried:
                self._streams.set_due(stream_id, now.epoch, now.boot_ns + int(ended.delay_s * 1e9))
        else:
            self._connection.execute(
                "UPDATE entries SET tries = min(max(tries, 0), 1000000) + 1, reason = ?, changed_wall_ns = ?,"
                " body = CASE WHEN ? THEN NULL ELSE body END WHERE id = ? AND state = 'waiting'",
                (ended.reason, now.wall_ns, ended.drop_body, attempt.entry_id),
            )
            if is_ours:
                # A success that arrived during the attempt has a try of its own, at once, where parking is for long.
                wait_s = 0.0 if ended.parked and hurried else ended.delay_s
                self._streams.postpone(stream_id, now, wait_s, ended.reason, parked=ended.parked)
        may_have_arrived = None if ended.acknowledged or ended.unsent else attempt.entry_id
        self._entries.settle(self._entries.merged(stream_id, now, may_have_arrived), now, may_have_arrived)
        (state,) = self._connection.execute("SELECT state FROM entries WHERE id = ?", (attempt.entry_id,)).fetchone()
        return State(state)

    def _end_over_damage(self, ended: Ended, now: Moment, problem: str) -> State:
        """Settle one attempt of which a row can't be read, even after a repair: as much as can be is put on record."""
        attempt = ended.attempt
        stream_id = self._stream_of(attempt)
        self._release(attempt, stream_id)
        if ended.acknowledged:
            self._streams.note_delivery(stream_id, attempt.key, now)
        state = State.DELIVERED if ended.acknowledged else State.QUARANTINED
        reason = ended.reason if ended.acknowledged else f"damaged in the store: {problem}: not sent again"
        self._entries.withdraw(attempt.entry_id, stream_id, state, reason, now)
        return state

    def _stream_of(self, attempt: Attempt) -> int:
        """Return the stream in which the attempt's entry is by now: streams are merged and taken apart."""
        row = self._connection.execute("SELECT stream_id FROM entries WHERE id = ?", (attempt.entry_id,)).fetchone()
        return attempt.stream_id if row is None else int(row["stream_id"])

    def _look(self, row: sqlite3.Row, now: Moment, left: _Left, rooms: Rooms, leased: Leased) -> None:
        """Look at one stream that is due, and put into *leased* what there is to do; damaged rows are quarantined."""
        try:
            with savepoint(self._connection):
                found = self._take_one(row, now, left, rooms.unknown)
        except damage.UNREADABLE as problem:
            if self._entries.quarantine(row["id"], now):
                return  # it is due anew
            if isinstance(problem, sqlite3.Error):
                raise  # it is the store that can't be written
            reason = f"internal error while looking at the queue ({type(problem).__name__}): please report it"
            found = self._park(row["id"], now, reason)
        if isinstance(found, Attempt):
            left.by_host[found.host] = left.by_host.get(found.host, rooms.unknown) - 1
            if _is_slow(row, found.host, rooms):
                left.slow[found.host] -= 1
            leased.attempts.append(found)
        elif isinstance(found, Parked):
            leased.parked.append(found)
        else:
            leased.unresolved += found

    def _park(self, stream_id: int, now: Moment, reason: str) -> Parked:
        self._streams.postpone(stream_id, now, PARKED_S, reason, parked=True)
        return Parked(self._streams.name(stream_id), reason)

    def _due(
        self, now: Moment, only_runs: frozenset[str] | None, limit: int, left: _Left, rooms: Rooms
    ) -> list[sqlite3.Row]:
        """Return up to *limit* streams that are due, the most urgent first, as far as their hosts have room.

        Those that have just hung come last, and have a part of the room.
        """
        runs, values = of_runs(only_runs)
        # An instant that is further away than any wait or lease is damage, and holds up nothing.
        waits = (now.epoch, now.boot_ns + 1, now.boot_ns + int(LONGEST_WAIT_S * 1e9))
        leased = (now.epoch, now.boot_ns + 1, _latest_lease_ns(now))

        def of_host(host: str, room: int, slow: frozenset[int], negation: str) -> list[sqlite3.Row]:
            if room <= 0:
                return []
            kind = f" AND id {negation} IN (SELECT value FROM json_each(?))" if slow else ""
            order = "tries, urgency_wall_ns, id" if host in rooms.probed else "urgency_wall_ns, id"
            return self._connection.execute(
                "SELECT * FROM streams WHERE host = ? AND due_boot_ns IS NOT NULL"
                " AND (due_epoch IS NOT ? OR due_boot_ns NOT BETWEEN ? AND ?)"
                " AND (lease_owner IS NULL OR lease_epoch IS NOT ?"
                f" OR coalesce(lease_until_ns, 0) NOT BETWEEN ? AND ?){runs}{kind} ORDER BY {order} LIMIT ?",
                (host, *waits, *leased, *values, *([json.dumps(sorted(slow))] if slow else []), room),
            ).fetchall()

        found: list[sqlite3.Row] = []
        found_slow: list[sqlite3.Row] = []
        for host in self._streams.hosts():
            # The URLs of those without a host are looked at first: what they need is known then.
            room = limit if host == "" else min(limit, left.by_host.get(host, rooms.unknown))
            slow, _ = rooms.slow.get(host, (frozenset[int](), 0))
            ready = of_host(host, room, slow, "NOT")
            found += ready
            if slow:
                found_slow += of_host(host, min(room - len(ready), left.slow[host]), slow, "")
        return [*sorted(found, key=_urgency), *sorted(found_slow, key=_urgency)][:limit]

    def _take_one(
        self, row: sqlite3.Row, now: Moment, left: _Left, unknown_room: int
    ) -> Attempt | Parked | Sequence[Unresolved]:
        stream_id = row["id"]
        if self._entries.merged(stream_id, now) != stream_id:
            return ()  # the stream that it is part of is due
        target, host = self._target(stream_id, left.own_scope)
        heartbeat_id, url = target.heartbeat_id, target.url
        if heartbeat_id is not None and url is not None and self._takes_in(stream_id, url, now):
            return ()  # it is due anew, unless an attempt was under way there
        stream, entry = self._entries.next(stream_id, now)
        if entry is None:
            return ()
        lease_until_ns = now.boot_ns + int(LEASE_S * 1e9)
        if url is None:
            return [self._look_up(stream_id, heartbeat_id, row["tries"], now)]
        if host != row["host"]:
            self._streams.set_host(stream_id, host)
        if host == NO_HOST:
            return self._park(stream_id, now, f"invalid ping URL: {_problem_with(url)}")
        if left.by_host.get(host, unknown_room) <= 0:
            return ()  # it stays due, and is looked at again when its host has room
        held_until_ns = left.not_before_ns.get(host)
        if held_until_ns is None:
            held_until_ns = left.not_before_ns[host] = self._host_not_before_ns(host, now)
        if held_until_ns > now.boot_ns:
            self._streams.set_due(stream_id, now.epoch, held_until_ns)
            return ()
        if heartbeat_id is None and (doubts := self._streams.doubts(entry.key, now)).hold_until_ns is not None:
            self._streams.set_due(stream_id, now.epoch, doubts.hold_until_ns)
            return [self._look_up(*doubt, 0, now, is_doubt=True) for doubt in doubts.to_ask]
        sent = self._connection.execute(
            "SELECT id, run_id, job, body FROM entries WHERE run_id = ?", (entry.key.run_id,)
        ).fetchone()
        self._senders.join()
        self._streams.lease(stream_id, self._owner, sent["id"], now.epoch, lease_until_ns)
        left_s = self._entries.left_s(stream, entry, now)
        return Attempt(
            entry_id=sent["id"],
            stream_id=stream_id,
            run_id=sent["run_id"],
            key=entry.key,
            job=sent["job"],
            heartbeat=target.name,
            heartbeat_id=None if target.is_foreign else heartbeat_id,
            url=url,
            host=host,
            body=sent["body"],
            tries=row["tries"],
            patience_known=stream.lifetime_s is not None,
            left_s=left_s,
            deadline_ns=now.boot_ns + int(min(ATTEMPT_S, max(0.0, left_s)) * 1e9),
            silent_s=0.0 if row["silent_wall_ns"] is None else (now.wall_ns - row["silent_wall_ns"]) / 1e9,
            lease_until_ns=lease_until_ns,
        )

    def _target(self, stream_id: int, own_scope: int) -> tuple[Destination, str]:
        """Return where the stream's pings go, and the host. A cached URL that is invalid is forgotten."""
        target = self._streams.find_target(stream_id, own_scope)
        if target.url is not None and target.heartbeat_id is not None and _problem_with(target.url):
            self._streams.forget_url(target.heartbeat_id, target.url)
            target = self._streams.find_target(stream_id, own_scope)
        if target.url is None:
            return target, ""
        host, problem = _host_or_problem(target.url)
        return target, NO_HOST if problem else host

    def _look_up(
        self, stream_id: int, heartbeat_id: str | None, tries: int, now: Moment, *, is_doubt: bool = False
    ) -> Unresolved:
        """Lease a stream to whoever looks up its ping URL."""
        self._senders.join()
        self._streams.lease(stream_id, self._owner, None, now.epoch, now.boot_ns + int(LEASE_S * 1e9))
        if is_doubt:
            self._streams.note_asked(stream_id, now)
        is_foreign = self._streams.is_foreign(stream_id)
        return Unresolved(stream_id, heartbeat_id, self._streams.refs(stream_id), tries, is_foreign, is_doubt)

    def _takes_in(self, stream_id: int, url: Secret, now: Moment) -> bool:
        """Merge what came under the bare URL of the heartbeat and couldn't be before; whether there was any."""
        return any(self._entries.merged(twin, now) == stream_id for twin in self._streams.at_url(url))

    def _release(self, attempt: Attempt, stream_id: int) -> bool:
        """End our lease on the stream; False when it had run out and the stream was taken anew."""
        done = self._connection.execute(
            "UPDATE streams SET lease_owner = NULL, lease_entry = NULL "
            "WHERE id = ? AND lease_owner = ? AND lease_entry = ? AND lease_until_ns = ?",
            (stream_id, self._owner, attempt.entry_id, attempt.lease_until_ns),
        )
        return done.rowcount == 1

    def _hold_host(self, host: str, now: Moment, wait_s: float) -> None:
        """Send nothing to *host* before that: the latest that it has asked for holds."""
        not_before_ns = max(now.boot_ns + int(wait_s * 1e9), self._host_not_before_ns(host, now))
        self._connection.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (host, now.epoch, not_before_ns))

    def _host_not_before_ns(self, host: str, now: Moment) -> int:
        row = self._connection.execute("SELECT epoch, not_before_ns FROM hosts WHERE host = ?", (host,)).fetchone()
        if row is None or row["epoch"] != now.epoch or row["not_before_ns"] > now.boot_ns + int(LONGEST_WAIT_S * 1e9):
            return 0
        return int(row["not_before_ns"])


def _urgency(row: sqlite3.Row) -> int:
    urgency_wall_ns = row["urgency_wall_ns"]
    return urgency_wall_ns if isinstance(urgency_wall_ns, int) else 0  # damaged: looked at first


def _is_slow(row: sqlite3.Row, host: str, rooms: Rooms) -> bool:
    return host in rooms.slow and row["id"] in rooms.slow[host][0]


def _problem_with(url: Secret) -> str:
    """Return why nothing can be sent to *url*, empty if something can."""
    return _host_or_problem(url)[1]


@lru_cache(maxsize=4096)
def _host_or_problem(url: Secret) -> tuple[str, str]:
    """Return the host of *url*, and why nothing can be sent to it; one of the two is empty."""
    try:
        return host_of(url.reveal()), ""
    except ValueError as problem:
        return "", str(problem)


def _latest_lease_ns(now: Moment) -> int:
    return now.boot_ns + int(LEASE_S * 1e9)

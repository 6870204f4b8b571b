"""Leases: who may send what, when, and what the end of an attempt means for its entry and its stream.

One stream has one lease, of one process; it ends with the attempt, or with the look-up of its ping URL, when its holder
is gone, or after ``LEASE_S``. Which entry of a stream is next the rules say, in the transaction that takes the lease. A
host's Retry-After holds for all streams. Works inside the transactions of ``aura_agent.outbox.store``.
"""

import sqlite3
from urllib.parse import urlsplit

from aura_agent.outbox.claims import Attempt, Ended, Rooms, Unresolved
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.hooks import HookCalls
from aura_agent.outbox.pruning import Pruner
from aura_agent.outbox.rules import Key, Moment, State
from aura_agent.outbox.senders import Senders
from aura_agent.outbox.streams import Streams, of_runs
from aura_agent.secret import Secret

LEASE_S = 90.0  # an attempt (30 s) and a fresh look at its URL (30 s), with room; a holder that needs longer hangs


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

    def take(
        self, limit: int, only_runs: frozenset[str] | None, rooms: Rooms, now: Moment
    ) -> tuple[list[Attempt], list[Unresolved]]:
        """Lease up to *limit* entries that may be sent, the most urgent first, as far as their hosts have room."""
        attempts: list[Attempt] = []
        unresolved: list[Unresolved] = []
        for host in rooms.reopened:
            self._streams.hurry_host(host)
        left = dict(rooms.known)
        # Whatever becomes of a stream that is due and whose host has room, it is that no more: leased, postponed,
        # merged, at rest, or known to be another host's.
        while rows := self._due(now, only_runs, limit - len(attempts), left, rooms.unknown):
            for row in rows:
                found = self._take_one(row, now, left, rooms.unknown)
                if isinstance(found, Attempt):
                    attempts.append(found)
                elif found is not None:
                    unresolved.append(found)
        return attempts, unresolved

    def next_due_s(self, now: Moment, only_runs: frozenset[str] | None) -> float | None:
        """Return when the next stream is due, beside those whose hosts have no room. Two ranges of the index."""
        condition, values = of_runs(only_runs)
        (lease_ends_ns,) = self._connection.execute(
            "SELECT min(lease_until_ns) FROM streams WHERE due_boot_ns IS NOT NULL"
            f" AND (due_epoch, due_boot_ns) <= (?, ?) AND lease_epoch = ? AND lease_until_ns > ?{condition}",
            (now.epoch, now.boot_ns, now.epoch, now.boot_ns, *values),
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
        attempt = ended.attempt
        self._pruner.saw(attempt.entry_id)
        if ended.host_not_before_s is not None:
            self._hold_host(attempt.host, now, ended.host_not_before_s)
        row = self._connection.execute(
            "SELECT ref, stream_id, epoch, started_boot_ns, run_id FROM entries WHERE id = ?", (attempt.entry_id,)
        ).fetchone()
        if row is None:
            self._release(attempt, attempt.stream_id)
            return State.DROPPED
        ref, stream_id, *key = row  # merged into another one since, perhaps, and the lease with it
        if ended.acknowledged:
            self._release(attempt, stream_id)
            self._connection.execute(
                "UPDATE entries SET state = 'delivered', reason = ?, tries = tries + 1, changed_wall_ns = ?"
                " WHERE id = ?",
                (ended.reason, now.wall_ns, attempt.entry_id),
            )
            self._streams.note_delivery(stream_id, Key(*key), now, ref)
        else:
            self._connection.execute(
                "UPDATE entries SET tries = tries + 1, reason = ?, changed_wall_ns = ?,"
                " body = CASE WHEN ? THEN NULL ELSE body END WHERE id = ? AND state = 'waiting'",
                (ended.reason, now.wall_ns, ended.drop_body, attempt.entry_id),
            )
            hurried = self._streams.is_hurried(stream_id)
            if self._release(attempt, stream_id):
                # A success that arrived during the attempt has a try of its own, at once, where parking is for long.
                wait_s = 0.0 if ended.parked and hurried else ended.delay_s
                self._streams.postpone(stream_id, now, wait_s, ended.reason, parked=ended.parked)
        may_have_arrived = None if ended.acknowledged else attempt.entry_id
        self._entries.settle(self._entries.merged(stream_id, now, may_have_arrived), now, may_have_arrived)
        (state,) = self._connection.execute("SELECT state FROM entries WHERE id = ?", (attempt.entry_id,)).fetchone()
        return State(state)

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

    def _due(
        self, now: Moment, only_runs: frozenset[str] | None, limit: int, rooms: dict[str, int], unknown_room: int
    ) -> list[sqlite3.Row]:
        """Return up to *limit* streams that are due, the most urgent first, as far as their hosts have room."""
        condition, values = of_runs(only_runs)
        found: list[sqlite3.Row] = []
        for host in self._streams.hosts():
            # The URLs of those without a host are looked at first: what they need is known then.
            room = limit if host == "" else min(limit, rooms.get(host, unknown_room))
            if room > 0:
                found += self._connection.execute(
                    "SELECT * FROM streams WHERE host = ? AND due_boot_ns IS NOT NULL"
                    " AND (due_epoch, due_boot_ns) <= (?, ?)"
                    f" AND (lease_owner IS NULL OR lease_epoch <> ? OR lease_until_ns <= ?){condition}"
                    " ORDER BY urgency_wall_ns, id LIMIT ?",
                    (host, now.epoch, now.boot_ns, now.epoch, now.boot_ns, *values, room),
                )
        return sorted(found, key=lambda row: row["urgency_wall_ns"])[:limit]

    def _take_one(
        self, row: sqlite3.Row, now: Moment, rooms: dict[str, int], unknown_room: int
    ) -> Attempt | Unresolved | None:
        stream_id = row["id"]
        if self._entries.merged(stream_id, now) != stream_id:
            return None  # the stream that it is part of is due
        heartbeat_id, url = self._streams.target(stream_id)
        if heartbeat_id is not None and url is not None and self._takes_in(stream_id, url, now):
            return None  # it is due anew, unless an attempt was under way there
        entry = self._entries.settle(stream_id, now)
        if entry is None:
            return None
        lease_until_ns = now.boot_ns + int(LEASE_S * 1e9)
        if url is None:
            self._senders.join()
            self._streams.lease(stream_id, self._owner, None, now.epoch, lease_until_ns)
            refs, is_foreign = self._streams.refs(stream_id), self._streams.is_foreign(stream_id)
            return Unresolved(stream_id, heartbeat_id, refs, row["tries"], is_foreign)
        host = host_of(url)
        if host != row["host"]:
            self._streams.set_host(stream_id, host)
        if rooms.get(host, unknown_room) <= 0:
            return None  # it stays due, and is looked at again when its host has room
        held_until_ns = self._host_not_before_ns(host, now)
        if held_until_ns > now.boot_ns:
            self._streams.set_due(stream_id, now.epoch, held_until_ns)
            return None
        rooms[host] = rooms.get(host, unknown_room) - 1
        sent = self._connection.execute(
            "SELECT id, run_id, job, body FROM entries WHERE run_id = ?", (entry.key.run_id,)
        ).fetchone()
        self._senders.join()
        self._streams.lease(stream_id, self._owner, sent["id"], now.epoch, lease_until_ns)
        stream = self._streams.facts(stream_id, now).stream
        return Attempt(
            entry_id=sent["id"],
            stream_id=stream_id,
            run_id=sent["run_id"],
            job=sent["job"],
            heartbeat=self._streams.name(stream_id),
            heartbeat_id=None if self._streams.is_foreign(stream_id) else heartbeat_id,
            url=url,
            host=host,
            body=sent["body"],
            tries=row["tries"],
            patience_known=stream.lifetime_s is not None,
            left_s=self._entries.left_s(stream, entry, now),
            lease_until_ns=lease_until_ns,
        )

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
        return int(row["not_before_ns"]) if row is not None and row["epoch"] == now.epoch else 0


def host_of(url: Secret) -> str:
    """Return host and port of *url*: what Retry-After holds for; empty where it is no URL, which whoever sends says."""
    try:
        return urlsplit(url.reveal()).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""

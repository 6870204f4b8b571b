"""The waiting pings of each stream, and the rules carried out on them.

``aura_agent.outbox.rules`` decides; this puts on record what it says, with its reason, and remembers what was withdrawn
until somebody is told. Works inside the transactions of ``aura_agent.outbox.store``.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from aura_agent.outbox import damage, rules
from aura_agent.outbox.claims import Dropped, Gone
from aura_agent.outbox.column_types import repair_types
from aura_agent.outbox.database import savepoint
from aura_agent.outbox.epochs import Epochs
from aura_agent.outbox.generation import HELD, Generation
from aura_agent.outbox.hooks import HookCalls, HookKind
from aura_agent.outbox.refs import stored
from aura_agent.outbox.rules import Key, Moment, State
from aura_agent.outbox.streams import Facts, Streams
from aura_agent.report.record import Outcome, Report

_CLOCKS_DIFFER_NS = 300 * 10**9  # Aura's may be behind ours, and it may tell whole seconds
_HELD_NS = 600 * 10**9  # until what is held is judged again: it may have expired


class Entries:
    """The entries of one store, stream by stream."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        streams: Streams,
        epochs: Epochs,
        hook_calls: HookCalls,
        generation: Generation,
    ) -> None:
        self._connection = connection
        self._generation = generation
        self._streams = streams
        self._epochs = epochs
        self._hook_calls = hook_calls
        self._withdrawn: dict[int, Gone] = {}  # by id: what a transaction that fails had withdrawn, the next does again

    def hear(self, stream_id: int, scope: int, outcomes: Sequence[tuple[Report, Key]], now: Moment) -> None:
        """Do to the stream's queue what *outcomes*, all of them news, do to it one after the other; write that once.

        Their refs are those of *scope*.
        """
        (known, *_), waiting = self._facts(stream_id, now)
        reports = {report.run_id: report for report, _ in outcomes}
        runs = [self._run(report, key, now) for report, key in outcomes]
        heard = rules.hear(known, waiting, runs, now, self._epochs.age_s(now))
        stream = heard.stream
        if heard.rested:
            self._streams.rest(stream_id)
        if heard.since is not None:
            self._streams.note_waiting(stream_id, heard.since)
        if stream.succeeded is not None and stream.succeeded != known.succeeded:
            self._streams.note_success(stream_id, stream.succeeded)
        if stream.failed is not None and stream.failed != known.failed:
            self._streams.note_failure(stream_id, stream.failed)
            self._generation.grow(now, contradicts=True)
        for ref in {report.ref for report, _ in outcomes if report.ref is not None}:
            keys = [(report.outcome, key) for report, key in outcomes if report.ref == ref]
            failed = max((key for outcome, key in keys if outcome.withdraws), default=None)
            succeeded = max((key for outcome, key in keys if outcome is Outcome.SUCCEEDED), default=None)
            self._streams.note_by_ref(ref, scope, failed=failed, succeeded=succeeded)
        for entry in heard.entered:
            run_id = entry.key.run_id
            self._insert(stream_id, entry, reports[run_id], heard.withdrawn.get(run_id), now)
        waited = {entry.key.run_id for entry in waiting}
        self._carry_out([gone for run_id, gone in heard.withdrawn.items() if run_id in waited], stream_id, now)
        self._tell_if_expired(heard.withdrawn.values(), stream_id, now)
        if heard.sendable:
            self._streams.set_urgency(stream_id, rules.urgency_wall_ns(stream, heard.sendable))

    def settle(self, stream_id: int, now: Moment, may_have_arrived: int | None = None) -> rules.Waiting | None:
        """Apply the rules to one stream; return the entry that is next to be sent, if there is one.

        *may_have_arrived* is an entry whose attempt has just ended without an acknowledgement.
        """
        return self.next(stream_id, now, may_have_arrived)[1]

    def next(
        self, stream_id: int, now: Moment, may_have_arrived: int | None = None
    ) -> tuple[rules.Stream, rules.Waiting | None]:
        """The same; return what is known of the stream, too."""
        facts, waiting = self._facts(stream_id, now, may_have_arrived)
        stream = facts.stream
        judgement = rules.judge(stream, waiting, now, self._epochs.age_s(now))
        self._carry_out(judgement.withdrawn, stream_id, now)
        self._tell_if_expired(judgement.withdrawn, stream_id, now)
        if judgement.sendable:
            urgency_wall_ns = rules.urgency_wall_ns(stream, judgement.sendable)
            if urgency_wall_ns != facts.urgency_wall_ns:
                self._streams.set_urgency(stream_id, urgency_wall_ns)
        elif any(entry.held for entry in waiting):
            self._streams.set_due(stream_id, now.epoch, now.boot_ns + _HELD_NS)
        elif not any(entry.under_way for entry in waiting):
            self._streams.rest(stream_id)
        return stream, judgement.sendable[0] if judgement.sendable else None

    def merged(self, stream_id: int, now: Moment, may_have_arrived: int | None = None) -> int:
        """Return what *stream_id* is part of by now. While attempts are under way in both it stays as it is.

        If it has a heartbeat, what names another one by now leaves it.
        """
        row = self._streams.row(stream_id)
        heartbeat = self._streams.known_heartbeat(row)
        if heartbeat is None:
            self._follow(stream_id, self._streams.part(row, now), now, may_have_arrived)
            return stream_id
        try:
            if self._streams.facts(stream_id, now).under_way is not None and self._streams.is_leased(*heartbeat, now):
                return stream_id  # who next takes the heartbeat's lease asks again
        except damage.UNREADABLE:
            self.quarantine(stream_id, now)
        scope, heartbeat_id = heartbeat
        return self.attach(stream_id, heartbeat_id, now, scope)

    def attach(self, stream_id: int, heartbeat_id: str, now: Moment, scope: int | None = None) -> int:
        """Make *stream_id* the heartbeat's, and apply the rules; return the stream that it is part of by now."""
        try:
            with savepoint(self._connection):
                return self._attach(stream_id, heartbeat_id, now, scope)
        except damage.UNREADABLE:
            for each in (stream_id, self._streams.of_heartbeat(heartbeat_id, scope)):
                if each is not None:
                    self.quarantine(each, now)
        return self._attach(stream_id, heartbeat_id, now, scope)

    def quarantine(self, stream_id: int, now: Moment) -> bool:
        """Quarantine damaged pings of the stream, and restore its marks; return whether there was anything damaged.

        If nobody can tell any more when its newest failure was, all waiting pings are quarantined.
        """
        waiting = self._connection.execute(
            "SELECT * FROM entries WHERE stream_id = ? AND state = 'waiting'", (stream_id,)
        ).fetchall()
        damaged = {row["id"]: found for row in waiting if (found := _damage(row, now))}
        is_mistyped = self._repair_types(stream_id)
        try:
            self._streams.facts(stream_id, now)
        except damage.UNREADABLE:
            if lost := self._streams.repair(stream_id, now):
                damaged = {row["id"]: f"{lost}, in what is known of the heartbeat" for row in waiting} | damaged
        else:
            if not damaged:
                return is_mistyped
        for entry_id, found in damaged.items():
            self.withdraw(entry_id, stream_id, State.QUARANTINED, f"damaged in the store: {found}: not sent", now)
        return True

    def part(self, stream_ids: Iterable[int], now: Moment, may_have_arrived: int | None = None) -> None:
        """Let what names another heartbeat by now leave each stream, and the one that it goes to; then judge.

        Not before all have parted: names may have been swapped.
        """
        self._part(list(stream_ids), set(), set(), now, may_have_arrived)

    def _follow(self, stream_id: int, targets: list[int], now: Moment, may_have_arrived: int | None) -> None:
        """Go on with *targets*, to which something has left *stream_id*."""
        if targets:
            self._part([*targets], {stream_id}, {stream_id, *targets}, now, may_have_arrived)

    def _part(
        self, left: list[int], seen: set[int], touched: set[int], now: Moment, may_have_arrived: int | None
    ) -> None:
        """Let each of *left* part, then judge those *touched*."""
        while left:
            stream_id = left.pop()
            if stream_id not in seen:
                seen.add(stream_id)
                if targets := self._streams.part(self._streams.row(stream_id), now):
                    left += targets
                    touched |= {stream_id, *targets}
        for stream_id in sorted(touched):
            self.settle_over_damage(stream_id, now, may_have_arrived)

    def settle_over_damage(self, stream_id: int, now: Moment, may_have_arrived: int | None = None) -> None:
        """Apply the rules to one stream; where a row is damaged, quarantine and repair. What is left is due."""
        try:
            with savepoint(self._connection):
                self.settle(stream_id, now, may_have_arrived)
        except damage.UNREADABLE:
            self.quarantine(stream_id, now)

    def damaged(self, now: Moment) -> list[int]:
        """Return the streams of which a mark or a waiting ping is damaged. Reads only."""
        found = []
        for (stream_id,) in self._connection.execute("SELECT id FROM streams ORDER BY id").fetchall():
            try:
                self._facts(stream_id, now)
            except damage.UNREADABLE:
                found.append(stream_id)
        return found

    def left_s(self, stream: rules.Stream, entry: rules.Waiting, now: Moment) -> float:
        """Return for how long *entry* of *stream* stays worth sending."""
        return rules.left_s(stream, entry, now, self._epochs.age_s(now))

    def drop(self, entry_ids: Collection[int] | None, reason: str, now: Moment) -> Dropped:
        """End those of *entry_ids* (None: all) that wait; one that is under way is left alone."""
        waiting = self._connection.execute(
            "SELECT id, stream_id FROM entries WHERE state = 'waiting' ORDER BY id"
        ).fetchall()
        dropped, under_way = list[int](), list[int]()
        for row in waiting:
            if entry_ids is not None and row["id"] not in entry_ids:
                continue
            if self._is_under_way(row["id"], row["stream_id"], now):
                under_way.append(row["id"])
                continue
            self.withdraw(row["id"], row["stream_id"], State.DROPPED, reason, now)
            dropped.append(row["id"])
        if dropped:
            self._generation.grow(now, contradicts=True)
        return Dropped(tuple(dropped), tuple(under_way))

    def release_held(self, streams: Collection[int] | None = None) -> None:
        """Send what is held after all, of *streams* or of all: somebody knows that it is as true as ever."""
        for row in self._held():
            if streams is None or row["stream_id"] in streams:
                self._connection.execute("UPDATE entries SET held = 0, reason = '' WHERE id = ?", (row["id"],))
                self._streams.hurry(row["stream_id"])

    def judge_held(self, last_pings_ns: Mapping[int, int], now: Moment) -> None:
        """Judge what is held by when Aura last heard of each stream.

        Not at all since then, and it may be sent, unless anything was contradicted since: Aura hears of no failure.
        """
        may_release = not self._generation.holds_what_was_contradicted()
        for row in self._held():
            last_ping_ns = last_pings_ns.get(row["stream_id"])
            if last_ping_ns is None:
                continue
            if last_ping_ns > row["ended_wall_ns"]:
                reason = "Aura has had a later ping, before the store was put back"
                self.withdraw(row["id"], row["stream_id"], State.SUPERSEDED, reason, now)
                self.settle_over_damage(row["stream_id"], now)
            elif may_release and last_ping_ns < row["ended_wall_ns"] - _CLOCKS_DIFFER_NS:
                self.release_held((row["stream_id"],))

    def _held(self) -> list[sqlite3.Row]:
        return self._connection.execute(
            "SELECT id, stream_id, ended_wall_ns FROM entries WHERE state = 'waiting' AND held ORDER BY id"
        ).fetchall()

    def withdraw(self, entry_id: int, stream_id: int, state: State, reason: str, now: Moment) -> None:
        """Put on record that an entry waits no more; the next claim tells of it."""
        self._connection.execute(
            "UPDATE entries SET state = ?, reason = ?, changed_wall_ns = ? WHERE id = ?",
            (state, reason, now.wall_ns, entry_id),
        )
        self._note_gone(entry_id, stream_id, state, reason)

    def take_withdrawn(self) -> tuple[Gone, ...]:
        """Return, once, what has been withdrawn."""
        withdrawn, self._withdrawn = self._withdrawn, {}
        return tuple(withdrawn.values())

    # -- private -------------------------------------------------------------------------------------------------

    def _attach(self, stream_id: int, heartbeat_id: str, now: Moment, scope: int | None) -> int:
        target = self._streams.attach(stream_id, heartbeat_id, now, scope)
        self.settle(target, now)
        return target

    def _repair_types(self, stream_id: int) -> bool:
        """Make the rows of the stream writable again; return whether any was not."""
        heartbeat = "id = (SELECT heartbeat_id FROM streams WHERE id = ?)"
        repaired = (
            repair_types(self._connection, "streams", "id = ?", (stream_id,))
            + repair_types(self._connection, "refs", "stream_id = ?", (stream_id,))
            + repair_types(self._connection, "entries", "stream_id = ? AND state = 'waiting'", (stream_id,))
            + repair_types(self._connection, "heartbeats", heartbeat, (stream_id,))
        )
        self._streams.wake_resting()
        return repaired > 0

    def _is_under_way(self, entry_id: int, stream_id: int, now: Moment) -> bool:
        try:
            return self._streams.facts(stream_id, now).under_way == entry_id
        except damage.UNREADABLE:
            return False

    def _run(self, report: Report, key: Key, now: Moment) -> rules.Run:
        """Return what *report* says, its end mended as far as the store knows better."""
        reported = Moment(key.epoch, report.ended.boot_ns, report.ended.wall_ns)
        ended = rules.true_end(reported, now, self._epochs.newest_before_ns(key.epoch))
        held = report.outcome is Outcome.SUCCEEDED and self._generation.holds(reported)
        return rules.Run(key, ended, report.outcome, report.max_age_s, report.replay_all, held)

    def _facts(
        self, stream_id: int, now: Moment, may_have_arrived: int | None = None
    ) -> tuple[Facts, list[rules.Waiting]]:
        """Return what the rules need to know of a stream."""
        rows = self._connection.execute(
            "SELECT id, run_id, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns, max_age_s, replay_all,"
            " held FROM entries WHERE stream_id = ? AND state = 'waiting'",
            (stream_id,),
        ).fetchall()
        facts = self._streams.facts(stream_id, now)
        for row in rows:
            if problem := _damage(row, now):
                raise ValueError(problem)
        return facts, [
            rules.Waiting(
                Key(row["epoch"], row["started_boot_ns"], row["run_id"]),
                Moment(row["epoch"], row["ended_boot_ns"], row["ended_wall_ns"]),
                row["max_age_s"],
                bool(row["replay_all"]),
                under_way=row["id"] == facts.under_way,
                may_have_arrived=row["id"] in (may_have_arrived, facts.leased),
                held=bool(row["held"]),
            )
            for row in rows
        ]

    def _carry_out(self, withdrawn: Iterable[rules.Withdrawal], stream_id: int, now: Moment) -> None:
        for gone in withdrawn:
            row = self._connection.execute("SELECT id FROM entries WHERE run_id = ?", (gone.run_id,)).fetchone()
            self.withdraw(row["id"], stream_id, gone.state, gone.reason, now)

    def _tell_if_expired(self, withdrawn: Iterable[rules.Withdrawal], stream_id: int, now: Moment) -> None:
        """Note the call that tells people of the first that has expired, unless they know that nothing gets through."""
        expired = next((gone for gone in withdrawn if gone.state is State.EXPIRED), None)
        if expired is None or self._streams.is_told(stream_id):
            return
        row = self._connection.execute("SELECT job FROM entries WHERE run_id = ?", (expired.run_id,)).fetchone()
        reason = f"expired undelivered: {expired.reason}"
        self._hook_calls.note(HookKind.UNDELIVERABLE, row["job"], expired.run_id, reason, now)
        self._streams.note_told(stream_id)

    def _insert(
        self, stream_id: int, entry: rules.Waiting, report: Report, gone: rules.Withdrawal | None, now: Moment
    ) -> None:
        """Put *entry* on record; *gone* is what has withdrawn it already."""
        state, reason = (State.WAITING, HELD if entry.held else "") if gone is None else (gone.state, gone.reason)
        inserted = self._connection.execute(
            "INSERT INTO entries (stream_id, run_id, job, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns,"
            " max_age_s, replay_all, body, state, reason, accepted_wall_ns, changed_wall_ns, ref, held)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                stream_id,
                report.run_id,
                report.job,
                entry.key.epoch,
                entry.key.boot_ns,
                entry.ended.boot_ns,
                entry.ended.wall_ns,
                entry.max_age_s,
                entry.replay_all,
                report.body,
                state,
                reason,
                now.wall_ns,
                now.wall_ns,
                None if report.ref is None else stored(report.ref),
                entry.held,
            ),
        )
        if gone is not None:
            self._note_gone(inserted.lastrowid or 0, stream_id, state, reason)

    def _note_gone(self, entry_id: int, stream_id: int, state: State, reason: str) -> None:
        self._withdrawn[entry_id] = Gone(entry_id, self._streams.name(stream_id), state, reason)


def _damage(row: sqlite3.Row, now: Moment) -> str:
    """Return which column of a waiting entry can't be what was written; empty if none."""
    try:
        damage.check_instant(row, "epoch", "started_boot_ns", now.newest_epoch)
        damage.check_instant(row, "epoch", "ended_boot_ns", now.newest_epoch)
        damage.check_wall_time(row, "ended_wall_ns")
        damage.check_run_id(row, "run_id")
        damage.check_age(row, "max_age_s")
    except damage.UNREADABLE as problem:
        return str(problem)
    return ""

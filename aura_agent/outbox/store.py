"""The outbox: reports go in, attempts come out, and every change is one synced transaction.

Owns the rules' application (``aura_agent.outbox.rules`` decides, this module carries it out), the leases, and the
way of spool and start records into the database. Knows nothing of HTTP: it hands out what to send and is told how that
went.

Many processes may hold one store open: each decision is made inside a write transaction (BEGIN IMMEDIATE), and a
lease per stream sees to it that one attempt is under way at a time. Methods block on the disk; an event loop calls
them through ``aura_agent.outbox.worker``. Not thread-safe: one thread at a time.

It is long because accepting, claiming and settling are steps of the same transactions: what can be told apart stands
beside it (``streams``, ``intake``, ``jobs``, ``claims``, ``queries``).
"""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from aura_agent.clock import Clock, Reading, SystemClock
from aura_agent.errors import StoreDamagedError, StoreError
from aura_agent.outbox import rules
from aura_agent.outbox.claims import Attempt, Claim, Dropped, Ended, Gone, Rooms, Unresolved
from aura_agent.outbox.database import open_database, reading, transaction
from aura_agent.outbox.hooks import HookCall, HookCalls, HookKind, Undelivered
from aura_agent.outbox.intake import as_lost, read_spooled, set_aside, storable
from aura_agent.outbox.jobs import JobMarks
from aura_agent.outbox.pruning import Bounds, is_crowded, prune, vacuum
from aura_agent.outbox.rules import Key, Moment, State
from aura_agent.outbox.senders import Senders
from aura_agent.outbox.streams import CachedHeartbeat, Streams
from aura_agent.report import boots, spool, started
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret

LEASE_S = 90.0  # an attempt (30 s) and a fresh look at its URL (30 s), with room; a holder that needs longer hangs
_PRUNE_EVERY = 200  # rows of history and ended attempts, whoever wrote them


_BOUNDS = Bounds()
_STORE_IS_FULL = "a later success waits, and the store is full"


class Outbox:
    """One store's queue. *owner* names the process in leases; *hostname* completes names that commands lend."""

    def __init__(
        self,
        directory: str | None,
        clock: Clock,
        *,
        owner: str,
        hostname: str,
        boot_id: str | None = None,
        bounds: Bounds = _BOUNDS,
        check: bool = False,
    ) -> None:
        """Open or create the store in *directory*; None: one in memory, for when no directory can be used.

        *boot_id* is the boot of *clock*, by default the kernel's. *check* reads the whole file first, and sets it
        aside if it is damaged. Raises StoreError.
        """
        self.directory = directory
        self._notices: list[str] = []
        self._clock = clock
        self._owner = owner
        self._boot_id = boot_id or boots.current_boot_id()
        if directory is None:
            self._epoch = 1
            self._connection, _ = open_database(":memory:")
        else:
            try:
                spool.prepare(directory)
                self._epoch = boots.count(directory, self._boot_id)
            except OSError as problem:
                raise StoreError(
                    f"{directory}: {problem.strerror}: check the directory's owner and the disk"
                ) from problem
            self._path = os.path.join(directory, "outbox.db")
            self._connection, aside = open_database(self._path, check=check)
            self._inode = os.stat(self._path).st_ino
            if aside:
                self._notices.append(f"{self._path} is damaged: set aside as {aside}; what waited in it is not sent")
        self._senders = Senders(directory, owner)
        self.streams = Streams(self._connection, hostname)
        self.jobs = JobMarks(self._connection)
        self._hook_calls = HookCalls(self._connection)
        self._bounds = bounds
        self._prune_due = False
        self._withdrawn: list[Gone] = []
        self._lost: list[str] = []
        self._epoch_began_ns = self._first_seen_ns()

    @property
    def connection(self) -> sqlite3.Connection:
        """For ``aura_agent.outbox.queries``; everything that writes is a method here."""
        return self._connection

    def close(self) -> None:
        self._senders.leave()
        self._connection.close()

    def now(self) -> Moment:
        reading = self._clock.read()
        return Moment(self._epoch, reading.boot_ns, reading.wall_ns)

    # -- accepting -----------------------------------------------------------------------------------------------

    def accept(self, reports: Iterable[Report]) -> list[str]:
        """Make *reports* durable, in one transaction, and return the run ids that were new. Raises StoreError."""
        self._check_that_it_is_still_there()
        with transaction(self._connection):
            now = self.now()
            accepted = [report.run_id for report in reports if self._accept(report, now)]
        self._prune_sometimes()
        return accepted

    def take_spool(self) -> int:
        """Bring in what the spool holds and judge lost runs; return how many reports were new."""
        if not self._anything_to_take():
            return 0
        with self._intake() as count:
            return count

    def begin(self, runs: Iterable[tuple[str, str, str | None, Reading]]) -> None:
        """Put on record that attempts of the daemon's own *runs* go on: run id, job, ref, start of the attempt."""
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT OR REPLACE INTO open_runs VALUES (?, ?, ?, ?, ?, ?)",
                [(run_id, job, ref, self._epoch, *started) for run_id, job, ref, started in runs],
            )

    def lose_open_runs(self) -> list[str]:
        """Judge the runs that an earlier daemon left without an outcome, in the spool either: they are lost.

        Return their jobs. Only for the daemon, as it starts: it alone has such runs, and it holds the store's lock.
        """
        now = self.now()
        with self._intake():
            rows = self._connection.execute("SELECT * FROM open_runs").fetchall()
            for row in rows:
                key = Key(row["epoch"], row["started_boot_ns"], row["run_id"])
                if row["ref"]:
                    stream_id = self.streams.of(row["ref"])
                    self.streams.note_failure(stream_id, key)
                    self._settle(stream_id, now)
                started = Reading(key.boot_ns, row["started_wall_ns"])
                lost = Report(
                    run_id=key.run_id,
                    boot_id="",
                    started=started,
                    ended=started,
                    outcome=Outcome.LOST,
                    ref=row["ref"],
                    job=row["job"],
                    reason="the agent went away while it ran",
                )
                if not self._is_known(lost):
                    self._write_history(lost)
                    self._hook_calls.heard(lost, key, now)
            self._connection.execute("DELETE FROM open_runs")
        return [row["job"] for row in rows]

    def _accept(self, report: Report, now: Moment) -> bool:
        self._connection.execute("DELETE FROM open_runs WHERE run_id = ?", (report.run_id,))
        if self._is_known(report):
            return False
        report = storable(report)
        epoch = self._epoch_of(report.boot_id)
        self._write_history(report)
        self._hook_calls.heard(report, Key(epoch, report.started.boot_ns, report.run_id), now)
        if report.ref is not None and report.outcome != Outcome.SKIPPED:
            key = Key(epoch, report.started.boot_ns, report.run_id)
            stream_id = self.streams.of(report.ref)
            if report.outcome is Outcome.SUCCEEDED:
                ended = self._insert_entry(report, stream_id, key, now)
                self.streams.note_waiting(stream_id, ended)
            else:
                self.streams.note_failure(stream_id, key)
            self._settle(stream_id, now)
        self._connection.execute(
            "INSERT INTO epochs (epoch, newest_wall_ns) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET newest_wall_ns = max(newest_wall_ns, excluded.newest_wall_ns)",
            (epoch, report.ended.wall_ns),
        )
        return True

    def _is_known(self, report: Report) -> bool:
        """Whether the run's outcome is on record; ``lost`` gives way to every other."""
        run = self._connection.execute("SELECT outcome FROM runs WHERE run_id = ?", (report.run_id,)).fetchone()
        if run is not None:
            return bool(run["outcome"] != Outcome.LOST or report.outcome is Outcome.LOST)
        # The history is pruned earlier than the entries.
        entry = self._connection.execute("SELECT 1 FROM entries WHERE run_id = ?", (report.run_id,)).fetchone()
        return entry is not None

    def _insert_entry(self, report: Report, stream_id: int, key: Key, now: Moment) -> Moment:
        """Return when the run ended, as far as the store knows better."""
        (newest_before_ns,) = self._connection.execute(
            "SELECT coalesce(max(newest_wall_ns), 0) FROM epochs WHERE epoch < ?", (key.epoch,)
        ).fetchone()
        ended = rules.true_end(Moment(key.epoch, report.ended.boot_ns, report.ended.wall_ns), now, newest_before_ns)
        self._connection.execute(
            "INSERT INTO entries (stream_id, run_id, job, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns,"
            " max_age_s, replay_all, body, state, accepted_wall_ns, changed_wall_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?)",
            (
                stream_id,
                report.run_id,
                report.job,
                key.epoch,
                key.boot_ns,
                ended.boot_ns,
                ended.wall_ns,
                report.max_age_s,
                report.replay_all,
                report.body,
                now.wall_ns,
                now.wall_ns,
            ),
        )
        return ended

    def _write_history(self, report: Report) -> None:
        written = self._connection.execute(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                report.run_id,
                report.job,
                self.streams.label(report.ref),
                report.outcome,
                report.started.wall_ns,
                report.duration_s,
                report.exit_code,
                report.signal,
                report.attempts,
                report.reason,
                report.tail,
                report.cpu_s,
                report.max_rss_bytes,
                report.io_read_bytes,
                report.io_written_bytes,
            ),
        )
        if (written.lastrowid or 0) % _PRUNE_EVERY == 0:
            self._prune_due = True

    @contextmanager
    def _intake(self) -> Iterator[int]:
        """One write transaction that first brings in the spool and judges lost runs; yields how many were new.

        The files go once that is committed, and not into a database that somebody has set aside under our hands.
        """
        with transaction(self._connection):
            now = self.now()
            abandoned = self._abandoned(now)
            spooled, count = self._take_spool(now)
            for _, line in abandoned:
                count += self._judge_lost(line, now)
            yield count
        if abandoned or spooled:
            self._check_that_it_is_still_there()
        for path in spooled:
            spool.remove(path)
        for path, _ in abandoned:
            started.forget(path)
        self._prune_sometimes()

    def _check_that_it_is_still_there(self) -> None:
        if problem := self._gone():
            raise StoreDamagedError(problem)

    def _gone(self) -> str:
        """Return what has become of our file if it isn't where it was; what it holds can still be sent from here."""
        if self.directory is None:
            return ""
        try:
            if os.stat(self._path).st_ino == self._inode:
                return ""
        except OSError:
            return f"{self._path} was removed: restart aura-agent, which begins a new one"
        return f"{self._path} was removed or set aside, and another one is in its place: restart aura-agent"

    def _abandoned(self, now: Moment) -> list[tuple[str, bytes]]:
        return [] if self.directory is None else started.abandoned(self.directory, now.wall_ns)

    def _take_spool(self, now: Moment) -> tuple[list[str], int]:
        """Accept what the spool holds; return the files that may go then, and how many reports were new."""
        taken, count = [], 0
        for path in self._spooled():
            report = read_spooled(path, now, self._notices.append)
            if report is None:
                continue
            if (new := self._try_to_accept(report, now)) is None:
                set_aside(path, self._notices.append)
            else:
                taken.append(path)
                count += new
        return taken, count

    def _judge_lost(self, line: bytes, now: Moment) -> bool:
        """Accept the run of a start record as lost, unless its outcome is known; return whether it is news."""
        lost = as_lost(line, now, self._boot_id)
        if lost is None or not self._try_to_accept(lost, now):
            return False
        self._lost.append(lost.job)
        return True

    def _try_to_accept(self, report: Report, now: Moment) -> bool | None:
        """Return whether *report* is new; None: it is whole, and yet nothing that can be kept."""
        self._connection.execute("SAVEPOINT report")
        new: bool | None = None
        try:
            new = self._accept(report, now)
        except (ValueError, OverflowError, sqlite3.IntegrityError):
            self._connection.execute("ROLLBACK TO report")
        self._connection.execute("RELEASE report")
        return new

    # -- sending -------------------------------------------------------------------------------------------------

    def claim(
        self,
        limit: int,
        *,
        only_runs: frozenset[str] | None = None,
        rooms: Rooms | None = None,
        ended: Sequence[Ended] = (),
    ) -> Claim:
        """Settle what has *ended*, read in the spool, judge lost runs, apply the rules, lease up to *limit* entries.

        All in one transaction, whose sync they share. Of each host no more than *rooms* says, the most urgent first.
        With *only_runs*, nothing but the streams of those runs is looked at.
        """
        attempts: list[Attempt] = []
        unresolved: list[Unresolved] = []
        settled: list[State] = []
        next_due_s = None
        if ended or self._anything_to_do():
            with self._intake():
                now = self.now()
                settled = [self._end(each, now) for each in ended]
                self._release_gone()
                rooms = rooms or Rooms()
                for host in rooms.reopened:
                    self.streams.hurry_host(host)
                left = dict(rooms.known)
                # Whatever becomes of a stream that is due and whose host has room, it is that no more: leased,
                # postponed, merged, at rest, or known to be another host's.
                while rows := self._due_streams(now, only_runs, limit - len(attempts), left, rooms.unknown):
                    for row in rows:
                        found = self._claim_stream(row, now, left, rooms.unknown)
                        if isinstance(found, Attempt):
                            attempts.append(found)
                        elif found is not None:
                            unresolved.append(found)
                next_due_s = 0.0 if len(attempts) >= limit else self._next_due_s(now, only_runs)
        withdrawn, self._withdrawn = self._withdrawn, []
        lost, self._lost = self._lost, []
        with reading():
            hook_calls = self._hook_calls.any()
        return Claim(
            tuple(settled),
            tuple(attempts),
            tuple(unresolved),
            tuple(withdrawn),
            tuple(lost),
            tuple(self.take_notices()),
            next_due_s,
            hook_calls,
            self._gone(),
        )

    def take_notices(self) -> list[str]:
        """Return, once, the lines that tell of what had to be set aside."""
        notices, self._notices = self._notices, []
        return notices

    def settle(self, ended: Sequence[Ended]) -> list[State]:
        """Put on record how attempts ended; return their entries' states."""
        with transaction(self._connection):
            now = self.now()
            return [self._end(each, now) for each in ended]

    def postpone_unresolved(self, stream_id: int, reason: str, delay_s: float, *, parked: bool = False) -> None:
        """The stream's ping URL can't be had now: ask again after *delay_s*."""
        with transaction(self._connection):
            self.streams.postpone(stream_id, self.now(), delay_s, reason, parked=parked)

    def attach(self, stream_id: int, heartbeat_id: str) -> None:
        """The stream is this heartbeat's: merge it with what is already known under that id, and try at once."""
        now = self.now()
        with transaction(self._connection):
            self._settle(self.streams.attach(stream_id, heartbeat_id), now)

    def stream(self, ref: str) -> tuple[int, str | None, Secret | None]:
        """Return the stream of *ref*, its heartbeat's id and its ping URL, as far as they are known."""
        with transaction(self._connection):
            stream_id = self.streams.of(ref)
            return stream_id, self.streams.heartbeat_id(stream_id), self.streams.url(stream_id)

    def remember(self, heartbeats: list[CachedHeartbeat], *, whole: bool = True) -> None:
        """Put *heartbeats*, by default a whole listing, into the cache; merge the streams that turn out to be one."""
        now = self.now()
        with transaction(self._connection):
            self.streams.remember(heartbeats, whole=whole)
            self._merge_known(now)

    def remember_url(self, heartbeat_id: str, url: Secret, wall_ns: int) -> bool:
        """Cache a ping URL; return whether it is another one than before."""
        with transaction(self._connection):
            now = self.now()
            changed = self.streams.remember_url(heartbeat_id, url, wall_ns)
            if changed:
                self.streams.hurry_heartbeat(heartbeat_id)
            for stream_id in self.streams.at_url(url):
                self._merged(stream_id, now)
        return changed

    def follow_name(self, heartbeat_id: str) -> bool:
        """The heartbeat is gone from Aura: its stream goes over to the one that has its name now, if there is one."""
        with transaction(self._connection):
            now = self.now()
            found = self.streams.successor(heartbeat_id)
            if found is None:
                return False
            stream_id, successor_id = found
            self.streams.detach(stream_id)
            self._settle(self.streams.attach(stream_id, successor_id), now)
        return True

    def release_leases(self) -> None:
        """Give back what this process holds: its attempts were given up, or it never learnt of them."""
        with transaction(self._connection):
            self.streams.release(self._owner)

    def unpark(self) -> None:
        """Try at once what is parked or was not tried yet: before a start or reload, people mend things."""
        with transaction(self._connection):
            self._connection.execute(
                "UPDATE streams SET due_epoch = 0, due_boot_ns = 0, parked = 0"
                " WHERE due_boot_ns IS NOT NULL AND (parked OR tries = 0)"
            )

    def hurry(self, only_runs: frozenset[str] | None = None) -> None:
        """Make everything that waits due now, parked or backing off; a host's Retry-After stays.

        With *only_runs*, nothing but the streams of those runs.
        """
        condition, values = _of_runs(only_runs)
        with transaction(self._connection):
            self._connection.execute(
                f"UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE due_boot_ns IS NOT NULL{condition}", values
            )

    def drop(self, entry_ids: Collection[int] | None, reason: str) -> Dropped:
        """End those of *entry_ids* (None: all) that wait, by a person's decision; one that is under way is left alone.

        The next claim tells of them, as of all that is withdrawn.
        """
        with transaction(self._connection):
            now = self.now()
            waiting = self._connection.execute(
                "SELECT id, stream_id FROM entries WHERE state = 'waiting' ORDER BY id"
            ).fetchall()
            dropped, under_way = list[int](), list[int]()
            for row in waiting:
                if entry_ids is not None and row["id"] not in entry_ids:
                    continue
                if self.streams.facts(row["stream_id"], now)[1] == row["id"]:
                    under_way.append(row["id"])
                    continue
                self._withdraw(row["id"], row["stream_id"], State.DROPPED, reason, now)
                dropped.append(row["id"])
        return Dropped(tuple(dropped), tuple(under_way))

    def note_ping_by_hand(self, stream_id: int) -> None:
        """A ping that is no entry got through: whoever compares with Aura shall not take it for somebody else's."""
        with transaction(self._connection):
            self._connection.execute(
                "UPDATE streams SET delivered_wall_ns = ? WHERE id = ?", (self.now().wall_ns, stream_id)
            )

    def waiting_count(self) -> int:
        """Return how many entries wait, those in the spool included."""
        with reading():
            (count,) = self._connection.execute("SELECT count(*) FROM entries WHERE state = 'waiting'").fetchone()
        return int(count) + len(self._spooled())

    def _first_seen_ns(self) -> int:
        """Return the CLOCK_BOOTTIME at which this store first saw the boot that we are in."""
        query = "SELECT first_boot_ns FROM epochs WHERE epoch = ? AND first_boot_ns IS NOT NULL"
        with reading():
            row = self._connection.execute(query, (self._epoch,)).fetchone()
        if row is not None:
            return int(row["first_boot_ns"])
        with transaction(self._connection):
            boot_ns = self.now().boot_ns
            self._connection.execute(
                "INSERT INTO epochs VALUES (?, 0, ?)"
                " ON CONFLICT DO UPDATE SET first_boot_ns = coalesce(first_boot_ns, excluded.first_boot_ns)",
                (self._epoch, boot_ns),
            )
        return boot_ns

    # -- hooks ---------------------------------------------------------------------------------------------------

    def take_hook_calls(self, limit: int, noted_since_ns: int = 0) -> list[HookCall]:
        """Return up to *limit* calls that nobody has taken, oldest first; they are ours until done, or we are gone.

        Only those that were noted since that instant of the wall clock.
        """
        with transaction(self._connection):
            self._release_gone()
            self._senders.join()
            return self._hook_calls.take(self._owner, self.now(), limit, noted_since_ns)

    def end_hook_call(self, call_id: int) -> None:
        """People have been told, or can't be."""
        with transaction(self._connection):
            self._hook_calls.done(call_id)

    def release_hook_calls(self) -> None:
        """Give back the calls that we haven't come to the end of."""
        with transaction(self._connection):
            self._hook_calls.release(self._owner)

    def undelivered(self) -> list[Undelivered]:
        """Return the streams whose pings wait, unless people were told."""
        with reading():
            return self.streams.undelivered(self.now())

    def tell_undeliverable(self, stream: Undelivered, reason: str) -> None:
        """Note the call that tells people of it, once until one of its pings is delivered."""
        with transaction(self._connection):
            if not self.streams.is_told(stream.stream_id):
                self._hook_calls.note(HookKind.UNDELIVERABLE, stream.job, stream.run_id, reason, self.now())
                self.streams.note_told(stream.stream_id)

    # -- inside a transaction ------------------------------------------------------------------------------------

    def _tell_undeliverable(self, stream_id: int, entry_id: int, reason: str, now: Moment) -> None:
        row = self._connection.execute("SELECT job, run_id FROM entries WHERE id = ?", (entry_id,)).fetchone()
        self._hook_calls.note(HookKind.UNDELIVERABLE, row["job"], row["run_id"], reason, now)
        self.streams.note_told(stream_id)

    def _merge_known(self, now: Moment) -> None:
        """Attach every stream whose heartbeat the cache has come to know: a failure under another name counts too."""
        for stream_id in self.streams.unattached():
            self._merged(stream_id, now)

    def _merged(self, stream_id: int, now: Moment) -> int:
        """Return what *stream_id* is part of by now. While an attempt is under way it stays: its end asks again."""
        heartbeat_id = self.streams.known_heartbeat(stream_id)
        if heartbeat_id is None or self.streams.facts(stream_id, now)[1] is not None:
            return stream_id
        target = self.streams.attach(stream_id, heartbeat_id)
        self._settle(target, now)
        return target

    def _spooled(self) -> list[str]:
        if self.directory is None:
            return []
        with reading():
            return spool.waiting(self.directory)

    def _epoch_of(self, boot_id: str) -> int:
        """Return the boot's epoch; 0, before all others, for one that this store never saw."""
        if boot_id == self._boot_id:
            return self._epoch
        return 0 if self.directory is None else boots.known(self.directory).get(boot_id, 0)

    def _anything_to_do(self) -> bool:
        with reading():
            due = self._connection.execute("SELECT 1 FROM streams WHERE due_boot_ns IS NOT NULL LIMIT 1").fetchone()
        return due is not None or self._anything_to_take()

    def _anything_to_take(self) -> bool:
        if self.directory is None:
            return False
        with reading():
            return bool(spool.waiting(self.directory)) or started.any_record(self.directory)

    def _end(self, ended: Ended, now: Moment) -> State:
        """Settle one attempt. An acknowledgement is final, whatever has been reported since the attempt began."""
        attempt = ended.attempt
        self._prune_due = self._prune_due or attempt.entry_id % _PRUNE_EVERY == 0
        if ended.host_not_before_s is not None:
            self._hold_host(attempt.host, now, ended.host_not_before_s)
        if ended.acknowledged:
            self._release(attempt)
            self._connection.execute(
                "UPDATE entries SET state = 'delivered', reason = ?, tries = tries + 1, changed_wall_ns = ?"
                " WHERE id = ?",
                (ended.reason, now.wall_ns, attempt.entry_id),
            )
        else:
            self._connection.execute(
                "UPDATE entries SET tries = tries + 1, reason = ?, changed_wall_ns = ?,"
                " body = CASE WHEN ? THEN NULL ELSE body END WHERE id = ? AND state = 'waiting'",
                (ended.reason, now.wall_ns, ended.drop_body, attempt.entry_id),
            )
            hurried = self.streams.is_hurried(attempt.stream_id)
            if self._release(attempt):
                # A success that arrived during the attempt has a try of its own, at once, where parking is for long.
                wait_s = 0.0 if ended.parked and hurried else ended.delay_s
                self.streams.postpone(attempt.stream_id, now, wait_s, ended.reason, parked=ended.parked)
        row = self._connection.execute(
            "SELECT stream_id, epoch, started_boot_ns, run_id FROM entries WHERE id = ?", (attempt.entry_id,)
        ).fetchone()
        if row is None:
            return State.DROPPED
        stream_id, *key = row
        if ended.acknowledged:
            self.streams.note_delivery(stream_id, Key(*key), now)
        self._settle(
            self._merged(stream_id, now), now, may_have_arrived=None if ended.acknowledged else attempt.entry_id
        )
        row = self._connection.execute("SELECT state FROM entries WHERE id = ?", (attempt.entry_id,)).fetchone()
        return State(row["state"])

    def _due_streams(
        self, now: Moment, only_runs: frozenset[str] | None, limit: int, rooms: dict[str, int], unknown_room: int
    ) -> list[sqlite3.Row]:
        """Return up to *limit* streams that are due, the most urgent first, as far as their hosts have room."""
        condition, values = _of_runs(only_runs)
        found: list[sqlite3.Row] = []
        for host in self.streams.hosts():
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

    def _release_gone(self) -> None:
        """Take from processes that have died their leases and hook calls: what they were at is due, and may be done."""
        for name in self._senders.gone():
            self.streams.release(name)
            self._hook_calls.release(name)
            self._senders.forget(name)

    def _claim_stream(
        self, row: sqlite3.Row, now: Moment, rooms: dict[str, int], unknown_room: int
    ) -> Attempt | Unresolved | None:
        stream_id = row["id"]
        if self._merged(stream_id, now) != stream_id:
            return None  # the stream that it is part of is due
        entry = self._settle(stream_id, now)
        if entry is None:
            return None
        heartbeat_id = self.streams.heartbeat_id(stream_id)
        url = self.streams.url(stream_id)
        if url is None:
            # By then it has been looked for.
            self.streams.set_due(stream_id, now.epoch, now.boot_ns + int(LEASE_S * 1e9))
            return Unresolved(stream_id, heartbeat_id, self.streams.refs(stream_id), row["tries"])
        host = host_of(url)
        if host != row["host"]:
            self.streams.set_host(stream_id, host)
        if rooms.get(host, unknown_room) <= 0:
            return None  # it stays due, and is looked at again when its host has room
        held_until_ns = self._host_not_before_ns(host, now)
        if held_until_ns > now.boot_ns:
            self.streams.set_due(stream_id, now.epoch, held_until_ns)
            return None
        rooms[host] = rooms.get(host, unknown_room) - 1
        lease_until_ns = now.boot_ns + int(LEASE_S * 1e9)
        self._senders.join()
        self.streams.lease(stream_id, self._owner, entry.id, now.epoch, lease_until_ns)
        sent = self._connection.execute("SELECT run_id, job, body FROM entries WHERE id = ?", (entry.id,)).fetchone()
        facts, _ = self.streams.facts(stream_id, now)
        return Attempt(
            entry_id=entry.id,
            stream_id=stream_id,
            run_id=sent["run_id"],
            job=sent["job"],
            heartbeat=self.streams.name(stream_id),
            heartbeat_id=heartbeat_id,
            url=url,
            host=host,
            body=sent["body"],
            tries=row["tries"],
            patience_known=facts.lifetime_s is not None,
            left_s=rules.left_s(facts, entry, now, self._epoch_age_s(now)),
            lease_until_ns=lease_until_ns,
        )

    def _settle(self, stream_id: int, now: Moment, may_have_arrived: int | None = None) -> rules.Waiting | None:
        """Apply the rules to one stream; return the entry that is next to be sent, if there is one.

        An entry under a living lease is left alone: its attempt is never cancelled, and its end decides.
        """
        rows = self._connection.execute(
            "SELECT id, run_id, epoch, started_boot_ns, ended_boot_ns, ended_wall_ns, max_age_s, replay_all "
            "FROM entries WHERE stream_id = ? AND state = 'waiting'",
            (stream_id,),
        ).fetchall()
        stream, in_flight = self.streams.facts(stream_id, now)
        waiting = [
            rules.Waiting(
                row["id"],
                Key(row["epoch"], row["started_boot_ns"], row["run_id"]),
                Moment(row["epoch"], row["ended_boot_ns"], row["ended_wall_ns"]),
                row["max_age_s"],
                bool(row["replay_all"]),
            )
            for row in rows
            if row["id"] != in_flight
        ]
        judgement = rules.judge(stream, waiting, now, self._epoch_age_s(now))
        for gone in judgement.withdrawn:
            reason = gone.reason
            if gone.state is State.INVALIDATED and gone.id in (may_have_arrived, self.streams.last_leased(stream_id)):
                reason += " (may have arrived)"
            self._withdraw(gone.id, stream_id, gone.state, reason, now)
            if gone.state is State.EXPIRED and not self.streams.is_told(stream_id):
                self._tell_undeliverable(stream_id, gone.id, f"expired undelivered: {reason}", now)
        if judgement.sendable:
            self.streams.set_urgency(stream_id, rules.urgency_wall_ns(stream, judgement.sendable))
            return judgement.sendable[0]
        if in_flight is None:
            self.streams.rest(stream_id)
        return None

    def _withdraw(self, entry_id: int, stream_id: int, state: State, reason: str, now: Moment) -> None:
        """Put on record that an entry waits no more; the next claim tells of it."""
        self._connection.execute(
            "UPDATE entries SET state = ?, reason = ?, changed_wall_ns = ? WHERE id = ?",
            (state, reason, now.wall_ns, entry_id),
        )
        self._withdrawn.append(Gone(entry_id, self.streams.name(stream_id), state, reason))

    def _epoch_age_s(self, now: Moment) -> float:
        """Return for how long this store has known the boot of *now*."""
        return (now.boot_ns - self._epoch_began_ns) / 1e9

    def _release(self, attempt: Attempt) -> bool:
        """End our lease; False when it had run out and the stream was taken anew."""
        done = self._connection.execute(
            "UPDATE streams SET lease_owner = NULL, lease_entry = NULL "
            "WHERE id = ? AND lease_owner = ? AND lease_entry = ? AND lease_until_ns = ?",
            (attempt.stream_id, self._owner, attempt.entry_id, attempt.lease_until_ns),
        )
        return done.rowcount == 1

    def _hold_host(self, host: str, now: Moment, wait_s: float) -> None:
        """Send nothing to *host* before that: the latest that it has asked for holds."""
        not_before_ns = max(now.boot_ns + int(wait_s * 1e9), self._host_not_before_ns(host, now))
        self._connection.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (host, now.epoch, not_before_ns))

    def _host_not_before_ns(self, host: str, now: Moment) -> int:
        row = self._connection.execute("SELECT epoch, not_before_ns FROM hosts WHERE host = ?", (host,)).fetchone()
        return int(row["not_before_ns"]) if row is not None and row["epoch"] == now.epoch else 0

    def _next_due_s(self, now: Moment, only_runs: frozenset[str] | None) -> float | None:
        """Return when the next stream is due, beside those whose hosts have no room. Two ranges of the index."""
        condition, values = _of_runs(only_runs)
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

    def _prune_sometimes(self) -> None:
        """Keep the store within its bounds, a step at a time; what isn't done then is due after the next report."""
        with reading():
            if not self._prune_due and not is_crowded(self._connection, self._bounds):
                return
        with transaction(self._connection):
            now = self.now()
            pruned = prune(self._connection, self._bounds)
            for entry_id, stream_id in pruned.crowded_out:
                self._withdraw(entry_id, stream_id, State.SUPERSEDED, _STORE_IS_FULL, now)
        with reading():
            self._prune_due = vacuum(self._connection) or pruned.more


def open_outbox(directory: str | None, role: str, *, check: bool = False) -> Outbox:
    """Open the store in *directory* for this process; *role* marks its leases. Raises StoreError.

    *check*: as for Outbox; the daemon always does.
    """
    owner = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
    check = check or role == "daemon"
    return Outbox(directory, SystemClock(), owner=owner, hostname=os.uname().nodename, check=check)


def _of_runs(run_ids: frozenset[str] | None) -> tuple[str, list[str]]:
    """Return the condition, and its values, that leaves only the streams of *run_ids*; None leaves all."""
    if run_ids is None:
        return "", []
    marks = ", ".join("?" * len(run_ids))
    return f" AND id IN (SELECT stream_id FROM entries WHERE run_id IN ({marks}))", sorted(run_ids)


def host_of(url: Secret) -> str:
    """Return host and port of *url*: what Retry-After holds for."""
    return urlsplit(url.reveal()).netloc.rpartition("@")[2].lower()

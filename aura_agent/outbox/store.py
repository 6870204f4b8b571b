"""The outbox: reports go in, attempts come out, and every change is one synced transaction.

Owns the transactions, and that the database is the file that lies in the store: the parts beside it work inside of
them. ``accepting`` takes in reports, ``intake`` brings them from spool and start records, ``entries`` carries out what
``rules`` decides, ``leases`` hands out what to send and settles how that went, ``pruning`` keeps all of it small.
Knows nothing of HTTP.

Many processes may hold one store open: each decision is made inside a write transaction (BEGIN IMMEDIATE) that has
taken in the inbox first, and a lease per stream sees to it that one attempt is under way at a time. Methods block on
the disk; an event loop calls them through ``aura_agent.outbox.worker``. Not thread-safe: one thread at a time.
"""

import errno
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from aura_agent.clock import Clock, Reading, SystemClock
from aura_agent.errors import StoreDamagedError, StoreError
from aura_agent.outbox.accepting import Accepting
from aura_agent.outbox.claims import Claim, Dropped, Ended, Rooms
from aura_agent.outbox.database import BUSY_TIMEOUT_S, open_copy, open_database, open_to_read, reading, transaction
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.epochs import Epochs
from aura_agent.outbox.generation import Generation, default_directory
from aura_agent.outbox.heartbeats import CachedHeartbeat, Heartbeats
from aura_agent.outbox.hooks import HookCall, HookCalls, HookKind, Undelivered
from aura_agent.outbox.intake import BATCH, Intake, Taken
from aura_agent.outbox.jobs import JobMarks
from aura_agent.outbox.leases import Leased, Leases
from aura_agent.outbox.pruning import Bounds, Pruner
from aura_agent.outbox.reader import Reader
from aura_agent.outbox.rules import Key, Moment, State
from aura_agent.outbox.scopes import Identity, Listing, Scopes
from aura_agent.outbox.senders import Senders
from aura_agent.outbox.streams import Streams
from aura_agent.report import boots, spool
from aura_agent.report.account import Account
from aura_agent.report.record import Report
from aura_agent.secret import Secret

_BOUNDS = Bounds()


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
        patience_s: float = BUSY_TIMEOUT_S,
        owns_reports: bool = False,
        copy_of: str | None = None,
        unusable: str = "",
        marks: str | None = None,
    ) -> None:
        """Open or create the store in *directory*; None: one in memory, for when no directory can be used.

        With *copy_of* that begins with all that can be read of the store in this directory, and nothing is written
        there. *unusable* says why: then reports are refused and nothing is leased, as by a store whose disk is full;
        only what the API says of heartbeats is remembered.

        *boot_id* is the boot of *clock*, by default as ``boots.identify`` has it. *check* reads the whole file first,
        and sets it aside if it is damaged; *patience_s* is how long others may keep it locked. *owns_reports*: a
        report that was made with an account unknown here is taken for one of ours. *marks* is the directory whose marks
        tell whether the store went back in time (None: nobody does). Raises StoreError.
        """
        self.directory = directory
        self._copy_of = copy_of
        self._unusable = unusable
        self._owner = owner
        self._hostname = hostname
        self._notices: list[str] = []
        self._is_behind = False  # whether the inbox couldn't be taken in
        connection = self._connection = self._open(check, patience_s)
        try:
            self._epochs = Epochs(
                connection, directory or copy_of, clock, boot_id or boots.identify(directory or copy_of)
            )
        except BaseException:
            connection.close()
            raise
        self._senders = Senders(directory or copy_of, owner, observes=copy_of is not None)
        self._hook_calls = HookCalls(connection)
        self._identity = Identity(owns_reports=owns_reports)
        self.scopes = Scopes(connection, self._identity, directory or copy_of)
        self.heartbeats = Heartbeats(connection, hostname, self.scopes)
        self.streams = Streams(connection, self.heartbeats, self.scopes)
        self.jobs = JobMarks(connection, self._check_that_it_is_usable)
        self._generation = Generation(connection, directory, marks)
        self._entries = Entries(connection, self.streams, self._epochs, self._hook_calls, self._generation)
        self._pruner = Pruner(connection, self._entries, bounds)
        self._accepting = Accepting(
            connection, self.streams, self._epochs, self._entries, self._hook_calls, self._pruner, self.scopes
        )
        self._intake = Intake(connection, directory, self._epochs, self._accepting, self._senders, self._notices.append)
        self._leases = Leases(
            connection, self.streams, self._entries, self._hook_calls, self._pruner, self._senders, owner
        )
        self._look_back()

    @property
    def connection(self) -> sqlite3.Connection:
        """For ``aura_agent.outbox.queries``; everything that writes is a method here."""
        return self._connection

    @property
    def boot_id(self) -> str:
        """What this store calls the boot that goes on."""
        return self._epochs.boot_id

    def reader(self) -> Reader:
        """Return who reads the store beside us, in another thread; only of one in a directory. Raises StoreError."""
        return self._reader(open_to_read(self._path))

    def readers_of_original(self) -> list[Reader]:
        """Return who reads what we are a copy of: as it is by then, and, should that fail, as it is now."""
        path = os.path.join(self._copy_of or "", "outbox.db")
        connections = [open_copy(path)]
        try:
            connections.insert(0, open_to_read(path))
        except StoreError:
            pass
        return [self._reader(connection) for connection in connections]

    def _reader(self, connection: sqlite3.Connection) -> Reader:
        return Reader(connection, self._hostname, self._identity, self._epochs.clock_over(connection))

    def close(self) -> None:
        self._senders.leave()
        self._connection.close()

    def now(self) -> Moment:
        return self._epochs.now()

    def origin(self, key: Key) -> tuple[str, int]:
        """Return the boot id of a run, and CLOCK_BOOTTIME at its start there."""
        return self._epochs.origin(key)

    def enter(self, account: Account | None) -> None:
        """Work with the token of *account* from now on: its heartbeats are meant where no others are. None: no token.

        Raises StoreError.
        """
        wall_ns = self.now().wall_ns
        begins = not self._identity.fingerprint
        with reading():
            entered = self.scopes.is_entered(account, wall_ns)
        if begins and entered:
            self.scopes.enter_known(account)
            return
        # What came while we had another token was meant for that one.
        with transaction(self._connection) if begins or self._unusable else self._deciding():
            for scope in self.scopes.enter(account, wall_ns):
                self._join(scope, self.now())
            self.streams.hurry_foreign(self.scopes.current())

    # -- accepting -----------------------------------------------------------------------------------------------

    def keep(self, lines: Mapping[bytes, Report | None]) -> None:
        """Make reports durable with as little as that takes: ``run`` lines, and what was read in each.

        Whatever next decides anything takes them in first. A store that could not do so takes no more of them before
        it has: where it has room for a line it may have none for what follows from it. Raises StoreError.
        """
        self._check_that_it_is_still_there()
        if self._is_behind:
            with self._deciding():
                self._intake.keep(lines, self._identity.fingerprint)
        else:
            with reading():  # a statement by itself is a transaction
                self._intake.keep(lines, self._identity.fingerprint)

    def accept(self, reports: Sequence[Report]) -> list[str]:
        """Make *reports* durable, in one transaction, and return the run ids that were news. Raises StoreError."""
        self._check_that_it_is_still_there()
        with self._deciding() as now:
            accepted = self._accepting.accept_over_damage(reports, now)
        self._pruner.step_if_due(now)
        return accepted

    def take_in(self) -> int:
        """Bring in what inbox and spool hold and judge lost runs; return how many reports were news."""
        if self._unusable or not self._intake.is_due():
            return 0
        with self._taking() as count:
            return count

    def begin(self, runs: Iterable[tuple[str, str, str | None, Reading]]) -> None:
        """Put on record that attempts of the daemon's own *runs* go on: run id, job, ref, start of the attempt."""
        with self._changing():
            self._intake.begin(runs, self.scopes.current())

    def lose_open_runs(self) -> list[str]:
        """Judge the runs that earlier daemons left without an outcome, in the spool either: they are lost.

        Return their jobs. Only for the daemon, as it starts: it holds the store's lock.
        """
        if self._unusable:
            return []  # they are judged once that can be kept
        with self._taking(is_starting=True):
            pass
        return list(self._intake.take_lost())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One write transaction. Raises StoreError, also where the store can't be used."""
        self._check_that_it_is_usable()
        with transaction(self._connection):
            yield
        with reading():
            self._generation.publish(self._epochs.boot_id)

    @contextmanager
    def _catching_up(self) -> Iterator[Moment]:
        """One write transaction that is to take in the inbox; yields its time."""
        self._is_behind = True  # unless it comes through
        with self._changing():
            yield self.now()
        self._is_behind = False

    @contextmanager
    def _learning(self) -> Iterator[Moment]:
        """As ``_deciding``, for what the API says of heartbeats: a store that can't be used remembers it in memory."""
        if self._unusable:
            with transaction(self._connection):
                yield self.now()
        else:
            with self._deciding() as now:
                yield now

    @contextmanager
    def _deciding(self) -> Iterator[Moment]:
        """One write transaction that first takes in what the inbox holds; yields when that was."""
        self._take_long_inbox()
        with self._catching_up() as now:
            self._intake.take_inbox(now)
            yield now

    @contextmanager
    def _taking(self, *, is_starting: bool = False) -> Iterator[int]:
        """One write transaction that first takes in inbox and spool, and judges lost runs; yields how many were news.

        *is_starting*: we are the store's daemon, and no run of our own goes on yet. A long backlog is taken in batches
        before, each in a transaction of its own: whoever has little time makes progress. Nothing is decided before the
        last batch is in, for that may withdraw what came in with the first.
        """
        news = self._take_backlog()
        with self._catching_up() as now:
            taken = self._intake.take(now, is_starting=is_starting)
            yield news + taken.news
        self._clear_away(taken, now)

    def _take_backlog(self) -> int:
        """Take in what is too much for one transaction; return how many reports were news."""
        news = self._take_long_inbox()
        for paths in self._intake.spool_batches():
            with self._catching_up() as now:
                taken = self._intake.take_spooled(paths, now)
            news += taken.news
            if not self._clear_away(taken, now):
                break
        while self._intake.start_records() > BATCH:
            with self._catching_up() as now:
                taken = self._intake.take(now, lost_at_most=BATCH)
            news += taken.news
            if not self._clear_away(taken, now) or len(taken.records) < BATCH:
                break
        return news

    def _take_long_inbox(self) -> int:
        news = 0
        while self._intake.kept() > BATCH:
            with self._catching_up() as now:
                news += self._intake.take_inbox(now, BATCH)
            self._pruner.step_if_due(now)
        return news

    def _clear_away(self, taken: Taken, now: Moment) -> bool:
        """Remove the files that were *taken* in, once that is committed; return whether the database is still there.

        Not if somebody has set it aside under our hands. Where it was removed they stay for whoever begins a new one.
        """
        if taken.spooled or taken.records:
            if not os.path.exists(self._path):
                return False
            self._check_that_it_is_still_there()
        taken.clear_away()
        self._pruner.step_if_due(now)
        return True

    # -- sending -------------------------------------------------------------------------------------------------

    def claim(
        self,
        limit: int,
        *,
        only_runs: frozenset[str] | None = None,
        rooms: Rooms | None = None,
        ended: Sequence[Ended] = (),
    ) -> Claim:
        """Settle what has *ended*, take in inbox and spool, judge lost runs, apply the rules, lease up to *limit*.

        All in one transaction, whose sync they share. Of each host no more than *rooms* says, the most urgent first.
        With *only_runs*, nothing but the streams of those runs is looked at.
        """
        self._check_that_it_is_usable()
        leased = Leased()
        settled: list[State] = []
        next_due_s = None
        if ended or self._anything_to_do():
            with self._taking():
                now = self.now()
                settled = [self._leases.end(each, now) for each in ended]
                gone = self._leases.release_gone()
                leased = self._leases.take(limit, only_runs, rooms or Rooms(), now)
                if leased.attempts:
                    self._generation.grow(now)
                stopped = leased.more or len(leased.attempts) >= limit
                next_due_s = 0.0 if stopped else self._leases.next_due_s(now, only_runs)
            self._senders.forget(gone)
        elif self._pruner.problem:
            self._pruner.step_if_due(self.now())
        with reading():
            hook_calls = self._hook_calls.any()
        return Claim(
            tuple(settled),
            tuple(leased.attempts),
            tuple(leased.unresolved),
            tuple(leased.parked),
            self._entries.take_withdrawn(),
            self._intake.take_lost(),
            tuple(self.take_notices()),
            next_due_s,
            hook_calls,
            self._gone() or self._pruner.problem,
        )

    def take_notices(self) -> list[str]:
        """Return, once, the lines that tell of what had to be set aside."""
        notices = self._notices[:]
        self._notices.clear()
        return notices

    def settle(self, ended: Sequence[Ended]) -> list[State]:
        """Put on record how attempts ended; return their entries' states."""
        with self._deciding() as now:
            return [self._leases.end(each, now) for each in ended]

    def postpone_unresolved(self, stream_id: int, reason: str, delay_s: float, *, parked: bool = False) -> None:
        """The stream's ping URL can't be had now: ask again after *delay_s*.

        For a success that came since it was asked for, at once where *parked* is for long.
        """
        with transaction(self._connection):
            wait_s = 0.0 if parked and self.streams.is_hurried(stream_id) else delay_s
            self.streams.end_look_up(stream_id)
            self.streams.postpone(stream_id, self.now(), wait_s, reason, parked=parked)

    def attach(self, stream_id: int, heartbeat_id: str) -> None:
        """The stream is this heartbeat's: merge it with what is already known under that id, and try at once."""
        with self._learning() as now:
            self._entries.attach(stream_id, heartbeat_id, now)

    def stream(self, ref: str) -> tuple[int, str | None, Secret | None]:
        """Return the stream of *ref*, its heartbeat's id and its ping URL, as far as they are known."""
        with transaction(self._connection):
            stream_id = self.streams.of(ref)
            return stream_id, *self.streams.target(stream_id)

    def remember(self, heartbeats: list[CachedHeartbeat], *, whole: bool = True) -> None:
        """Put *heartbeats*, by default a whole listing, into the cache; merge the streams that turn out to be one."""
        with self._learning() as now:
            for scope in self.scopes.kin({heartbeat.id for heartbeat in heartbeats}):
                self._join(scope, now)
            self.heartbeats.remember(heartbeats, whole=whole)
            if heartbeats:
                self.scopes.note_shown(listed_wall_ns=now.wall_ns if whole else None)
            self._entries.part(self.streams.attached(), now)
            for stream_id in self.streams.unattached():
                self._entries.merged(stream_id, now)
            last_pings_ns = dict[int, int]()
            for heartbeat in heartbeats:
                fed = self.streams.of_heartbeat(heartbeat.id)
                if fed is not None and heartbeat.last_ping_wall_ns is not None:
                    last_pings_ns[fed] = heartbeat.last_ping_wall_ns
            self._entries.judge_held(last_pings_ns, now)

    def release_held(self, streams: Collection[int] | None = None) -> None:
        """Send what is held, of *streams* or of all, by a person's decision."""
        with self._deciding():
            self._entries.release_held(streams)

    def listing(self) -> Listing:
        """Return how old what we know of names is."""
        scopes = self.scopes
        return Listing(self.streams.uses_names(), scopes.listed_wall_ns(), scopes.list_after_wall_ns())

    def note_list_after(self, wall_ns: int) -> None:
        """The API couldn't be asked for a listing: not before that instant again."""
        with transaction(self._connection):
            self.scopes.note_list_after(wall_ns)

    def note_refused(self) -> None:
        """Aura has refused our token."""
        with transaction(self._connection):
            self.scopes.note_refused()

    def remember_url(self, heartbeat_id: str, url: Secret, wall_ns: int) -> bool:
        """Cache a ping URL; return whether it is another one than before."""
        with self._learning() as now:
            changed = self.heartbeats.remember_url(heartbeat_id, url, wall_ns)
            if changed:
                self.streams.hurry_heartbeat(heartbeat_id)
            for stream_id in self.streams.at_url(url):
                self._entries.merged(stream_id, now)
        return changed

    def release_leases(self) -> None:
        """Give back what this process holds: its attempts were given up, or it never learnt of them."""
        with self._changing():
            self.streams.release(self._owner)

    def quarantine_damaged(self) -> None:
        """Quarantine damaged pings and restore damaged marks, if there are any, before rows are read in bulk."""
        with reading():
            is_damaged = bool(self._entries.damaged(self.now()))
        if is_damaged:
            with self._changing():
                now = self.now()
                for stream_id in self._entries.damaged(now):
                    self._entries.quarantine(stream_id, now)

    def unpark(self) -> None:
        """Try at once what is parked or was not tried yet: before a start or reload, people mend things."""
        if self._unusable:
            return  # nothing is parked here
        with self._changing():
            self.streams.unpark()

    def hurry(self, only_runs: frozenset[str] | None = None) -> None:
        """Make everything that waits due now, parked or backing off; a host's Retry-After stays.

        With *only_runs*, nothing but the streams of those runs.
        """
        with self._changing():
            self.streams.hurry_runs(only_runs)

    def drop(self, entry_ids: Collection[int] | None, reason: str) -> Dropped:
        """End those of *entry_ids* (None: all) that wait, by a person's decision; one that is under way is left alone.

        The next claim tells of them, as of all that is withdrawn.
        """
        with self._deciding() as now:
            return self._entries.drop(entry_ids, reason, now)

    def note_ping_by_hand(self, stream_id: int) -> None:
        """A ping that is no entry got through: whoever compares with Aura shall not take it for somebody else's."""
        with self._changing():
            self._connection.execute(
                "UPDATE streams SET delivered_wall_ns = ? WHERE id = ?", (self.now().wall_ns, stream_id)
            )

    def waiting_count(self) -> int:
        """Return how many entries wait, those in inbox and spool included."""
        with reading():
            (count,) = self._connection.execute("SELECT count(*) FROM entries WHERE state = 'waiting'").fetchone()
            kept = self._intake.kept()
        return int(count) + kept + len(self._intake.spooled())

    # -- hooks ---------------------------------------------------------------------------------------------------

    def take_hook_calls(self, limit: int, noted_since_ns: int = 0) -> list[HookCall]:
        """Return up to *limit* calls that nobody has taken, oldest first; they are ours until done, or we are gone.

        Only those that were noted since that instant of the wall clock.
        """
        with self._deciding() as now:
            gone = self._leases.release_gone()
            self._senders.join()
            calls = self._hook_calls.take(self._owner, now, limit, noted_since_ns)
        self._senders.forget(gone)
        return calls

    def end_hook_call(self, call_id: int) -> None:
        """People have been told, or can't be."""
        with self._changing():
            self._hook_calls.done(call_id)

    def release_hook_calls(self) -> None:
        """Give back the calls that we haven't come to the end of."""
        with self._changing():
            self._hook_calls.release(self._owner)

    def undelivered(self) -> list[Undelivered]:
        """Return the streams whose pings wait, unless people were told."""
        with self._deciding() as now:
            return self.streams.undelivered(now)

    def tell_undeliverable(self, stream: Undelivered, reason: str) -> None:
        """Note the call that tells people of it, once until one of its pings is delivered."""
        with self._changing():
            if not self.streams.is_told(stream.stream_id):
                self._hook_calls.note(HookKind.UNDELIVERABLE, stream.job, stream.run_id, reason, self.now())
                self.streams.note_told(stream.stream_id)

    # -- private -------------------------------------------------------------------------------------------------

    def _join(self, scope: int, now: Moment) -> None:
        """Let *scope* and ours be one: the older of the two."""
        source, target = sorted((scope, self.scopes.current()), reverse=True)
        for stream_id in self._entries.damaged(now):
            self._entries.quarantine(stream_id, now)
        merged = self.streams.join_scopes(source, target, now)
        self.scopes.merge(source, target)
        for stream_id in merged:
            self._entries.settle_over_damage(stream_id, now)

    def _open(self, check: bool, patience_s: float) -> sqlite3.Connection:
        if self._copy_of is not None:
            return open_copy(os.path.join(self._copy_of, "outbox.db"))
        if self.directory is None:
            return open_database(":memory:")[0]
        try:
            spool.prepare(self.directory)
        except OSError as problem:
            raise _unusable(self.directory, problem) from problem
        self._path = os.path.join(self.directory, "outbox.db")
        connection, aside = open_database(self._path, check=check, patience_s=patience_s)
        self._inode = os.stat(self._path).st_ino
        if aside:
            self._notices.append(f"{self._path} is damaged: set aside as {aside}; what waited in it is not sent")
        return connection

    def _look_back(self) -> None:
        """Hold what waits if the database is an older one than we have sent from in this boot."""
        with reading():
            mark = self._generation.is_behind(self._epochs.boot_id)
        if mark is None:
            return
        held = self._generation.catch_up(mark, self._epochs.number_of(mark.boot_ns))
        self._notices.append(
            f"{self._path} was put back to an earlier state: {held} pings that wait in it are held, for they may have"
            " been sent: aura-agent queue list shows them, aura-agent queue flush sends them"
        )

    def _check_that_it_is_still_there(self) -> None:
        self._check_that_it_is_usable()
        if problem := self._gone():
            raise StoreDamagedError(problem)

    def _check_that_it_is_usable(self) -> None:
        if self._unusable:
            raise StoreError(self._unusable)

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

    def _anything_to_do(self) -> bool:
        with reading():
            due = self._connection.execute("SELECT 1 FROM streams WHERE due_boot_ns IS NOT NULL LIMIT 1").fetchone()
        return due is not None or self._intake.is_due()


def _unusable(directory: str | None, problem: OSError) -> StoreError:
    advice = "check the directory's owner and the disk"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "set [agent] state_dir to a directory that this user may create, or run as root"
    return StoreError(f"{directory}: {problem.strerror}: {advice}")


def open_outbox(directory: str | None, role: str, *, check: bool = False, patience_s: float = BUSY_TIMEOUT_S) -> Outbox:
    """Open the store in *directory* for this process; *role* marks its leases. Raises StoreError.

    *check*, *patience_s*: as for Outbox; the daemon always checks.
    """
    owner = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
    is_daemon = role == "daemon"
    check = check or is_daemon
    hostname = os.uname().nodename
    return Outbox(
        directory,
        SystemClock(),
        owner=owner,
        hostname=hostname,
        check=check,
        patience_s=patience_s,
        owns_reports=is_daemon,
        marks=default_directory(),
    )


def open_copy_of_store(directory: str, role: str, *, unusable: str = "") -> Outbox:
    """Return an outbox in memory that begins with all that can be read of the store in *directory*.

    *unusable* is why that store can't be opened, where what is accepted must be durable: then nothing is accepted.
    """
    owner = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
    return Outbox(
        None,
        SystemClock(),
        owner=owner,
        hostname=os.uname().nodename,
        copy_of=directory,
        unusable=unusable,
        owns_reports=role == "daemon",
    )


def open_blank_store(role: str, *, unusable: str) -> Outbox:
    """Return an outbox in memory that begins with nothing and accepts nothing: the store's disk does not answer."""
    owner = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
    hostname = os.uname().nodename
    return Outbox(None, SystemClock(), owner=owner, hostname=hostname, unusable=unusable, owns_reports=role == "daemon")

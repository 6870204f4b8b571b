"""Streams: which entries feed one heartbeat, under however many names they came, and what is known of it.

Works inside the transactions of ``aura_agent.outbox.store``. A ref that names a heartbeat by id, name or command is one
stream with it as soon as the cache knows it; before that each ref is a stream of its own, merged when the heartbeat is
found and before anything is sent. A name means the heartbeat that has it now: when another one has it, the ref leaves
the stream, with its marks and with what waits under it. An id never moves.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from aura_agent.outbox import damage
from aura_agent.outbox.claims import LEASE_S
from aura_agent.outbox.column_types import repair_types
from aura_agent.outbox.heartbeats import Heartbeats
from aura_agent.outbox.hooks import Undelivered
from aura_agent.outbox.marks import QUEUE_MARKS, key_in, raise_mark, repair
from aura_agent.outbox.refs import Refs, label, stored
from aura_agent.outbox.rules import Key, Moment, Stream, age_s
from aura_agent.outbox.scopes import FOREIGN, NO_SCOPE, Scopes
from aura_agent.report.record import Ref
from aura_agent.secret import Secret

_HEARTBEATS = " LEFT JOIN heartbeats ON heartbeats.id = heartbeat_id AND heartbeats.scope = streams.scope"


_HOLD_NS = 5 * 10**9  # how long a ping to a bare URL waits for a look-up that may withdraw it
_ASK_AGAIN_NS = 3600 * 10**9


class Doubts(NamedTuple):
    """Streams that may be of the heartbeat to whose bare URL a ping waits: id, heartbeat's id if known.

    *hold_until_ns*: how long that ping waits for what they turn out to be; None: not at all.
    """

    to_ask: tuple[tuple[int, str | None], ...]
    hold_until_ns: int | None


class Facts(NamedTuple):
    """What is known of a stream: for the rules, and by their ids the entry whose attempt is *under_way*, and the one
    that was *leased* last and whose attempt is under way or has no known end.
    """

    stream: Stream
    under_way: int | None = None
    leased: int | None = None
    urgency_wall_ns: int | None = None


class Destination(NamedTuple):
    """Where a stream's pings go, as far as that is known, and what people call it.

    *is_foreign*: the stream belongs to another Aura account than this process's, which can't be asked about it.
    """

    heartbeat_id: str | None
    url: Secret | None
    name: str
    is_foreign: bool


class Streams:
    """The streams of one store, which feed *heartbeats*. Where no scope is given, that of this process is meant."""

    def __init__(self, connection: sqlite3.Connection, heartbeats: Heartbeats, scopes: Scopes) -> None:
        self._connection = connection
        self._heartbeats = heartbeats
        self._scopes = scopes
        self._refs = Refs(connection)

    # -- from refs to streams ------------------------------------------------------------------------------------

    def of(self, ref: str, scope: int | None = None) -> int:
        """Return the stream that *ref* belongs to, made anew if there is none."""
        scope = self._scope_of(ref, scope)
        stream_id = self._refs.stream(scope, stored(ref))
        if stream_id is None:
            stream_id = self._find_or_insert(ref, scope)
            self._refs.insert(scope, stored(ref), stream_id)
        if ref.startswith(Ref.URL):  # a damaged one is restored from the next report
            self._connection.execute(
                "UPDATE streams SET direct_url = ?1, due_epoch = 0, due_boot_ns = 0 WHERE id = ?2 AND direct_url <> ?1"
                " AND heartbeat_id IS NULL",
                (ref.removeprefix(Ref.URL), stream_id),
            )
        return stream_id

    def known(self, ref: str, scope: int | None = None) -> int | None:
        """Return the stream that *ref* belongs to; None: nobody has asked for it yet."""
        return self._refs.stream(self._scope_of(ref, scope), stored(ref))

    def refs(self, stream_id: int) -> tuple[str, ...]:
        return self._refs.of(stream_id)

    def names_of(self, heartbeat_id: str) -> tuple[str, ...]:
        """Return the refs that feed the heartbeat."""
        stream_id = self._feeding(self._scopes.current(), heartbeat_id)
        return () if stream_id is None else self.refs(stream_id)

    def uses_names(self) -> bool:
        """Whether any heartbeat of this process's scope is fed under a name, which another one may have by now."""
        query = (
            "SELECT 1 FROM refs JOIN streams ON streams.id = stream_id WHERE refs.scope = ?"
            " AND heartbeat_id IS NOT NULL AND ref <> 'heartbeat:' || heartbeat_id LIMIT 1"
        )
        return self._connection.execute(query, (self._scopes.current(),)).fetchone() is not None

    def attach(self, stream_id: int, heartbeat_id: str, now: Moment, scope: int | None = None) -> int:
        """Make *stream_id* the heartbeat's; return the stream that now is, after a merge if there was one before.

        An attempt that is under way is so in the merged one. Of two, that of *stream_id* is let go. A look-up of the
        ping URL ends with this.
        """
        scope = self._scopes.current() if scope is None else scope
        target = self._feeding(scope, heartbeat_id)
        if target is None:
            self._connection.execute(
                "UPDATE streams SET scope = ?, heartbeat_id = ?, due_epoch = 0, due_boot_ns = 0, tries = 0, parked = 0"
                " WHERE id = ?",
                (scope, heartbeat_id, stream_id),
            )
            self.end_look_up(stream_id)
            return stream_id
        if target != stream_id:
            self._merge(stream_id, target, now)
        self.end_look_up(target)
        self.hurry(target)
        return target

    def of_heartbeat(self, heartbeat_id: str, scope: int | None = None) -> int | None:
        """Return the heartbeat's stream, None if it has none yet."""
        return self._feeding(self._scopes.current() if scope is None else scope, heartbeat_id)

    def unattached(self) -> list[int]:
        """Return the streams without a heartbeat."""
        return [row["id"] for row in self._connection.execute("SELECT id FROM streams WHERE heartbeat_id IS NULL")]

    def attached(self) -> list[int]:
        """Return the streams of this process's scope that feed a heartbeat."""
        query = "SELECT id FROM streams WHERE scope = ? AND heartbeat_id IS NOT NULL"
        return [row["id"] for row in self._connection.execute(query, (self._scopes.current(),))]

    def at_url(self, url: Secret) -> list[int]:
        """Return the streams without a heartbeat that came under this ping URL."""
        rows = self._connection.execute(
            "SELECT stream_id FROM refs JOIN streams ON id = stream_id WHERE refs.scope = ? AND ref = ?"
            " AND heartbeat_id IS NULL",
            (NO_SCOPE, stored(Ref.URL + url.reveal())),
        )
        return [row["stream_id"] for row in rows]

    def is_leased(self, scope: int, heartbeat_id: str, now: Moment) -> bool:
        """Whether an attempt is under way in the heartbeat's stream."""
        row = self._connection.execute(
            "SELECT * FROM streams WHERE scope = ? AND heartbeat_id = ?", (scope, heartbeat_id)
        ).fetchone()
        return row is not None and _is_leased(row, now)

    def row(self, stream_id: int) -> sqlite3.Row | None:
        """Return all that is on record of a stream; None: it was merged into another one."""
        row: sqlite3.Row | None = self._connection.execute(
            "SELECT * FROM streams WHERE id = ?", (stream_id,)
        ).fetchone()
        return row

    def known_heartbeat(self, row: sqlite3.Row | None) -> tuple[int, str] | None:
        """Return scope and id of the one heartbeat that the cache has for the stream *row*, if that has none yet."""
        return None if row is None or row["heartbeat_id"] is not None else self._heartbeat_of(row)

    def part(self, row: sqlite3.Row | None, now: Moment) -> list[int]:
        """Let go of the refs that are names which other heartbeats have by now; return the streams that they are in.

        *row* is the stream as it is now. Where several others have the name, nobody knows which is meant. A name that
        nobody has any more stays: a heartbeat that was only renamed goes on being fed. A ping that is under way stays
        until that has ended.
        """
        if row is None or row["heartbeat_id"] is None:
            return []
        stream_id = row["id"]
        moving = {
            ref: named.pop() if len(named) == 1 else None
            for ref in self.refs(stream_id)
            if (named := self._heartbeats.ids(ref, row["scope"])) and row["heartbeat_id"] not in named
        }
        if moving:
            self.repair(stream_id, now)  # the marks are taken apart: no damaged one may get into another row
        for ref, heartbeat_id in moving.items():
            self._move_ref(row, ref, heartbeat_id)
        under_way = row["lease_entry"] if _is_leased(row, now) else None
        strays = self._connection.execute(
            "SELECT entries.id, refs.stream_id FROM entries JOIN refs ON refs.scope = ? AND refs.ref = entries.ref"
            " WHERE entries.stream_id = ? AND state = 'waiting' AND refs.stream_id <> ? AND entries.id IS NOT ?",
            (row["scope"], stream_id, stream_id, under_way),
        ).fetchall()
        for entry_id, target in strays:
            self._move_entry(row, entry_id, target)
        return sorted({target for _, target in strays})

    def join_scopes(self, source: int, target: int, now: Moment) -> list[int]:
        """Let the streams of a scope be those of another one, merged where they feed the same; return those merged."""
        merged = []
        for row in self._connection.execute("SELECT * FROM streams WHERE scope = ?", (source,)).fetchall():
            if row["heartbeat_id"] is not None:
                twin = self._feeding(target, row["heartbeat_id"])
            else:
                known = [self._refs.stream(target, ref) for ref in self.refs(row["id"])]
                twin = next((stream_id for stream_id in known if stream_id is not None), None)
            if twin is None:
                self._connection.execute("UPDATE streams SET scope = ? WHERE id = ?", (target, row["id"]))
            else:
                self._merge(row["id"], twin, now)
                self.hurry(twin)
                merged.append(twin)
        self._refs.change_scope(source, target)
        return merged

    def doubts(self, key: Key, now: Moment) -> Doubts:
        """Return what has to be looked up before the run of *key* is sent to a bare URL: later runs in other streams.

        Whether they are of the same heartbeat only their ping URLs can tell. Each is asked for once an hour at most.
        """
        scope = self._scopes.current()
        later = (
            " AND ("
            + " OR ".join(
                f"({mark}_epoch, {mark}_boot_ns, {mark}_run) > (:epoch, :boot_ns, :run_id)"
                for mark in ("failed", "succeeded")
            )
            + ")"
        )
        rows = self._connection.execute(
            "SELECT * FROM streams WHERE scope = :scope AND heartbeat_id IS NULL AND direct_url IS NULL" + later,
            {"scope": scope, **key._asdict()},
        ).fetchall()
        rows += self._connection.execute(
            "SELECT streams.* FROM heartbeats JOIN streams ON streams.scope = heartbeats.scope AND heartbeat_id ="
            " heartbeats.id WHERE ping_url IS NULL AND heartbeats.scope = :scope" + later,
            {"scope": scope, **key._asdict()},
        ).fetchall()
        to_ask, hold_until_ns = [], None
        for row in rows:
            known = row["asked_epoch"] == now.epoch
            if not known or row["asked_boot_ns"] <= now.boot_ns - _ASK_AGAIN_NS:
                to_ask.append((row["id"], row["heartbeat_id"]))
                hold_until_ns = now.boot_ns + _HOLD_NS
            elif _is_leased(row, now) and row["asked_boot_ns"] + _HOLD_NS > now.boot_ns:
                hold_until_ns = max(hold_until_ns or 0, row["asked_boot_ns"] + _HOLD_NS)
        return Doubts(tuple(to_ask), hold_until_ns)

    def note_asked(self, stream_id: int, now: Moment) -> None:
        """The stream is looked up for the sake of a ping to a bare URL."""
        self._connection.execute(
            "UPDATE streams SET asked_epoch = ?, asked_boot_ns = ? WHERE id = ?", (now.epoch, now.boot_ns, stream_id)
        )

    def note_answer(
        self, stream_id: int, silent_wall_ns: int | None, now: Moment, *, answered: bool, asked_anew: bool
    ) -> None:
        """An attempt had an answer or none, before which the stream was silent since *silent_wall_ns*.

        *asked_anew*: the API has confirmed the ping URL since.
        """
        if silent_wall_ns is None:
            silent = None if answered or asked_anew else now.wall_ns
        else:
            silent = None if answered else now.wall_ns if asked_anew else silent_wall_ns
        if silent != silent_wall_ns:
            self._connection.execute("UPDATE streams SET silent_wall_ns = ? WHERE id = ?", (silent, stream_id))

    def is_foreign(self, stream_id: int) -> bool:
        """Whether the stream belongs to another Aura account than this process's: it can't be asked about it."""
        row = self._connection.execute("SELECT scope, direct_url FROM streams WHERE id = ?", (stream_id,)).fetchone()
        if row is None or (row["scope"] == NO_SCOPE and row["direct_url"] is not None):
            return False
        return bool(row["scope"] != self._scopes.current())

    # -- what a stream knows -------------------------------------------------------------------------------------

    def facts(self, stream_id: int, now: Moment) -> Facts:
        """Return what the rules need of a stream, and which of its entries is under way, or may be.

        Raises ValueError: its row is damaged.
        """
        row = self._connection.execute(
            f"SELECT streams.*, interval_s, grace_s FROM streams{_HEARTBEATS} WHERE streams.id = ?",
            (stream_id,),
        ).fetchone()
        if row is None:
            return Facts(Stream())  # merged into another one meanwhile
        patience_s = damage.lifetime_s(row["interval_s"], row["grace_s"])
        failed, delivered, succeeded = (key_in(row, mark, now.newest_epoch) for mark in QUEUE_MARKS)
        stream = Stream(failed, delivered, succeeded, patience_s)
        under_way = row["lease_entry"] if _is_leased(row, now) else None
        return Facts(stream, under_way, row["lease_entry"], row["urgency_wall_ns"])

    def target(self, stream_id: int) -> tuple[str | None, Secret | None]:
        """Return the id of the heartbeat that the stream feeds, and its ping URL, as far as they are known."""
        found = self.find_target(stream_id, NO_SCOPE)
        return found.heartbeat_id, found.url

    def find_target(self, stream_id: int, own_scope: int) -> Destination:
        """Return where the stream's pings go; *own_scope* is this process's."""
        row = self._connection.execute(
            "SELECT heartbeat_id, coalesce(ping_url, direct_url) AS url, heartbeats.name, streams.scope, direct_url"
            f" FROM streams{_HEARTBEATS} WHERE streams.id = ?",
            (stream_id,),
        ).fetchone()
        if row is None:
            return Destination(None, None, "", is_foreign=False)  # merged into another one meanwhile
        is_own = row["scope"] == own_scope or (row["scope"] == NO_SCOPE and row["direct_url"] is not None)
        name = row["name"] or ", ".join(label(ref) for ref in self.refs(stream_id))
        return Destination(row["heartbeat_id"], Secret(row["url"]) if row["url"] else None, name, is_foreign=not is_own)

    def own_scope(self) -> int:
        """Return the scope of this process."""
        return self._scopes.current()

    def name(self, stream_id: int) -> str:
        """Return what people call the stream: the heartbeat's name, or what it was asked for as."""
        row = self._connection.execute(
            f"SELECT heartbeats.name FROM streams{_HEARTBEATS} WHERE streams.id = ?",
            (stream_id,),
        ).fetchone()
        if row is not None and row["name"]:
            return str(row["name"])
        return ", ".join(label(ref) for ref in self.refs(stream_id))

    def label(self, ref: str | None) -> str:
        return "" if ref is None else label(stored(ref))

    def note_failure(self, stream_id: int, key: Key) -> None:
        """Remember *key* if no later failure is known; it outlives every entry and every history row."""
        raise_mark(self._connection, stream_id, "failed", key)

    def note_success(self, stream_id: int, key: Key) -> None:
        """The same for *key* among successes."""
        raise_mark(self._connection, stream_id, "succeeded", key)

    def note_by_ref(self, ref: str, scope: int | None, *, failed: Key | None, succeeded: Key | None) -> None:
        """Remember the newest failure and success that were reported under *ref*."""
        scope = self._scope_of(ref, scope)
        if failed is not None:
            self._refs.raise_mark(scope, stored(ref), "failed", failed)
        if succeeded is not None:
            self._refs.raise_mark(scope, stored(ref), "succeeded", succeeded)

    def note_delivery(self, stream_id: int, key: Key, now: Moment) -> None:
        """A ping got through: remember which, and forget the trouble before it. What still waits does from now on."""
        raise_mark(self._connection, stream_id, "delivered", key)
        self._connection.execute(
            "UPDATE streams SET delivered_wall_ns = ?, tries = 0, parked = 0, problem = '', due_epoch = 0,"
            " due_boot_ns = 0, since_epoch = ?, since_boot_ns = ?, since_wall_ns = ?, told = 0 WHERE id = ?",
            (now.wall_ns, now.epoch, now.boot_ns, now.wall_ns, stream_id),
        )

    # -- who is sending, and when to try ---------------------------------------------------------------------------

    def lease(self, stream_id: int, owner: str, entry_id: int | None, epoch: int, until_ns: int) -> None:
        """Leave the stream to *owner*, who sends that entry; None: looks up the ping URL. Due again when that ends."""
        self._connection.execute(
            "UPDATE streams SET lease_owner = ?, lease_entry = ?, lease_epoch = ?, lease_until_ns = ?, due_epoch = ?,"
            " due_boot_ns = ? WHERE id = ?",
            (owner, entry_id, epoch, until_ns, epoch, until_ns, stream_id),
        )

    def end_look_up(self, stream_id: int) -> None:
        """What was to be looked up is known by now, or can't be had; an attempt goes on.

        What waits for a bare URL was held for that, perhaps.
        """
        row = self._connection.execute("SELECT asked_epoch FROM streams WHERE id = ?", (stream_id,)).fetchone()
        if row is not None and row["asked_epoch"] is not None:
            self._update_many(
                "UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE direct_url IS NOT NULL"
                " AND heartbeat_id IS NULL AND due_boot_ns IS NOT NULL AND tries = 0 AND lease_owner IS NULL"
            )
        self._connection.execute(
            "UPDATE streams SET lease_owner = NULL WHERE id = ? AND lease_entry IS NULL", (stream_id,)
        )

    def set_urgency(self, stream_id: int, wall_ns: int) -> None:
        self._connection.execute(
            "UPDATE streams SET urgency_wall_ns = ? WHERE id = ? AND urgency_wall_ns <> ?",
            (wall_ns, stream_id, wall_ns),
        )

    def set_host(self, stream_id: int, host: str) -> None:
        self._connection.execute("UPDATE streams SET host = ? WHERE id = ?", (host, stream_id))

    def hosts(self) -> list[str]:
        """Return the hosts for which something waits; each is one look into an index, however much that is."""
        rows = self._connection.execute(
            "WITH RECURSIVE found (host) AS ("
            " SELECT min(host) FROM streams WHERE due_boot_ns IS NOT NULL AND host > ''"
            " UNION ALL SELECT (SELECT min(host) FROM streams WHERE due_boot_ns IS NOT NULL AND host > found.host)"
            " FROM found WHERE found.host IS NOT NULL) SELECT CAST(host AS BLOB) FROM found WHERE host IS NOT NULL"
        ).fetchall()
        found = [""]
        for (name,) in rows:
            try:
                found.append(name.decode())
            except UnicodeDecodeError:  # damaged: to be looked at anew
                self._connection.execute("UPDATE streams SET host = '' WHERE host = CAST(? AS TEXT)", (name,))
        return found

    def release(self, owner: str) -> None:
        """End the leases of *owner*, whose attempts have no known end: their entries may have arrived, and are due."""
        self._update_many(
            "UPDATE streams SET lease_owner = NULL, due_epoch = 0, due_boot_ns = 0 WHERE lease_owner = ?", (owner,)
        )

    def repair(self, stream_id: int, now: Moment) -> str:
        """Restore damaged marks of the stream; return what could not be restored: nobody knows what may be sent."""
        return repair(self._connection, stream_id, now)

    def is_hurried(self, stream_id: int) -> bool:
        """Whether ``hurry`` was called since the lease was taken."""
        row = self._connection.execute("SELECT due_boot_ns FROM streams WHERE id = ?", (stream_id,)).fetchone()
        return row is not None and row["due_boot_ns"] == 0

    def note_waiting(self, stream_id: int, ended: Moment) -> None:
        """A new success waits, and is tried at once, also where the stream was parked or backing off.

        It waits from its run's end on; if another one does already, or did in vain, that one's counts.
        """
        self._connection.execute(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0,"
            " since_boot_ns = CASE WHEN since_epoch IS NULL THEN ? ELSE since_boot_ns END,"
            " since_wall_ns = CASE WHEN since_epoch IS NULL THEN ? ELSE since_wall_ns END,"
            " since_epoch = coalesce(since_epoch, ?) WHERE id = ?",
            (ended.boot_ns, ended.wall_ns, ended.epoch, stream_id),
        )

    def undelivered(self, now: Moment) -> list[Undelivered]:
        """Return the streams whose pings wait, unless people were told."""
        rows = self._connection.execute(
            "SELECT streams.*, job, run_id FROM streams JOIN entries ON entries.id ="
            " (SELECT max(id) FROM entries WHERE stream_id = streams.id AND state = 'waiting')"
            " WHERE due_boot_ns IS NOT NULL AND since_epoch IS NOT NULL AND NOT told"
        )
        return [
            Undelivered(
                row["id"],
                row["job"],
                next(map(label, self.refs(row["id"])), ""),
                row["run_id"],
                age_s(Moment(row["since_epoch"], row["since_boot_ns"] or 0, row["since_wall_ns"] or 0), now),
                row["problem"],
            )
            for row in rows
        ]

    def is_told(self, stream_id: int) -> bool:
        row = self._connection.execute("SELECT told FROM streams WHERE id = ?", (stream_id,)).fetchone()
        return row is None or bool(row["told"])

    def note_told(self, stream_id: int) -> None:
        """People know, or are about to, that its pings don't get through; a delivery ends that."""
        self._connection.execute("UPDATE streams SET told = 1 WHERE id = ?", (stream_id,))

    def hurry(self, stream_id: int) -> None:
        """What waits is tried at once, also where the stream was parked or backing off."""
        self._connection.execute("UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE id = ?", (stream_id,))

    def hurry_runs(self, run_ids: frozenset[str] | None) -> None:
        """The same for the streams of these runs, None: for all in which something waits."""
        self.wake_resting()
        condition, values = of_runs(run_ids)
        self._update_many(
            f"UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE due_boot_ns IS NOT NULL{condition}", values
        )

    def wake_resting(self) -> None:
        """Make due where a ping waits and no time is set: that is damage, and nothing else would notice it."""
        self._update_many(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE due_boot_ns IS NULL"
            " AND id IN (SELECT stream_id FROM entries WHERE state = 'waiting')"
        )

    def unpark(self) -> None:
        """The same for what is parked, and for what was not tried yet."""
        self.wake_resting()
        self._update_many(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0, parked = 0"
            " WHERE due_boot_ns IS NOT NULL AND (parked OR tries = 0)"
        )

    def hurry_foreign(self, scope: int) -> None:
        """The same for what waited until somebody has the token of *scope*."""
        self._update_many(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0, parked = 0 WHERE scope = ? AND problem = ?"
            " AND due_boot_ns IS NOT NULL",
            (scope, FOREIGN),
        )

    def hurry_host(self, host: str) -> None:
        """What backs off for *host* after a failure is tried at once; what is parked or held by somebody isn't."""
        self._update_many(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE host = ? AND due_boot_ns IS NOT NULL AND tries > 0"
            " AND NOT parked AND lease_owner IS NULL",
            (host,),
        )

    def hurry_heartbeat(self, heartbeat_id: str) -> None:
        """Its ping URL is another one, or known for the first time: what waits for it is tried at once."""
        self._connection.execute(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0 WHERE scope = ? AND heartbeat_id = ?"
            " AND due_boot_ns IS NOT NULL",
            (self._scopes.current(), heartbeat_id),
        )

    def forget_url(self, heartbeat_id: str, url: Secret) -> None:
        """The heartbeat's cached ping URL is invalid."""
        self._connection.execute(
            "UPDATE heartbeats SET ping_url = NULL WHERE id = ? AND ping_url = ?", (heartbeat_id, url.reveal())
        )

    def set_due(self, stream_id: int, epoch: int, boot_ns: int) -> None:
        self._connection.execute(
            "UPDATE streams SET due_epoch = ?, due_boot_ns = ? WHERE id = ?", (epoch, boot_ns, stream_id)
        )

    def postpone(self, stream_id: int, now: Moment, delay_s: float, problem: str, *, parked: bool) -> None:
        """An attempt failed: the next may begin after *delay_s*."""
        self._connection.execute(
            "UPDATE streams SET due_epoch = ?, due_boot_ns = ?, tries = min(max(tries, 0), 1000000) + 1, parked = ?,"
            " problem = ? WHERE id = ?",
            (now.epoch, now.boot_ns + int(delay_s * 1e9), parked, problem, stream_id),
        )

    def rest(self, stream_id: int) -> None:
        """Nothing waits any more."""
        self._connection.execute(
            "UPDATE streams SET due_epoch = NULL, due_boot_ns = NULL, tries = 0, parked = 0, problem = '',"
            " since_epoch = NULL WHERE id = ?",
            (stream_id,),
        )

    # -- private -------------------------------------------------------------------------------------------------

    def _update_many(self, query: str, values: Sequence[object] = ()) -> None:
        """Change many streams, also if one of them holds a value of a wrong type."""
        try:
            self._connection.execute(query, values)
        except sqlite3.IntegrityError:
            if not repair_types(self._connection, "streams"):
                raise
            self._connection.execute(query, values)

    def _scope_of(self, ref: str, scope: int | None) -> int:
        if ref.startswith(Ref.URL):
            return NO_SCOPE
        return self._scopes.current() if scope is None else scope

    def _feeding(self, scope: int, heartbeat_id: str) -> int | None:
        row = self._connection.execute(
            "SELECT id FROM streams WHERE scope = ? AND heartbeat_id = ?", (scope, heartbeat_id)
        ).fetchone()
        return None if row is None else int(row["id"])

    def _heartbeat_of(self, stream: sqlite3.Row) -> tuple[int, str] | None:
        if stream["direct_url"] is not None:
            return self._heartbeats.at(stream["direct_url"])
        for ref in self.refs(stream["id"]):
            found = self._heartbeats.find(ref, stream["scope"])
            if found:
                return (stream["scope"], found[0].id) if len(found) == 1 else None
        return None

    def _find_or_insert(self, ref: str, scope: int) -> int:
        url = ref.removeprefix(Ref.URL) if ref.startswith(Ref.URL) else None
        heartbeat: tuple[int, str] | None = None
        if url is not None:
            heartbeat = self._heartbeats.at(url)
        else:
            found = self._heartbeats.find(ref, scope)
            heartbeat = (scope, found[0].id) if len(found) == 1 else None
        if heartbeat is not None and (feeding := self._feeding(*heartbeat)) is not None:
            return feeding
        return self._insert(scope, None, url) if heartbeat is None else self._insert(*heartbeat, url)

    def _insert(self, scope: int, heartbeat_id: str | None, direct_url: str | None = None) -> int:
        inserted = self._connection.execute(
            "INSERT INTO streams (scope, heartbeat_id, direct_url) VALUES (?, ?, ?)", (scope, heartbeat_id, direct_url)
        )
        return int(inserted.lastrowid or 0)

    def _move_ref(self, source: sqlite3.Row, ref: str, heartbeat_id: str | None) -> None:
        """Let *ref* leave a stream for that of *heartbeat_id*; None: for one of its own."""
        scope = source["scope"]
        target = None if heartbeat_id is None else self._feeding(scope, heartbeat_id)
        if target is None:
            target = self._insert(scope, heartbeat_id)
        self._refs.move(scope, ref, source["id"], target)

    def _move_entry(self, source: sqlite3.Row, entry_id: int, target: int) -> None:
        """Let a waiting entry follow its ref. It has waited as long as *source* has."""
        self._connection.execute("UPDATE entries SET stream_id = ? WHERE id = ?", (target, entry_id))
        self._connection.execute(
            "UPDATE streams SET due_epoch = 0, due_boot_ns = 0, told = max(told, ?), since_boot_ns = CASE WHEN"
            " since_epoch IS NULL THEN ? ELSE since_boot_ns END, since_wall_ns = CASE WHEN since_epoch IS NULL THEN ?"
            " ELSE since_wall_ns END, since_epoch = coalesce(since_epoch, ?) WHERE id = ?",
            (source["told"], source["since_boot_ns"], source["since_wall_ns"], source["since_epoch"], target),
        )

    def _merge(self, source: int, target: int, now: Moment) -> None:
        row = self._connection.execute("SELECT * FROM streams WHERE id = ?", (source,)).fetchone()
        if row is None:
            return  # merged already
        other = self._connection.execute("SELECT * FROM streams WHERE id = ?", (target,)).fetchone()
        if row["lease_entry"] is not None and _is_leased(row, now) and not _is_leased(other, now):
            self.lease(target, row["lease_owner"], row["lease_entry"], row["lease_epoch"], row["lease_until_ns"])
        for mark in QUEUE_MARKS:
            key = key_in(row, mark, now.newest_epoch)
            if key is not None:
                raise_mark(self._connection, target, mark, key)
        self._merge_trouble(row, other, now)
        self._connection.execute(
            "UPDATE streams SET asked_epoch = ?, asked_boot_ns = ? WHERE id = ? AND asked_epoch IS NULL",
            (row["asked_epoch"], row["asked_boot_ns"], target),
        )
        self._connection.execute("UPDATE entries SET stream_id = ? WHERE stream_id = ?", (target, source))
        self._connection.execute("UPDATE refs SET stream_id = ? WHERE stream_id = ?", (target, source))
        self._connection.execute("DELETE FROM streams WHERE id = ?", (source,))

    def _merge_trouble(self, source: sqlite3.Row, target: sqlite3.Row, now: Moment) -> None:
        """What waits in vain in either stream still does, and people know it, unless the other has delivered since."""
        still = [one for one, other in ((source, target), (target, source)) if not _has_delivered_since(other, one)]
        if source["since_epoch"] is not None or target["since_epoch"] is not None:
            since = min((when for one in still if (when := _since(one)) is not None), default=now)
            self._connection.execute(
                "UPDATE streams SET since_epoch = ?, since_boot_ns = ?, since_wall_ns = ? WHERE id = ?",
                (since.epoch, since.boot_ns, since.wall_ns, target["id"]),
            )
        deliveries_ns = [ns for ns in (source["delivered_wall_ns"], target["delivered_wall_ns"]) if ns is not None]
        self._connection.execute(
            "UPDATE streams SET delivered_wall_ns = ?, told = ? WHERE id = ?",
            (max(deliveries_ns, default=None), any(one["told"] for one in still), target["id"]),
        )


def of_runs(run_ids: frozenset[str] | None) -> tuple[str, list[str]]:
    """Return the condition, and its values, that leaves only the streams of *run_ids*; None leaves all."""
    if run_ids is None:
        return "", []
    query = "SELECT stream_id FROM entries WHERE run_id IN (SELECT value FROM json_each(?))"
    return f" AND id IN ({query})", [json.dumps(sorted(run_ids))]


def _is_leased(stream: sqlite3.Row, now: Moment) -> bool:
    left_ns = (stream["lease_until_ns"] or 0) - now.boot_ns
    return (
        stream["lease_owner"] is not None
        and stream["lease_epoch"] == now.epoch
        and 0 < left_ns <= LEASE_S * 1e9  # no lease is longer: a later end is damage
    )


def _has_delivered_since(stream: sqlite3.Row, other: sqlite3.Row) -> bool:
    """Whether *stream* got a ping through after those of *other* began to wait in vain, the last time that they did."""
    return (stream["delivered_wall_ns"] or 0) > (other["since_wall_ns"] or 0)


def _since(stream: sqlite3.Row) -> Moment | None:
    if stream["since_epoch"] is None:
        return None
    return Moment(stream["since_epoch"], stream["since_boot_ns"] or 0, stream["since_wall_ns"] or 0)

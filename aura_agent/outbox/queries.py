"""What people are shown of the outbox: plain rows for ``queue``, ``history`` and ``status``. Reads, never writes."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from aura_agent.outbox import damage
from aura_agent.outbox.reader import Readable
from aura_agent.outbox.rules import Key, Moment, State, Stream, Waiting, judge, lifetime_s
from aura_agent.outbox.run_history import instant
from aura_agent.report.record import Outcome, Report, report_in
from aura_agent.secret import Secret

PARKED = "parked"  # what people are shown of an entry that waits for them
# Our clock and Aura's may differ by so much, and a ping be so long under way, without anybody else being there.
_ALIKE_NS = 300 * 10**9
# A partial index is used only where a query repeats its condition word for word (sqlite.org/partialindex.html, 3).
_HAS_ENDED = "state <> 'waiting'"
_NOT_SENT = "'invalidated', 'superseded', 'expired'"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One entry as ``queue list`` shows it; *problem* says what its stream waits for."""

    id: int
    heartbeat: str
    job: str
    run_id: str
    state: str
    reason: str
    ended_at: datetime
    tries: int
    next_try_s: float | None


@dataclass(frozen=True, slots=True)
class EntryRow(QueueRow):
    """All of one entry, as ``queue show`` shows it; *boot* and *started_boot_s* are its run's place in the order."""

    boot: int
    started_boot_s: float
    accepted_at: datetime
    changed_at: datetime
    expires_after_s: float
    replay: str
    body_bytes: int
    under_way: bool


@dataclass(frozen=True, slots=True)
class Left:
    """What is left while pings are delivered: how many wait, and whether somebody is at any of them.

    *untried* has the newest run of each stream that nobody is at, and in which none was tried by who asks.
    """

    waiting: int
    busy: bool
    untried: frozenset[str]


def queue_rows(outbox: Readable, *, ended: bool, limit: int | None = 1000) -> list[QueueRow]:
    """Return the entries that wait, oldest first; with *ended* those too that wait no more; the newest *limit*."""
    condition = "" if ended else "WHERE state = 'waiting'"
    rows = outbox.connection.execute(
        "SELECT entries.*, due_epoch, due_boot_ns, problem, parked, lease_owner, host FROM entries"
        f" JOIN streams ON streams.id = stream_id {condition} ORDER BY entries.id DESC LIMIT ?",
        (-1 if limit is None else limit,),
    ).fetchall()
    now = outbox.now()
    names = {stream: outbox.streams.name(stream) for stream in {row["stream_id"] for row in rows}}
    troubles = _host_troubles(outbox.connection)
    return [_queue_row(row, names, troubles, now) for row in reversed(rows)]


def entry_row(outbox: Readable, entry_id: int) -> EntryRow | None:
    """Return the entry *entry_id*, None if there is none. Nothing of it is secret: no URL, and of the body the size."""
    row = outbox.connection.execute(
        "SELECT entries.*, due_epoch, due_boot_ns, problem, parked, lease_owner, host FROM entries"
        " JOIN streams ON streams.id = stream_id WHERE entries.id = ?",
        (entry_id,),
    ).fetchone()
    if row is None:
        return None
    now = outbox.now()
    try:
        stream, under_way, *_ = outbox.streams.facts(row["stream_id"], now)
    except damage.UNREADABLE:
        stream, under_way = Stream(), None  # the next claim quarantines the entry
    names = {row["stream_id"]: outbox.streams.name(row["stream_id"])}
    return EntryRow(
        **asdict(_queue_row(row, names, _host_troubles(outbox.connection), now)),
        boot=row["epoch"],
        started_boot_s=row["started_boot_ns"] / 1e9,
        accepted_at=instant(row["accepted_wall_ns"]),
        changed_at=instant(row["changed_wall_ns"]),
        expires_after_s=lifetime_s(stream, row["max_age_s"]),
        replay="all" if row["replay_all"] else "latest",
        body_bytes=len(row["body"] or b""),
        under_way=row["state"] == State.WAITING and under_way == entry_id,
    )


def streams_of(outbox: Readable, heartbeat: str) -> list[int]:
    """Return the streams of *heartbeat*: its id, its name, or what it was asked for as."""
    rows = outbox.connection.execute("SELECT id, heartbeat_id FROM streams ORDER BY id").fetchall()
    return [
        row["id"]
        for row in rows
        if heartbeat == row["heartbeat_id"]
        or heartbeat == outbox.streams.name(row["id"])
        or heartbeat in map(outbox.streams.label, outbox.streams.refs(row["id"]))
    ]


def waiting_runs(outbox: Readable, streams: Iterable[int]) -> frozenset[str]:
    """Return for each of *streams* in which pings wait the run of the newest: what stands for the stream in a claim."""
    query = "SELECT run_id FROM entries WHERE stream_id = ? AND state = 'waiting' ORDER BY id DESC LIMIT 1"
    return frozenset(row["run_id"] for stream in streams for row in outbox.connection.execute(query, (stream,)))


def left_in(outbox: Readable, streams: Collection[int] | None, tried: Collection[str] = ()) -> Left:
    """Return what is left in *streams* (None: in all), for who has *tried* the pings of these runs."""
    newest: dict[int, str] = {}
    touched, waiting = leased_streams(outbox), 0
    leased = frozenset(touched)
    query = "SELECT stream_id, run_id FROM entries WHERE state = 'waiting' ORDER BY id"
    for stream_id, run_id in outbox.connection.execute(query):
        if streams is None or stream_id in streams:
            waiting += 1
            newest[stream_id] = run_id
            if run_id in tried:
                touched.add(stream_id)
    untried = frozenset(run_id for stream_id, run_id in newest.items() if stream_id not in touched)
    return Left(waiting, not leased.isdisjoint(newest), untried)


def state_counts(outbox: Readable) -> dict[str, int]:
    """Return how many entries the store holds in each state, zeros included."""
    query = "SELECT count(*) FROM entries WHERE state = ?"
    return {state.value: outbox.connection.execute(query, (state,)).fetchone()[0] for state in State}


def oldest_waiting_s(outbox: Readable) -> float:
    """Return how long ago the run of the oldest waiting ping ended; 0 if none waits."""
    # The index is named: SQLite takes the one by state otherwise, and reads all that waits.
    (ended_wall_ns,) = outbox.connection.execute(
        "SELECT min(ended_wall_ns) FROM entries INDEXED BY entries_waiting_by_end WHERE state = 'waiting'"
    ).fetchone()
    return 0.0 if ended_wall_ns is None else max(0, outbox.now().wall_ns - ended_wall_ns) / 1e9


def leased_streams(outbox: Readable) -> set[int]:
    """Return the streams of which a ping is under way, or its URL being looked up, in whatever process."""
    now = outbox.now()
    rows = outbox.connection.execute(
        "SELECT id FROM streams WHERE lease_owner IS NOT NULL AND lease_epoch = ? AND lease_until_ns > ?",
        (now.epoch, now.boot_ns),
    )
    return {row["id"] for row in rows}


def stream_of(outbox: Readable, ref: str) -> tuple[int, str | None, Secret | None] | None:
    """Return the stream of *ref*, its heartbeat's id and its ping URL, as far as they are known; None: no stream."""
    stream_id = outbox.streams.known(ref)
    if stream_id is None:
        return None
    return stream_id, *outbox.streams.target(stream_id)


def why_not_sent(outbox: Readable, report: Report, others: Iterable[Report]) -> str:
    """Return why *report* must not be sent though it is a success, empty if nothing is known against it.

    It is of this boot, and not known to be on record; *others* are outcomes that aren't either, of whatever job.
    """
    entry = outbox.connection.execute("SELECT state FROM entries WHERE run_id = ?", (report.run_id,)).fetchone()
    if entry is not None and entry["state"] != State.WAITING:
        return f"it is {entry['state']} by now"
    now = outbox.now()
    known = None if report.ref is None else stream_of(outbox, report.ref)
    try:
        stream = Stream() if known is None else outbox.streams.facts(known[0], now).stream
    except damage.UNREADABLE as problem:
        return f"what is known of its heartbeat is damaged in the store: {problem}"
    key = _key_in(now, report)
    for other in others:
        later = _key_in(now, other)
        if other.boot_id != report.boot_id or later <= key or not _is_same_stream(outbox, other.ref, report.ref, known):
            continue
        if other.outcome.withdraws:
            stream = replace(stream, failed=max(later, stream.failed or later))
        elif other.outcome is Outcome.SUCCEEDED:
            stream = replace(stream, succeeded=max(later, stream.succeeded or later))
    ended = Moment(now.epoch, report.ended.boot_ns, report.ended.wall_ns)
    withdrawn = judge(stream, [Waiting(key, ended, report.max_age_s)], now).withdrawn
    return withdrawn[0].reason if withdrawn else ""


def state_of(outbox: Readable, run_id: str) -> str | None:
    """Return the state of the ping of that run, None if it has none."""
    row = outbox.connection.execute("SELECT state FROM entries WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else str(row["state"])


def kept_reports(outbox: Readable) -> list[Report]:
    """Return the reports that are durable and not judged yet."""
    lines = [row["line"] for row in outbox.connection.execute("SELECT line FROM inbox ORDER BY id")]
    return [report for line in lines if (report := report_in(line)) is not None]


def host_held_s(outbox: Readable, host: str) -> float:
    """Return for how long nothing may be sent to *host*, because it asked for that (Retry-After); 0: it may."""
    now = outbox.now()
    row = outbox.connection.execute(
        "SELECT not_before_ns FROM hosts WHERE host = ? AND epoch = ?", (host, now.epoch)
    ).fetchone()
    return 0.0 if row is None else max(0, row["not_before_ns"] - now.boot_ns) / 1e9


def stream_problem(outbox: Readable, stream_id: int) -> str:
    """Return what keeps the stream's pings from getting through, empty while nothing is known to."""
    row = outbox.connection.execute("SELECT problem FROM streams WHERE id = ?", (stream_id,)).fetchone()
    return "" if row is None else str(row["problem"])


def other_feeders(outbox: Readable, last_pings_ns: Mapping[str, int] | None = None) -> dict[str, str]:
    """Return the heartbeats, names by ids, that something besides this store feeds.

    *last_pings_ns* is when Aura last saw a ping of each id, in nanoseconds since the epoch; default: what the newest
    listing said. It wasn't ours if we had pinged before, but were not trying to around that time. Watches are never
    among them: their pings are not on record.
    """
    if last_pings_ns is None:
        cached = {heartbeat.id: heartbeat.last_ping_wall_ns for heartbeat in outbox.heartbeats.all()}
        last_pings_ns = {heartbeat_id: ping_ns for heartbeat_id, ping_ns in cached.items() if ping_ns is not None}
    streams = outbox.connection.execute(
        "SELECT id, heartbeat_id, delivered_wall_ns FROM streams WHERE delivered_wall_ns IS NOT NULL AND scope = ?",
        (outbox.scopes.current(),),
    ).fetchall()
    return {
        row["heartbeat_id"]: outbox.streams.name(row["id"])
        for row in streams
        if (ping_ns := last_pings_ns.get(row["heartbeat_id"])) is not None
        and abs(ping_ns - row["delivered_wall_ns"]) > _ALIKE_NS
        and _is_foreign(outbox.connection, row["id"], ping_ns)
    }


def other_feeder_text(heartbeat: str) -> str:
    """Return what to say of a heartbeat among ``other_feeders``."""
    return f'something else pings "{heartbeat}" too, and hides it if the job here fails: another host, user or program'


def _is_foreign(connection: sqlite3.Connection, stream_id: int, ping_ns: int) -> bool:
    """Whether a ping that arrived at *ping_ns* came from elsewhere. What has been tried may have arrived."""
    here = {"stream": stream_id, "begin": ping_ns - _ALIKE_NS, "end": ping_ns + _ALIKE_NS}
    for tried in (
        # Each is a look into an index: there are thousands of entries, and their bodies may be large.
        f"{_HAS_ENDED} AND state = 'delivered' AND changed_wall_ns BETWEEN :begin AND :end",
        "state = 'waiting' AND tries > 0",
        "state = 'waiting' AND id = (SELECT lease_entry FROM streams WHERE streams.id = :stream)",
        f"{_HAS_ENDED} AND state IN ({_NOT_SENT}) AND changed_wall_ns >= :begin AND tries > 0",
    ):
        query = f"SELECT 1 FROM entries WHERE stream_id = :stream AND {tried} LIMIT 1"
        if connection.execute(query, here).fetchone() is not None:
            return False
    fed_before = connection.execute(
        "SELECT 1 FROM streams WHERE id = :stream AND delivered_wall_ns < :begin UNION ALL SELECT 1 FROM entries"
        f" WHERE stream_id = :stream AND {_HAS_ENDED} AND state = 'delivered' AND changed_wall_ns < :begin LIMIT 1",
        here,
    )
    return fed_before.fetchone() is not None


def _key_in(now: Moment, report: Report) -> Key:
    """Return the place in the order of a run of the boot of *now*."""
    return Key(now.epoch, report.started.boot_ns, report.run_id)


def _is_same_stream(
    outbox: Readable, ref: str | None, report_ref: str | None, known: tuple[int, str | None, Secret | None] | None
) -> bool:
    """Whether *ref* means the stream of *report_ref*, which is *known* if it is."""
    if ref is None or ref == report_ref or known is None:
        return ref == report_ref
    stream_id, heartbeat_id, _ = known
    other_id = outbox.streams.known(ref)
    if other_id is not None:
        return other_id == stream_id
    found = outbox.heartbeats.find(ref)
    return len(found) == 1 and found[0].id == heartbeat_id


def _host_troubles(connection: sqlite3.Connection) -> dict[str, str]:
    """Return for each host at which a ping failed, and is to be sent again, why that was."""
    query = "SELECT host, max(problem) FROM streams WHERE host <> '' AND problem <> '' AND NOT parked GROUP BY host"
    return dict(tuple(row) for row in connection.execute(query))


def _queue_row(row: sqlite3.Row, names: dict[int, str], troubles: Mapping[str, str], now: Moment) -> QueueRow:
    waits = row["state"] == State.WAITING
    due_s = None
    if waits and row["due_boot_ns"] is not None:
        due_s = max(0, row["due_boot_ns"] - now.boot_ns) / 1e9 if row["due_epoch"] == now.epoch else 0.0
    reason = row["reason"] or (row["problem"] if waits else "")
    if due_s == 0.0 and not reason and row["host"] in troubles:
        # One that is due and isn't sent has no room at its host; when that changes only the courier knows.
        reason, due_s = f"waits for {row['host']}, where another ping failed: {troubles[row['host']]}", None
    state = PARKED if waits and row["parked"] else row["state"]
    return QueueRow(
        id=row["id"],
        heartbeat=names[row["stream_id"]],
        job=row["job"],
        run_id=row["run_id"],
        state=state,
        reason=reason,
        ended_at=instant(row["ended_wall_ns"]),
        tries=row["tries"],
        next_try_s=due_s,
    )

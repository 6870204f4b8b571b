"""The SQLite file: how it is opened, its numbered schema steps, and what happens to one that can't be read.

WAL with ``synchronous=FULL``: a commit has been synced when it returns (NORMAL would lose the newest commits in a
power cut). A file from a newer version is refused; one that SQLite can't read is set aside under
``*.corrupt-DATE``, never deleted, unless a daemon lives that has it open.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from urllib.parse import quote

from aura_agent.errors import StoreBusyError, StoreDamagedError, StoreError, StoreVersionError
from aura_agent.outbox.column_types import repair_types
from aura_agent.outbox.copies import copy_into
from aura_agent.private_files import lock, open_private
from aura_agent.report.places import DAEMON_LOCK
from aura_agent.report.spool import sync_directory

BUSY_TIMEOUT_S = 10.0
_WAL_KEPT_BYTES = 4 << 20  # what a large transaction has made of the log is given back at the next checkpoint

# Instants are two integers: the boot's count and CLOCK_BOOTTIME nanoseconds; ``_wall_ns`` is since the Unix epoch. A
# stream's ``due`` is when its next attempt may begin; NULL when nothing waits. Its ``host`` is that of its ping URL
# when it was last looked at, empty before; ``urgency`` is about when what waits first expires. ``since`` is the end of
# the first run whose ping has been waiting in vain, or the delivery of another one after that; ``told`` whether people
# know. A job's ``newest`` is its newest run, ``failing`` how that ended. ``inbox`` holds ``run`` lines that nobody has
# judged yet, and the account of who received them. A ``scope`` is an organization at a base URL (``scopes``); 0 where
# there is none. The marks of a stream are the newest of those of its ``refs``; a waiting entry's ``ref`` says which of
# them it goes with when they come apart. ``silent`` is since when no ping of the stream has had any answer; ``asked``
# when its heartbeat was last looked up for the sake of a ping to a bare URL.
_STEPS = (
    """
    CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, newest_wall_ns INTEGER NOT NULL) STRICT;
    CREATE TABLE heartbeats (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, interval_s REAL, grace_s REAL, status TEXT, last_ping_wall_ns INTEGER,
        ping_url TEXT, listed_wall_ns INTEGER NOT NULL, url_wall_ns INTEGER
    ) STRICT;
    CREATE INDEX heartbeats_by_name ON heartbeats (name);
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY, heartbeat_id TEXT UNIQUE, direct_url TEXT,
        failed_epoch INTEGER, failed_boot_ns INTEGER, failed_run TEXT,
        delivered_epoch INTEGER, delivered_boot_ns INTEGER, delivered_run TEXT, delivered_wall_ns INTEGER,
        due_epoch INTEGER, due_boot_ns INTEGER, tries INTEGER NOT NULL DEFAULT 0, parked INTEGER NOT NULL DEFAULT 0,
        problem TEXT NOT NULL DEFAULT '',
        lease_owner TEXT, lease_entry INTEGER, lease_epoch INTEGER, lease_until_ns INTEGER
    ) STRICT;
    CREATE INDEX streams_by_due ON streams (due_epoch, due_boot_ns) WHERE due_boot_ns IS NOT NULL;
    CREATE TABLE refs (ref TEXT PRIMARY KEY, stream_id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX refs_by_stream ON refs (stream_id);
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream_id INTEGER NOT NULL, run_id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL,
        epoch INTEGER NOT NULL, started_boot_ns INTEGER NOT NULL, ended_boot_ns INTEGER NOT NULL,
        ended_wall_ns INTEGER NOT NULL, max_age_s REAL, replay_all INTEGER NOT NULL, body BLOB,
        state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
        accepted_wall_ns INTEGER NOT NULL, changed_wall_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX entries_waiting ON entries (stream_id) WHERE state = 'waiting';
    CREATE INDEX entries_by_change ON entries (state, changed_wall_ns);
    CREATE TABLE hosts (host TEXT PRIMARY KEY, epoch INTEGER NOT NULL, not_before_ns INTEGER NOT NULL) STRICT;
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, job TEXT NOT NULL, heartbeat TEXT NOT NULL, outcome TEXT NOT NULL,
        started_wall_ns INTEGER NOT NULL, duration_s REAL NOT NULL, exit_code INTEGER, signal INTEGER,
        attempts INTEGER NOT NULL, reason TEXT NOT NULL, tail TEXT NOT NULL, cpu_s REAL, max_rss_bytes INTEGER
    ) STRICT;
    CREATE INDEX runs_by_job ON runs (job, started_wall_ns);
    CREATE INDEX runs_by_start ON runs (started_wall_ns);
    CREATE TABLE jobs (
        job TEXT PRIMARY KEY, last_fire_wall_ns INTEGER, reboot_id TEXT, paused INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE open_runs (
        run_id TEXT PRIMARY KEY, job TEXT NOT NULL, ref TEXT, epoch INTEGER NOT NULL,
        started_boot_ns INTEGER NOT NULL, started_wall_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE epochs ADD COLUMN first_boot_ns INTEGER;
    """,
    """
    ALTER TABLE runs ADD COLUMN io_read_bytes INTEGER;
    ALTER TABLE runs ADD COLUMN io_written_bytes INTEGER;
    """,
    """
    ALTER TABLE streams ADD COLUMN host TEXT NOT NULL DEFAULT '';
    ALTER TABLE streams ADD COLUMN urgency_wall_ns INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX streams_by_urgency ON streams (host, urgency_wall_ns) WHERE due_boot_ns IS NOT NULL;
    """,
    """
    ALTER TABLE streams ADD COLUMN since_epoch INTEGER;
    ALTER TABLE streams ADD COLUMN since_boot_ns INTEGER;
    ALTER TABLE streams ADD COLUMN since_wall_ns INTEGER;
    ALTER TABLE streams ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN newest_epoch INTEGER;
    ALTER TABLE jobs ADD COLUMN newest_boot_ns INTEGER;
    ALTER TABLE jobs ADD COLUMN newest_run TEXT;
    ALTER TABLE jobs ADD COLUMN failing INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE hook_calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, job TEXT NOT NULL, run_id TEXT NOT NULL,
        reason TEXT NOT NULL, noted_wall_ns INTEGER NOT NULL, owner TEXT
    ) STRICT;
    """,
    """
    ALTER TABLE jobs ADD COLUMN ahead_wall_ns TEXT;
    ALTER TABLE jobs ADD COLUMN schedule TEXT;
    """,
    """
    ALTER TABLE streams ADD COLUMN succeeded_epoch INTEGER;
    ALTER TABLE streams ADD COLUMN succeeded_boot_ns INTEGER;
    ALTER TABLE streams ADD COLUMN succeeded_run TEXT;
    """,
    """
    CREATE TABLE inbox (id INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
    """,
    """
    ALTER TABLE epochs ADD COLUMN boot_id TEXT;
    ALTER TABLE epochs ADD COLUMN first_wall_ns INTEGER;
    CREATE INDEX epochs_by_boot ON epochs (boot_id);
    CREATE TABLE unseen_boots (
        boot_id TEXT PRIMARY KEY, early INTEGER NOT NULL, late INTEGER NOT NULL, began_wall_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE open_runs ADD COLUMN owner TEXT;
    """,
    """
    CREATE TABLE scopes (
        id INTEGER PRIMARY KEY, base_url TEXT, proven INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0,
        listed_wall_ns INTEGER, list_after_wall_ns INTEGER NOT NULL DEFAULT 0, used_wall_ns INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO scopes (id, listed_wall_ns) SELECT 1, max(listed_wall_ns) FROM heartbeats;
    CREATE TABLE credentials (fingerprint TEXT PRIMARY KEY, scope INTEGER NOT NULL, token TEXT) STRICT, WITHOUT ROWID;

    ALTER TABLE heartbeats RENAME TO old_heartbeats;
    DROP INDEX heartbeats_by_name;
    CREATE TABLE heartbeats (
        scope INTEGER NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, interval_s REAL, grace_s REAL, status TEXT,
        last_ping_wall_ns INTEGER, ping_url TEXT, listed_wall_ns INTEGER NOT NULL, url_wall_ns INTEGER,
        PRIMARY KEY (scope, id)
    ) STRICT;
    INSERT INTO heartbeats SELECT 1, id, name, interval_s, grace_s, status, last_ping_wall_ns, ping_url,
        listed_wall_ns, url_wall_ns FROM old_heartbeats;
    DROP TABLE old_heartbeats;
    CREATE INDEX heartbeats_by_name ON heartbeats (scope, name);
    CREATE INDEX heartbeats_by_url ON heartbeats (ping_url);

    ALTER TABLE refs RENAME TO old_refs;
    DROP INDEX refs_by_stream;
    CREATE TABLE refs (
        scope INTEGER NOT NULL, ref TEXT NOT NULL, stream_id INTEGER NOT NULL,
        failed_epoch INTEGER, failed_boot_ns INTEGER, failed_run TEXT,
        succeeded_epoch INTEGER, succeeded_boot_ns INTEGER, succeeded_run TEXT,
        PRIMARY KEY (scope, ref)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO refs SELECT ref NOT LIKE 'url:%', ref, stream_id, failed_epoch, failed_boot_ns, failed_run,
        succeeded_epoch, succeeded_boot_ns, succeeded_run FROM old_refs JOIN streams ON streams.id = stream_id;
    DROP TABLE old_refs;
    CREATE INDEX refs_by_stream ON refs (stream_id);

    ALTER TABLE streams RENAME TO old_streams;
    DROP INDEX streams_by_due;
    DROP INDEX streams_by_urgency;
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY, scope INTEGER NOT NULL, heartbeat_id TEXT, direct_url TEXT,
        failed_epoch INTEGER, failed_boot_ns INTEGER, failed_run TEXT,
        delivered_epoch INTEGER, delivered_boot_ns INTEGER, delivered_run TEXT, delivered_wall_ns INTEGER,
        succeeded_epoch INTEGER, succeeded_boot_ns INTEGER, succeeded_run TEXT,
        due_epoch INTEGER, due_boot_ns INTEGER, tries INTEGER NOT NULL DEFAULT 0, parked INTEGER NOT NULL DEFAULT 0,
        problem TEXT NOT NULL DEFAULT '',
        lease_owner TEXT, lease_entry INTEGER, lease_epoch INTEGER, lease_until_ns INTEGER,
        host TEXT NOT NULL DEFAULT '', urgency_wall_ns INTEGER NOT NULL DEFAULT 0,
        since_epoch INTEGER, since_boot_ns INTEGER, since_wall_ns INTEGER, told INTEGER NOT NULL DEFAULT 0,
        silent_wall_ns INTEGER, asked_epoch INTEGER, asked_boot_ns INTEGER,
        UNIQUE (scope, heartbeat_id)
    ) STRICT;
    INSERT INTO streams (id, scope, heartbeat_id, direct_url, failed_epoch, failed_boot_ns, failed_run,
        delivered_epoch, delivered_boot_ns, delivered_run, delivered_wall_ns, succeeded_epoch, succeeded_boot_ns,
        succeeded_run, due_epoch, due_boot_ns, tries, parked, problem, lease_owner, lease_entry, lease_epoch,
        lease_until_ns, host, urgency_wall_ns, since_epoch, since_boot_ns, since_wall_ns, told)
        SELECT id, direct_url IS NULL OR heartbeat_id IS NOT NULL, heartbeat_id, direct_url, failed_epoch,
        failed_boot_ns, failed_run, delivered_epoch, delivered_boot_ns, delivered_run, delivered_wall_ns,
        succeeded_epoch, succeeded_boot_ns, succeeded_run, due_epoch, due_boot_ns, tries, parked, problem, lease_owner,
        lease_entry, lease_epoch, lease_until_ns, host, urgency_wall_ns, since_epoch, since_boot_ns, since_wall_ns, told
        FROM old_streams;
    DROP TABLE old_streams;
    CREATE INDEX streams_by_due ON streams (due_epoch, due_boot_ns) WHERE due_boot_ns IS NOT NULL;
    CREATE INDEX streams_by_urgency ON streams (host, urgency_wall_ns) WHERE due_boot_ns IS NOT NULL;

    ALTER TABLE open_runs ADD COLUMN scope INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE entries ADD COLUMN ref TEXT;
    UPDATE entries SET ref = (SELECT min(ref) FROM refs WHERE refs.stream_id = entries.stream_id)
        WHERE state = 'waiting' AND (SELECT count(*) FROM refs WHERE refs.stream_id = entries.stream_id) = 1;
    """,
    """
    CREATE INDEX streams_unresolved ON streams (scope) WHERE heartbeat_id IS NULL AND direct_url IS NULL;
    """,
    """
    CREATE INDEX runs_by_source ON runs (job, heartbeat, outcome, started_wall_ns);
    CREATE INDEX entries_waiting_by_end ON entries (ended_wall_ns) WHERE state = 'waiting';
    CREATE INDEX entries_tried ON entries (stream_id) WHERE state = 'waiting' AND tries > 0;
    CREATE INDEX entries_ended ON entries (stream_id, state, changed_wall_ns, tries) WHERE state <> 'waiting';
    """,
    """
    CREATE TABLE generation (
        store_id TEXT NOT NULL, number INTEGER NOT NULL, held_epoch INTEGER, held_boot_ns INTEGER
    ) STRICT;
    INSERT INTO generation VALUES (lower(hex(randomblob(16))), 0, NULL, NULL);
    ALTER TABLE entries ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
    """,
    """
    ALTER TABLE inbox ADD COLUMN account TEXT;
    """,
    """
    ALTER TABLE generation ADD COLUMN contradictions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE generation ADD COLUMN held_against INTEGER NOT NULL DEFAULT 0;
    """,
)
SCHEMA_VERSION = len(_STEPS)
_text = partial(str, encoding="utf-8", errors="replace")  # a damaged name is no reason to read nothing


def open_database(
    path: str, *, check: bool = False, patience_s: float = BUSY_TIMEOUT_S
) -> tuple[sqlite3.Connection, str]:
    """Open or create the file at *path*, 0600, at the newest schema; *check* reads all of it first.

    *patience_s* is how long each statement waits for a lock that others hold; no signal handler runs meanwhile.
    Returns the connection, and under what name a damaged file was set aside, or an empty text. Raises StoreError.
    """
    inode = _inode(path)
    connection = _connect(path, patience_s)
    try:
        _set_up(connection, path, check=check)
    except StoreDamagedError as damage:
        # Before it is closed: SQLite then leaves the file as it is, into which it would write what is in the log.
        try:
            aside = _set_aside(path, inode, damage)
        finally:
            connection.close()
    except BaseException:
        connection.close()
        raise
    else:
        return connection, ""
    connection = _connect(path, patience_s)
    try:
        _set_up(connection, path, check=False)
    except BaseException:
        connection.close()
        raise
    return connection, aside


def open_copy(path: str) -> sqlite3.Connection:
    """Return a database in memory with what the file at *path* holds; an empty one if nothing of it can be used.

    That is so where it can't be read, is damaged, or comes from a version that changed what ours knows.
    """
    memory = _connect(":memory:", 0.0)
    try:
        if copy_into(memory, path):
            _migrate(memory, path, is_copy=True)
            memory.execute("PRAGMA temp_store=MEMORY")
            if _is_understood(memory):
                # A lease ends in the original, where we never learn of it.
                memory.execute("UPDATE streams SET lease_owner = NULL, lease_entry = NULL")
                return memory
    except (StoreError, sqlite3.Error, OSError, MemoryError):
        pass
    memory.close()
    return open_database(":memory:")[0]


def _is_understood(connection: sqlite3.Connection) -> bool:
    """Whether the database has every table and column that our schema has."""
    ours = _connect(":memory:", 0.0)
    try:
        _set_up(ours, ":memory:", check=False)
        return all(_columns(ours, table) <= _columns(connection, table) for table in _tables(ours))
    finally:
        ours.close()


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def open_to_read(path: str) -> sqlite3.Connection:
    """Open the file at *path*, which is there, for reading alone. Raises StoreError."""
    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
        )
    except sqlite3.Error as problem:
        raise translated(problem, path, "check the file's owner and the disk") from problem
    connection.row_factory = sqlite3.Row
    connection.text_factory = _text
    return connection


def translated(problem: sqlite3.Error | OSError, what: str, advice: str) -> StoreError:
    """Return *problem* as a StoreError of its kind, in a line that says *what* it is about and what to do."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    kind = {
        sqlite3.SQLITE_BUSY: StoreBusyError,
        sqlite3.SQLITE_CORRUPT: StoreDamagedError,
        sqlite3.SQLITE_NOTADB: StoreDamagedError,
    }.get(code, StoreError)
    if kind is StoreBusyError:
        advice = "another process keeps it so: try again, or see with fuser which one"
    return kind(f"{what}: {problem}: {advice}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One write transaction: committed and synced at the end, or undone as a whole. Raises StoreError."""
    with reading():
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise


@contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction that is undone alone if it raises."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite may have rolled back all of it
            connection.execute("ROLLBACK TO part")
        raise
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE part")


@contextmanager
def reading() -> Iterator[None]:
    """Translate what SQLite and the disk say where something can't be read, or be written. Raises StoreError."""
    try:
        yield
    except (sqlite3.Error, OSError) as problem:
        raise translated(problem, "outbox", "check the disk and the state directory") from problem


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has done it itself (sqlite.org/lang_transaction.html), or the next BEGIN says why not


def _connect(path: str, patience_s: float) -> sqlite3.Connection:
    if path != ":memory:":
        _create_private(path)
    try:
        connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as problem:
        raise translated(problem, path, "check the file's owner and the disk") from problem
    connection.row_factory = sqlite3.Row
    connection.text_factory = _text
    return connection


def _set_up(connection: sqlite3.Connection, path: str, *, check: bool) -> None:
    try:
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before anything else; in a file with pages it writes
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}")
        connection.execute("PRAGMA synchronous=FULL")
        # sqlite.org/security.html: what a damaged or planted file has in its schema runs nothing, and is looked at.
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA mmap_size=0")
        # Sorting and statements that may be undone want temporary files, for which a container may have no place.
        connection.execute("PRAGMA temp_store=MEMORY")
        if check:
            _check(connection)
        _migrate(connection, path)
    except sqlite3.Error as problem:
        raise translated(problem, path, "check the file's owner and the disk") from problem


def _check(connection: sqlite3.Connection) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok" and not _is_sound_after_repair(connection):
        raise StoreDamagedError(found)


def _is_sound_after_repair(connection: sqlite3.Connection) -> bool:
    """Repair values of a wrong type; return whether nothing else is damaged, and keep the repair only then."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not sum(repair_types(connection, table) for table in _tables(connection)):
            return False
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found == "ok":
            connection.execute("COMMIT")
        return bool(found == "ok")
    except (sqlite3.DatabaseError, SystemError):
        return False
    finally:
        _roll_back(connection)


def _create_private(path: str) -> None:
    try:
        file = open_private(path, os.O_RDWR)
    except OSError as problem:
        raise StoreError(f"{path}: {problem.strerror}: check the state directory's owner and the disk") from problem
    try:
        if os.fstat(file).st_uid != os.geteuid():
            raise StoreError(f"{path}: belongs to another user: remove it or mend its owner")
    finally:
        os.close(file)


def _migrate(connection: sqlite3.Connection, path: str, *, is_copy: bool = False) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION or (is_copy and version > SCHEMA_VERSION):
        return
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreVersionError(
                f"{path}: written by a newer aura-agent (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        for step in _STEPS[version:]:
            for statement in step.split(";"):  # executescript would commit before it begins
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    if path != ":memory:" and not is_copy:
        sync_directory(os.path.dirname(path))


def _set_aside(path: str, inode: int, damage: StoreDamagedError) -> str:
    """Give the damaged file another name, and return that; empty if somebody else has done so meanwhile.

    Raises StoreDamagedError: a daemon has it open, and would go on in it under whatever name.
    """
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            lock(directory)  # one at a time: the next would take the fresh file away
        except TimeoutError as held:
            raise StoreBusyError(
                f"{path}: damaged, and {held.strerror}: try again, or see with fuser which one"
            ) from held
        if _inode(path) != inode:
            return ""
        if is_served(os.path.dirname(path)):
            raise StoreDamagedError(
                f"{path}: damaged: restart aura-agent, which sets it aside as it starts"
            ) from damage
        aside = f"{path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        return aside
    finally:
        os.close(directory)


def is_served(directory: str) -> bool:
    """Whether a daemon lives that serves the store: it holds a lock."""
    try:
        lock = os.open(os.path.join(directory, DAEMON_LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # of what can't be looked at, nothing is concluded
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0

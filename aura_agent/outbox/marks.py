"""Marks: the keys of a heartbeat queue's newest failure, success and delivered success, and the repair of damaged ones.

Marks keep pings true after every other row is gone, so a damaged one is restored and never just forgotten. Failure and
success are stored twice, with the queue and with the ref under which they were reported: each is the copy of the other.
What was delivered is also in the rows of the pings.

Works inside the transactions of ``aura_agent.outbox.store``.
"""

import sqlite3

from aura_agent.outbox import damage
from aura_agent.outbox.rules import Key, Moment

REF_MARKS = ("failed", "succeeded")
QUEUE_MARKS = ("failed", "delivered", "succeeded")
_COLUMNS = ("epoch", "boot_ns", "run")


def key_in(row: sqlite3.Row, mark: str, newest_boot: int | None = None) -> Key | None:
    """Return a mark of a queue or a ref. *newest_boot*: as for check_instant. Raises ValueError: damaged."""
    epoch, boot_ns, run_id = (row[f"{mark}_{column}"] for column in _COLUMNS)
    if epoch is None and boot_ns is None and run_id is None:
        return None
    damage.check_instant(row, f"{mark}_epoch", f"{mark}_boot_ns", newest_boot)
    damage.check_run_id(row, f"{mark}_run")
    return Key(epoch, boot_ns, run_id)


def raise_mark(connection: sqlite3.Connection, stream_id: int, mark: str, key: Key) -> None:
    """Store *key* as the queue's *mark*, unless a later one is stored."""
    connection.execute(
        f"UPDATE streams SET {mark}_epoch = ?, {mark}_boot_ns = ?, {mark}_run = ? WHERE id = ?"
        f" AND ({mark}_epoch IS NULL OR ({mark}_epoch, {mark}_boot_ns, {mark}_run) < (?, ?, ?))",
        (*key, stream_id, *key),
    )


def raise_ref_mark(connection: sqlite3.Connection, scope: int, ref: str, mark: str, key: Key) -> None:
    """Store *key* as the *mark* of a ref, unless a later one is stored."""
    connection.execute(
        f"UPDATE refs SET {mark}_epoch = ?, {mark}_boot_ns = ?, {mark}_run = ? WHERE scope = ? AND ref = ?"
        f" AND ({mark}_epoch IS NULL OR ({mark}_epoch, {mark}_boot_ns, {mark}_run) < (?, ?, ?))",
        (*key, scope, ref, *key),
    )


def repair(connection: sqlite3.Connection, stream_id: int, now: Moment) -> str:
    """Restore damaged marks of a queue and of its refs; return which mark could not be restored, empty if all could.

    That can only be the newest failure, with both copies damaged. It then counts as of *now*: rather no ping than a
    false one.
    """
    queue = connection.execute("SELECT * FROM streams WHERE id = ?", (stream_id,)).fetchone()
    if queue is None:
        return ""
    refs = connection.execute("SELECT * FROM refs WHERE stream_id = ?", (stream_id,)).fetchall()
    lost = ""
    succeeded: Key | None = None
    for mark in REF_MARKS:
        stored, problem = _read(queue, mark, now)
        copies = [_read(ref, mark, now) for ref in refs]
        if problem and refs and not any(trouble for _, trouble in copies):
            stored = max((key for key, _ in copies if key is not None), default=None)
        elif problem and mark == "failed":
            stored, lost = Key(now.epoch, now.boot_ns, f"damaged{now.boot_ns:x}"), problem
        elif problem:
            stored = _newest_entry(connection, stream_id, now)
        if problem:
            _write(connection, "id = ?", (stream_id,), "streams", mark, stored)
        for ref, (_, trouble) in zip(refs, copies, strict=True):
            if trouble:  # its own may have been an earlier one
                _write(connection, "scope = ? AND ref = ?", (ref["scope"], ref["ref"]), "refs", mark, stored)
        succeeded = stored
    if _read(queue, "delivered", now)[1]:
        delivered = _newest_entry(connection, stream_id, now, "delivered") or succeeded
        _write(connection, "id = ?", (stream_id,), "streams", "delivered", delivered)
    return lost


def _read(row: sqlite3.Row, mark: str, now: Moment) -> tuple[Key | None, str]:
    """Return a mark, and what is wrong with it."""
    try:
        return key_in(row, mark, now.newest_epoch), ""
    except damage.UNREADABLE as problem:
        return None, str(problem)


def _newest_entry(connection: sqlite3.Connection, stream_id: int, now: Moment, state: str | None = None) -> Key | None:
    """Return the newest key of the queue's pings (of that *state*), leaving out damaged ones."""
    rows = connection.execute(
        "SELECT epoch AS key_epoch, started_boot_ns AS key_boot_ns, run_id AS key_run FROM entries"
        " WHERE stream_id = ? AND state = coalesce(?, state)",
        (stream_id, state),
    )
    keys = [_read(row, "key", now)[0] for row in rows]
    return max((key for key in keys if key is not None), default=None)


def _write(
    connection: sqlite3.Connection,
    condition: str,
    values: tuple[int | str, ...],
    table: str,
    mark: str,
    key: Key | None,
) -> None:
    connection.execute(
        f"UPDATE {table} SET {mark}_epoch = ?, {mark}_boot_ns = ?, {mark}_run = ? WHERE {condition}",
        (*(key or (None, None, None)), *values),
    )

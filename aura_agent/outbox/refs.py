"""Refs: what reports called their heartbeat (a name, an id, a URL), and the newest runs that each of them brought.

A ref belongs to one heartbeat queue at a time. Its *marks* (keys of its newest failure and success) go with it when it
turns out to mean another heartbeat: they are about the job that is reported under it. What was delivered stays with the
heartbeat that has got it.

Works inside the transactions of ``aura_agent.outbox.store``.
"""

import sqlite3
from hashlib import sha256

from aura_agent.outbox import damage
from aura_agent.outbox.marks import REF_MARKS, key_in, raise_mark, raise_ref_mark
from aura_agent.outbox.rules import Key, Moment
from aura_agent.outbox.scopes import NO_SCOPE
from aura_agent.report.record import Ref

_FLOOR = ""  # the ref under which the marks of all deleted refs are kept
_UNUSED_S = 90 * 86_400.0


class Refs:
    """The refs of one store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def stream(self, scope: int, ref: str) -> int | None:
        """Return the stream that *ref* (as stored) belongs to."""
        query = (
            "SELECT stream_id FROM refs JOIN streams ON streams.id = stream_id WHERE refs.scope = ? AND refs.ref = ?"
        )
        row = self._connection.execute(query, (scope, ref)).fetchone()
        return None if row is None else int(row["stream_id"])

    def of(self, stream_id: int) -> tuple[str, ...]:
        rows = self._connection.execute("SELECT ref FROM refs WHERE stream_id = ? ORDER BY ref", (stream_id,))
        return tuple(row["ref"] for row in rows)

    def insert(self, scope: int, ref: str, stream_id: int) -> None:
        """Add a ref. It may have been deleted before, so it begins with the marks of what was."""
        self._connection.execute(
            "INSERT INTO refs (scope, ref, stream_id) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET stream_id = excluded.stream_id",  # of one that is gone
            (scope, ref, stream_id),
        )
        self._carry_over((NO_SCOPE, _FLOOR), (scope, ref))
        self.raise_stream(stream_id, scope, ref)

    def move(self, scope: int, ref: str, source: int, target: int) -> None:
        """Let *ref* belong to the stream *target* from now on, with its marks."""
        self._connection.execute("UPDATE refs SET stream_id = ? WHERE scope = ? AND ref = ?", (target, scope, ref))
        self.raise_stream(target, scope, ref)
        for mark in REF_MARKS:
            self._connection.execute(
                f"UPDATE streams SET ({mark}_epoch, {mark}_boot_ns, {mark}_run) ="
                f" (SELECT {mark}_epoch, {mark}_boot_ns, {mark}_run FROM refs WHERE stream_id = ?1"
                f" AND {mark}_epoch IS NOT NULL ORDER BY {mark}_epoch DESC, {mark}_boot_ns DESC, {mark}_run DESC"
                " LIMIT 1) WHERE id = ?1",
                (source,),
            )

    def change_scope(self, source: int, target: int) -> None:
        """Let the refs of a scope be those of another one; of two that say the same, that of *target* stays."""
        for row in self._connection.execute("SELECT * FROM refs WHERE scope = ?", (source,)).fetchall():
            twin = self.stream(target, row["ref"])
            if twin is not None:
                self._carry_over((source, row["ref"]), (target, row["ref"]))
                self.raise_stream(twin, target, row["ref"])
                self._delete(source, row["ref"])
        self._connection.execute("UPDATE refs SET scope = ? WHERE scope = ?", (target, source))

    def raise_mark(self, scope: int, ref: str, mark: str, key: Key) -> None:
        """Remember *key* as the ref's *mark*, unless a later one is known."""
        raise_ref_mark(self._connection, scope, ref, mark, key)

    def raise_stream(self, stream_id: int, scope: int, ref: str) -> None:
        """Raise the marks of a stream to those of one of its refs."""
        for mark, key in self._marks(scope, ref):
            raise_mark(self._connection, stream_id, mark, key)

    def prune(self, now: Moment, limit: int) -> int:
        """Delete up to *limit* streams, with their refs, for which nothing was reported in 90 days; return how many.

        Nothing waits in them, and no row is left. A later failure than any success that may still come in must not be
        forgotten: the newest marks of what is deleted count for each ref that is new from then on.
        """
        rows = self._connection.execute(
            "SELECT id, scope FROM streams WHERE due_boot_ns IS NULL AND lease_owner IS NULL"
            " AND id NOT IN (SELECT stream_id FROM entries)"
            " AND max(coalesce(failed_epoch, 0), coalesce(succeeded_epoch, 0)) > 0"
            " AND (failed_epoch IS NULL OR " + is_old("failed") + ")"
            " AND (succeeded_epoch IS NULL OR " + is_old("succeeded") + ") LIMIT :limit",
            long_ago(now) | {"limit": limit},
        ).fetchall()
        for row in rows:
            query = "SELECT scope, ref FROM refs WHERE stream_id = ?"
            for scope, ref in self._connection.execute(query, (row["id"],)).fetchall():
                self._connection.execute(
                    "INSERT OR IGNORE INTO refs (scope, ref, stream_id) VALUES (?, ?, 0)", (NO_SCOPE, _FLOOR)
                )
                self._carry_over((scope, ref), (NO_SCOPE, _FLOOR))
                self._delete(scope, ref)
            self._connection.execute("DELETE FROM streams WHERE id = ?", (row["id"],))
        return len(rows)

    # -- private -------------------------------------------------------------------------------------------------

    def _carry_over(self, source: tuple[int, str], target: tuple[int, str]) -> None:
        """Raise the marks of one ref to those of another."""
        for mark, key in self._marks(*source):
            self.raise_mark(*target, mark, key)

    def _marks(self, scope: int, ref: str) -> list[tuple[str, Key]]:
        """Return the marks of a ref, leaving out damaged ones: a damaged key must reach no other row."""
        row = self._connection.execute("SELECT * FROM refs WHERE scope = ? AND ref = ?", (scope, ref)).fetchone()
        found = []
        for mark in REF_MARKS if row is not None else ():
            try:
                key = key_in(row, mark)
            except damage.UNREADABLE:
                continue
            if key is not None:
                found.append((mark, key))
        return found

    def _delete(self, scope: int, ref: str) -> None:
        self._connection.execute("DELETE FROM refs WHERE scope = ? AND ref = ?", (scope, ref))


def stored(ref: str) -> str:
    """Return the form in which the database keeps *ref*: of a URL, a digest that names it."""
    if not ref.startswith(Ref.URL):
        return ref
    return Ref.URL + sha256(ref.encode("utf-8", "surrogateescape")).hexdigest()


def label(stored_ref: str) -> str:
    """Return what people are shown of a ref."""
    if stored_ref.startswith(Ref.URL):
        return f"ping URL {stored_ref.removeprefix(Ref.URL)[:8]}"
    return stored_ref.partition(":")[2]


def long_ago(now: Moment) -> dict[str, int]:
    """Return the values for ``is_old``."""
    unused_ns = int(_UNUSED_S * 1e9)
    return {"epoch": now.epoch, "boot_ns": now.boot_ns - unused_ns, "wall_ns": now.wall_ns - unused_ns}


def is_old(mark: str) -> str:
    """Return the SQL for "that mark is old": by the boot's clock, for other boots by the wall clock."""
    return (
        f"CASE {mark}_epoch WHEN :epoch THEN {mark}_boot_ns < :boot_ns ELSE {mark}_epoch < :epoch AND coalesce("
        f"(SELECT newest_wall_ns FROM epochs WHERE epochs.epoch = {mark}_epoch), 0) < :wall_ns END"
    )

"""The cache of Aura's heartbeats: what a listing said of each, and their ping URLs. What is known stays.

Works inside the transactions of ``aura_agent.outbox.store``. A name that commands lend is looked for as ``HOST/name``
first.
"""

import sqlite3
from dataclasses import dataclass

from aura_agent.outbox.scopes import Scopes
from aura_agent.report.record import Ref
from aura_agent.secret import Secret


@dataclass(frozen=True, slots=True)
class CachedHeartbeat:
    """What the store remembers of a heartbeat; instants in nanoseconds since the Unix epoch."""

    id: str
    name: str
    interval_s: float | None
    grace_s: float | None
    status: str | None
    last_ping_wall_ns: int | None
    ping_url: Secret | None
    listed_wall_ns: int
    url_wall_ns: int | None = None


class Heartbeats:
    """The cached heartbeats of one store, scope by scope; where no scope is given, that of this process is meant.

    *hostname* turns a command's name into ``HOST/name``.
    """

    def __init__(self, connection: sqlite3.Connection, hostname: str, scopes: Scopes) -> None:
        self._connection = connection
        self._hostname = hostname
        self._scopes = scopes

    def candidates(self, ref: str) -> tuple[str, ...]:
        """Return the ids or names that *ref* may stand for, in order of preference."""
        if ref.startswith(Ref.AUTO):
            name = ref.removeprefix(Ref.AUTO)
            return (f"{self._hostname}/{name}", name)
        return (ref.removeprefix(Ref.HEARTBEAT),) if ref.startswith(Ref.HEARTBEAT) else ()

    def find(self, ref: str, scope: int | None = None) -> list[CachedHeartbeat]:
        """Return the cached heartbeats that *ref* names: none, one, or several of the same name."""
        return [_cached(row) for row in self._named(ref, "*", self._scopes.current() if scope is None else scope)]

    def ids(self, ref: str, scope: int) -> set[str]:
        """Return the ids of the cached heartbeats that *ref* names."""
        return {row["id"] for row in self._named(ref, "id", scope)}

    def _named(self, ref: str, columns: str, scope: int) -> list[sqlite3.Row]:
        """Return rows of what *ref* names: an id goes before names."""
        for wanted in self.candidates(ref):
            rows = self._connection.execute(
                f"SELECT {columns} FROM heartbeats WHERE scope = ?1 AND id = ?2"
                f" UNION ALL SELECT {columns} FROM heartbeats WHERE scope = ?1 AND name = ?2 AND id <> ?2",
                (scope, wanted),
            ).fetchall()
            if rows:
                return [row for row in rows if row["id"] == wanted] or rows
        return []

    def at(self, url: str) -> tuple[int, str] | None:
        """Return scope and id of the heartbeat whose ping URL that is: ours, if there are several."""
        row = self._connection.execute(
            "SELECT scope, id FROM heartbeats WHERE ping_url = ? ORDER BY scope <> ?, scope LIMIT 1",
            (url, self._scopes.current()),
        ).fetchone()
        return None if row is None else (row["scope"], row["id"])

    def remember(self, heartbeats: list[CachedHeartbeat], *, whole: bool = True) -> None:
        """Put *heartbeats* into the cache; *whole*: they are all that there are.

        A ping URL that is already there stays unless a new one came, and so does a heartbeat that a whole listing
        lacks; only its name goes over to one that has it now.
        """
        scope = self._scopes.current()
        self._connection.executemany(
            "INSERT INTO heartbeats"
            " (scope, id, name, interval_s, grace_s, status, last_ping_wall_ns, ping_url, listed_wall_ns, url_wall_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET name = excluded.name,"
            " interval_s = excluded.interval_s, grace_s = excluded.grace_s, status = excluded.status,"
            " last_ping_wall_ns = excluded.last_ping_wall_ns, listed_wall_ns = excluded.listed_wall_ns,"
            " ping_url = coalesce(excluded.ping_url, heartbeats.ping_url),"
            " url_wall_ns = coalesce(excluded.url_wall_ns, heartbeats.url_wall_ns)",
            [
                (
                    scope,
                    heartbeat.id,
                    heartbeat.name,
                    heartbeat.interval_s,
                    heartbeat.grace_s,
                    heartbeat.status,
                    heartbeat.last_ping_wall_ns,
                    heartbeat.ping_url.reveal() if heartbeat.ping_url else None,
                    heartbeat.listed_wall_ns,
                    heartbeat.url_wall_ns,
                )
                for heartbeat in heartbeats
            ],
        )
        if not whole:
            return
        listed = {heartbeat.id for heartbeat in heartbeats}
        query = "SELECT id FROM heartbeats WHERE scope = ? AND name = ?"
        for name in {heartbeat.name for heartbeat in heartbeats}:
            rows = self._connection.execute(query, (scope, name)).fetchall()
            replaced = [(scope, row["id"]) for row in rows if row["id"] not in listed]
            self._connection.executemany("UPDATE heartbeats SET name = '' WHERE scope = ? AND id = ?", replaced)

    def remember_url(self, heartbeat_id: str, url: Secret, wall_ns: int) -> bool:
        """Cache the heartbeat's ping URL; return whether it differs from the one before."""
        before = self.url(heartbeat_id)
        changed = self._connection.execute(
            "UPDATE heartbeats SET ping_url = ?, url_wall_ns = ? WHERE scope = ? AND id = ?",
            (url.reveal(), wall_ns, self._scopes.current(), heartbeat_id),
        )
        return changed.rowcount > 0 and before != url

    def url(self, heartbeat_id: str) -> Secret | None:
        row = self._connection.execute(
            "SELECT ping_url FROM heartbeats WHERE scope = ? AND id = ?", (self._scopes.current(), heartbeat_id)
        ).fetchone()
        return None if row is None or not row["ping_url"] else Secret(row["ping_url"])

    def all(self) -> list[CachedHeartbeat]:
        query = "SELECT * FROM heartbeats WHERE scope = ? ORDER BY name, id"
        return [_cached(row) for row in self._connection.execute(query, (self._scopes.current(),))]

    def every_url(self) -> list[Secret]:
        """Return the ping URLs of all scopes: what no log may show."""
        query = "SELECT ping_url FROM heartbeats WHERE ping_url IS NOT NULL"
        return [Secret(row["ping_url"]) for row in self._connection.execute(query)]


def _cached(row: sqlite3.Row) -> CachedHeartbeat:
    return CachedHeartbeat(
        id=row["id"],
        name=row["name"],
        interval_s=row["interval_s"],
        grace_s=row["grace_s"],
        status=row["status"],
        last_ping_wall_ns=row["last_ping_wall_ns"],
        ping_url=Secret(row["ping_url"]) if row["ping_url"] else None,
        listed_wall_ns=row["listed_wall_ns"],
        url_wall_ns=row["url_wall_ns"],
    )

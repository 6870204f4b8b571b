"""Scopes: which Aura organization, at which base URL, cached heartbeats and heartbeat queues belong to.

The token names the organization, and tokens are rotated. So a scope has several accounts (``report.account``):

- The first account of a store takes the scope that each new database has.
- A later unknown account begins a scope of its own. The heartbeats that it is first shown decide: if another scope of
  the same base URL (or token) knows one of their ids, the two scopes are one.
- A database from before scopes has one scope without an account. The account whose API budget lies in the store, and
  no other, takes it at once; else the first one that is shown one of its ids.
- A scope to which Aura has never shown a heartbeat is given up for the next account if its token was refused, or is
  the same token at another base URL: somebody has corrected a mistake.

Works inside the transactions of ``aura_agent.outbox.store``. Knows nothing of tokens but their digests.
"""

import json
import os
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from aura_agent.report.account import Account

FOREIGN = "its run was recorded for another Aura account: it waits until that token and base URL are set again"
NO_SCOPE = 0  # of refs that are URLs, and of reports that could be anybody's
_BUDGETS = "budget"
_TOUCH_NS = 86_400 * 10**9  # how exactly a scope's last use is on record


@dataclass(frozen=True, slots=True)
class Listing:
    """How old a scope's list of heartbeats is, in nanoseconds since the Unix epoch; *is_used*: by names.

    Only the daemon asks again before *list_after_wall_ns*.
    """

    is_used: bool
    listed_wall_ns: int | None
    list_after_wall_ns: int


@dataclass(slots=True)
class Identity:
    """Who this process is, for all of its connections to one store. *owns_reports*: reports of unknown accounts too."""

    fingerprint: str = ""
    owns_reports: bool = False


class Scopes:
    """The scopes of one store in *directory* (None: one in memory), and which one *identity* is in."""

    def __init__(self, connection: sqlite3.Connection, identity: Identity, directory: str | None = None) -> None:
        self._connection = connection
        self._identity = identity
        self._directory = directory

    @property
    def owns_reports(self) -> bool:
        return self._identity.owns_reports

    def current(self) -> int:
        """Return the scope of this process; without a token that of the only scope, if there is only one."""
        if self._identity.fingerprint:
            return self._known(self._identity.fingerprint) or NO_SCOPE
        found = self._connection.execute("SELECT id FROM scopes LIMIT 2").fetchall()
        return int(found[0]["id"]) if len(found) == 1 else NO_SCOPE

    def all(self) -> list[int]:
        return [row["id"] for row in self._connection.execute("SELECT id FROM scopes ORDER BY id")]

    def fingerprint(self, scope: int) -> str:
        """Return an account of *scope*, empty if it has none yet."""
        query = "SELECT fingerprint FROM credentials WHERE scope = ? ORDER BY fingerprint LIMIT 1"
        row = self._connection.execute(query, (scope,)).fetchone()
        return "" if row is None else str(row["fingerprint"])

    def of_report(self, fingerprint: str) -> int:
        """Return the scope of a report that was made with that account; empty: the report doesn't say."""
        if not fingerprint or fingerprint == self._identity.fingerprint:
            return self.current()
        return self._known(fingerprint) or (self.current() if self._identity.owns_reports else self._admit(fingerprint))

    def enter(self, account: Account | None, wall_ns: int) -> list[int]:
        """Be *account* from now on (None: no token); return the scopes that were given up for it."""
        self.enter_known(account)
        if account is None:
            return []
        scope = self._known(account.fingerprint) or self._admit(account.fingerprint)
        self._connection.execute(
            "UPDATE credentials SET token = ? WHERE fingerprint = ? AND token IS NULL",
            (account.token_digest, account.fingerprint),
        )
        self._connection.execute(
            "UPDATE scopes SET base_url = coalesce(base_url, ?), used_wall_ns = ?"
            " WHERE id = ? AND (base_url IS NULL OR used_wall_ns < ?)",
            (account.base_url, wall_ns, scope, wall_ns - _TOUCH_NS),
        )
        rows = self._connection.execute(
            "SELECT id FROM scopes WHERE id <> ? AND NOT proven AND NOT EXISTS"
            " (SELECT 1 FROM heartbeats WHERE scope = scopes.id) AND (refused OR EXISTS"
            " (SELECT 1 FROM credentials WHERE scope = scopes.id AND token = ?))",
            (scope, account.token_digest),
        )
        return [row["id"] for row in rows]

    def enter_known(self, account: Account | None) -> None:
        """Be *account*, for which ``enter`` has nothing to write."""
        self._identity.fingerprint = "" if account is None else account.fingerprint

    def is_entered(self, account: Account | None, wall_ns: int) -> bool:
        """Whether ``enter`` would change nothing on disk. Reads only."""
        if account is None:
            return True
        row = self._connection.execute(
            "SELECT scope, used_wall_ns, token FROM credentials JOIN scopes ON scopes.id = scope WHERE fingerprint = ?",
            (account.fingerprint,),
        ).fetchone()
        if row is None or row["token"] is None or row["used_wall_ns"] < wall_ns - _TOUCH_NS:
            return False
        others = "SELECT 1 FROM scopes WHERE NOT proven AND id <> ?"
        waiting = "SELECT 1 FROM streams WHERE scope = ? AND problem = ?"
        return not (
            self._connection.execute(others, (row["scope"],)).fetchone()
            or self._connection.execute(waiting, (row["scope"], FOREIGN)).fetchone()
        )

    def kin(self, heartbeat_ids: Collection[str]) -> list[int]:
        """Return the other scopes that are ours, as one of *heartbeat_ids*, which we were shown, proves."""
        rows = self._connection.execute(
            "SELECT DISTINCT theirs.id FROM heartbeats JOIN scopes AS theirs ON theirs.id = heartbeats.scope"
            " JOIN scopes AS ours ON ours.id = ?1 WHERE theirs.id <> ?1"
            " AND heartbeats.id IN (SELECT value FROM json_each(?2)) AND (theirs.base_url IS NULL"
            " OR ours.base_url IS NULL OR theirs.base_url = ours.base_url OR EXISTS (SELECT 1 FROM credentials AS one"
            " JOIN credentials AS other ON other.token = one.token WHERE one.scope = ours.id"
            " AND other.scope = theirs.id)) ORDER BY theirs.id",
            (self.current(), json.dumps(sorted(heartbeat_ids))),
        )
        return [row["id"] for row in rows]

    def merge(self, source: int, target: int) -> None:
        """Let *source* become part of *target*: its accounts and heartbeats."""
        execute = self._connection.execute
        execute("UPDATE credentials SET scope = ? WHERE scope = ?", (target, source))
        execute("UPDATE OR IGNORE heartbeats SET scope = ? WHERE scope = ?", (target, source))
        execute("DELETE FROM heartbeats WHERE scope = ?", (source,))
        execute("UPDATE open_runs SET scope = ? WHERE scope = ?", (target, source))
        execute(
            "UPDATE scopes SET base_url = coalesce(scopes.base_url, gone.base_url),"
            " proven = max(scopes.proven, gone.proven), refused = min(scopes.refused, gone.refused),"
            " listed_wall_ns = max(coalesce(scopes.listed_wall_ns, gone.listed_wall_ns),"
            " coalesce(gone.listed_wall_ns, scopes.listed_wall_ns)),"
            " used_wall_ns = max(scopes.used_wall_ns, gone.used_wall_ns)"
            " FROM scopes AS gone WHERE scopes.id = ? AND gone.id = ?",
            (target, source),
        )
        execute("DELETE FROM scopes WHERE id = ?", (source,))

    def note_shown(self, *, listed_wall_ns: int | None) -> None:
        """Aura has shown us heartbeats; *listed_wall_ns*: all of them, then."""
        self._connection.execute(
            "UPDATE scopes SET proven = 1, refused = 0, listed_wall_ns = coalesce(?, listed_wall_ns) WHERE id = ?",
            (listed_wall_ns, self.current()),
        )

    def note_refused(self) -> None:
        """Aura has refused our token."""
        self._connection.execute("UPDATE scopes SET refused = 1 WHERE id = ? AND NOT proven", (self.current(),))

    def listed_wall_ns(self) -> int | None:
        """Return when our scope's heartbeats were last listed; None: never."""
        query = "SELECT listed_wall_ns FROM scopes WHERE id = ?"
        row = self._connection.execute(query, (self.current(),)).fetchone()
        return None if row is None else row["listed_wall_ns"]

    def list_after_wall_ns(self) -> int:
        """Return before when a process that is no daemon shall not list again: the API couldn't be asked lately."""
        row = self._connection.execute(
            "SELECT list_after_wall_ns FROM scopes WHERE id = ?", (self.current(),)
        ).fetchone()
        return 0 if row is None else int(row["list_after_wall_ns"])

    def note_list_after(self, wall_ns: int) -> None:
        self._connection.execute("UPDATE scopes SET list_after_wall_ns = ? WHERE id = ?", (wall_ns, self.current()))

    # -- private -------------------------------------------------------------------------------------------------

    def _known(self, fingerprint: str) -> int | None:
        query = "SELECT scope FROM credentials WHERE fingerprint = ?"
        row = self._connection.execute(query, (fingerprint,)).fetchone()
        return None if row is None else int(row["scope"])

    def _admit(self, fingerprint: str) -> int:
        """Put an account on record that this store never saw; return its scope."""
        scope = self._free_scope(fingerprint)
        if scope is None:
            scope = int(self._connection.execute("INSERT INTO scopes DEFAULT VALUES").lastrowid or 0)
        self._connection.execute("INSERT INTO credentials (fingerprint, scope) VALUES (?, ?)", (fingerprint, scope))
        return scope

    def _free_scope(self, fingerprint: str) -> int | None:
        """Return the store's only scope, if it has no account yet and nothing in it that may be somebody else's."""
        scopes = self.all()
        if len(scopes) != 1 or self._connection.execute("SELECT 1 FROM credentials LIMIT 1").fetchone():
            return None
        filled = self._connection.execute("SELECT 1 FROM heartbeats LIMIT 1").fetchone() is not None
        return None if filled and not self._is_only_user(fingerprint) else scopes[0]

    def _is_only_user(self, fingerprint: str) -> bool:
        """Whether the account, and no other, has asked the API from this store: its budget file is the only one."""
        if self._directory is None:
            return False
        try:
            names = os.listdir(os.path.join(self._directory, _BUDGETS))
        except OSError:
            return False
        return [name for name in names if "." not in name] == [fingerprint]

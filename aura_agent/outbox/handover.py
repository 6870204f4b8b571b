"""A user's own store giving what it holds to the daemon's: the pings that wait, and what would withdraw earlier ones.

A failure is handed over even where nothing waits: in the daemon's store a success may, and the failure withdraws it.
"""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

from aura_agent.clock import Reading
from aura_agent.outbox.database import transaction
from aura_agent.outbox.hooks import HookCalls
from aura_agent.outbox.rules import Key, State
from aura_agent.outbox.store import Outbox
from aura_agent.report.places import DAEMON_LOCK
from aura_agent.report.record import Outcome, Ref, Report


def to_hand_over(outbox: Outbox) -> Iterator[Report]:
    """Yield each stream's newest failure and the entries that wait, but for those that somebody is just sending."""
    outbox.quarantine_damaged()
    giver = _Giver(outbox)
    now = outbox.now()
    for stream in outbox.connection.execute("SELECT * FROM streams ORDER BY id").fetchall():
        ref = giver.ref(stream["id"], stream["heartbeat_id"], stream["direct_url"])
        if ref is None:
            continue
        account = outbox.scopes.fingerprint(stream["scope"])
        if stream["failed_run"] is not None:
            key = Key(stream["failed_epoch"], stream["failed_boot_ns"], stream["failed_run"])
            yield replace(giver.failure(ref, key), account=account)
        for report in giver.successes(ref, stream["id"], outbox.streams.facts(stream["id"], now).under_way):
            yield replace(report, account=account)


def handed_over(outbox: Outbox, run_ids: list[str]) -> int:
    """Note that the daemon has *run_ids* now; return how many entries wait no more for that. Raises StoreError."""
    now = outbox.now()
    if outbox.directory is not None and os.path.exists(os.path.join(outbox.directory, DAEMON_LOCK)):
        return 0  # it has begun to serve this very store: there the entries still wait
    with transaction(outbox.connection) as connection:
        HookCalls(connection).forget(run_ids)
        changed = 0
        for run_id in run_ids:
            changed += connection.execute(
                "UPDATE entries SET state = ?, reason = 'handed over to the daemon', changed_wall_ns = ?"
                " WHERE run_id = ? AND state = 'waiting'",
                (State.DROPPED, now.wall_ns, run_id),
            ).rowcount
    return changed


@dataclass(frozen=True, slots=True)
class _Giver:
    """Turns rows back into the reports that they came from."""

    outbox: Outbox

    def ref(self, stream_id: int, heartbeat_id: str | None, direct_url: str | None) -> str | None:
        if direct_url is not None:
            return Ref.URL + direct_url
        if heartbeat_id is not None:
            return Ref.HEARTBEAT + heartbeat_id
        return next((ref for ref in self.outbox.streams.refs(stream_id) if not ref.startswith(Ref.URL)), None)

    def failure(self, ref: str, key: Key) -> Report:
        row = self.outbox.connection.execute("SELECT * FROM runs WHERE run_id = ?", (key.run_id,)).fetchone()
        boot_id, boot_ns = self.outbox.origin(key)
        wall_ns = 0 if row is None else row["started_wall_ns"]
        took_ns = 0 if row is None else int(row["duration_s"] * 1e9)
        outcome = Outcome.FAILED if row is None else Outcome(row["outcome"])
        return Report(
            run_id=key.run_id,
            boot_id=boot_id,
            started=Reading(boot_ns, wall_ns),
            ended=Reading(boot_ns + took_ns, wall_ns + took_ns),
            outcome=outcome if outcome.withdraws else Outcome.LOST,  # its success turned up after it had been judged
            ref=ref,
            job="" if row is None else row["job"],
            exit_code=None if row is None else row["exit_code"],
            signal=None if row is None else row["signal"],
            attempts=1 if row is None else row["attempts"],
            reason="" if row is None else row["reason"],
            tail="" if row is None else row["tail"],
            calls_hooks=self.is_to_be_told(key.run_id),
        )

    def successes(self, ref: str, stream_id: int, in_flight: int | None) -> list[Report]:
        rows = self.outbox.connection.execute(
            "SELECT entries.*, runs.exit_code, coalesce(runs.attempts, 1) AS attempts,"
            " coalesce(runs.started_wall_ns, ended_wall_ns) AS started_wall_ns"
            " FROM entries LEFT JOIN runs USING (run_id) WHERE stream_id = ? AND state = 'waiting' ORDER BY entries.id",
            (stream_id,),
        )
        return [self._success(row, ref) for row in rows if row["id"] != in_flight]

    def _success(self, row: sqlite3.Row, ref: str) -> Report:
        boot_id, started_boot_ns = self.outbox.origin(Key(row["epoch"], row["started_boot_ns"], row["run_id"]))
        return Report(
            run_id=row["run_id"],
            boot_id=boot_id,
            started=Reading(started_boot_ns, row["started_wall_ns"]),
            ended=Reading(row["ended_boot_ns"], row["ended_wall_ns"]),
            outcome=Outcome.SUCCEEDED,
            ref=ref,
            job=row["job"],
            exit_code=row["exit_code"],
            attempts=row["attempts"],
            max_age_s=row["max_age_s"],
            replay_all=bool(row["replay_all"]),
            body=row["body"],
            calls_hooks=self.is_to_be_told(row["run_id"]),
        )

    def is_to_be_told(self, run_id: str) -> bool:
        """Whether hooks have to tell of the run: here nobody has done so."""
        return HookCalls(self.outbox.connection).is_due(run_id)

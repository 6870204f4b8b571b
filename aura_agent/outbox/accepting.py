"""Accepting a report: once for each run, into the history, the hook calls and its stream's queue.

``aura_agent.outbox.rules`` says whether an outcome counts and what it does; this carries that out. Works inside the
transactions of ``aura_agent.outbox.store``.
"""

import sqlite3
from dataclasses import replace
from typing import Any

from aura_agent.outbox import rules
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.epochs import Epochs
from aura_agent.outbox.hooks import HookCalls
from aura_agent.outbox.pruning import Pruner
from aura_agent.outbox.rules import Key, Moment
from aura_agent.outbox.streams import Streams
from aura_agent.report.record import Outcome, Report


class Accepting:
    """The way of reports into one store."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        streams: Streams,
        epochs: Epochs,
        entries: Entries,
        hook_calls: HookCalls,
        pruner: Pruner,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._epochs = epochs
        self._entries = entries
        self._hook_calls = hook_calls
        self._pruner = pruner

    def accept(self, report: Report, now: Moment, *, epoch: int | None = None) -> bool:
        """Take in *report*; return whether its run's outcome is news. *epoch* is its boot's, if that is known."""
        self._connection.execute("DELETE FROM open_runs WHERE run_id = ?", (report.run_id,))
        if not rules.is_news(report.outcome, self._on_record(report.run_id)):
            return False
        report = storable(report)
        epoch = self._epochs.of(report.boot_id) if epoch is None else epoch
        key = Key(epoch, report.started.boot_ns, report.run_id)
        self._write_history(report)
        self._hook_calls.heard(report, key, now)
        if report.ref is not None:
            self._entries.hear(self._streams.of(report.ref), report, key, now)
        self._epochs.saw(epoch, report.ended.wall_ns)
        return True

    def try_to_accept(self, report: Report, now: Moment) -> bool | None:
        """Return whether *report* is news; None: it is whole, and yet nothing that can be kept."""
        self._connection.execute("SAVEPOINT report")
        new: bool | None = None
        try:
            new = self.accept(report, now)
        except (ValueError, OverflowError, sqlite3.IntegrityError):
            self._connection.execute("ROLLBACK TO report")
        self._connection.execute("RELEASE report")
        return new

    def _on_record(self, run_id: str) -> Outcome | None:
        # The history is pruned earlier than the entries.
        found = self._connection.execute(
            "SELECT outcome FROM runs WHERE run_id = ? UNION ALL SELECT 'succeeded' FROM entries WHERE run_id = ?",
            (run_id, run_id),
        ).fetchone()
        return None if found is None else Outcome(found["outcome"])

    def _write_history(self, report: Report) -> None:
        written = self._connection.execute(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                report.run_id,
                report.job,
                self._streams.label(report.ref),
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
        self._pruner.saw(written.lastrowid or 0)


def storable(report: Report) -> Report:
    """Return *report* in text that SQLite takes: bytes that aren't UTF-8 arrive here as surrogates (PEP 383)."""
    given = {"ref": report.ref or "", "job": report.job, "reason": report.reason, "tail": report.tail}
    changed: dict[str, Any] = {name: _printable(text) for name, text in given.items() if not text.isascii()}
    return replace(report, **changed) if changed else report


def _printable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

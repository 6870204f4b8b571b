"""Accepting a report: once for each run, into the history, the hook calls and its stream's queue.

``aura_agent.outbox.rules`` says whether an outcome counts and what it does; this carries that out. Works inside the
transactions of ``aura_agent.outbox.store``.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from aura_agent.clock import Reading
from aura_agent.outbox import damage, rules
from aura_agent.outbox.boot_numbers import BETWEEN_BOOTS_NS
from aura_agent.outbox.database import savepoint
from aura_agent.outbox.entries import Entries
from aura_agent.outbox.epochs import Epochs
from aura_agent.outbox.hooks import HookCalls
from aura_agent.outbox.pruning import Pruner
from aura_agent.outbox.rules import Key, Moment
from aura_agent.outbox.scopes import Scopes
from aura_agent.outbox.streams import Streams
from aura_agent.report.record import Outcome, Report, in_the_past

T = TypeVar("T")


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
        scopes: Scopes,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._epochs = epochs
        self._entries = entries
        self._hook_calls = hook_calls
        self._pruner = pruner
        self._scopes = scopes

    def accept(
        self, reports: Sequence[Report], now: Moment, *, epoch: int | None = None, scope: int | None = None
    ) -> list[str]:
        """Take in *reports*; return the runs whose outcome is news.

        *epoch* is that of their boot, and *scope* whose heartbeats they name, if that is known.
        """
        self._connection.executemany("DELETE FROM open_runs WHERE run_id = ?", [(report.run_id,) for report in reports])
        news: list[tuple[Report, Key]] = []
        for report in reports:
            if rules.is_news(report.outcome, self._on_record(report.run_id)):
                kept = in_the_past(storable(report), self._epochs.boot_id, Reading(now.boot_ns, now.wall_ns))
                key = self._epochs.key(kept) if epoch is None else Key(epoch, kept.started.boot_ns, kept.run_id)
                self._write_history(kept)
                news.append((kept, key))
        numbered = [(report, key) for report, key in news if key.boot_ns < BETWEEN_BOOTS_NS]
        for place, outcomes in _grouped(numbered, lambda _, key: key.epoch):
            self._epochs.saw(place, max(report.ended.wall_ns for report, _ in outcomes))
        for (job, ref), outcomes in _grouped(news, lambda report, _: (report.job, report.ref)):
            self._hook_calls.heard(job, ref, outcomes, now)
        stream_of = cache(self._streams.of)
        queues: dict[tuple[int, int], list[tuple[Report, Key]]] = {}
        for report, key in news:
            if report.ref is not None:
                for each in self._scopes_of(report) if scope is None else [scope]:
                    queues.setdefault((stream_of(report.ref, each), each), []).append((report, key))
        for (stream_id, each), outcomes in queues.items():
            self._entries.hear(stream_id, each, outcomes, now)
        return [report.run_id for report, _ in news]

    def accept_over_damage(
        self, reports: Sequence[Report], now: Moment, *, epoch: int | None = None, scope: int | None = None
    ) -> list[str]:
        """Accept *reports*, where need be after quarantining what is damaged in their streams.

        Raises one of ``damage.UNREADABLE``: one of *reports* can't be stored.
        """
        try:
            with savepoint(self._connection):
                return self.accept(reports, now, epoch=epoch, scope=scope)
        except damage.UNREADABLE:
            known = {
                self._streams.of(storable(report).ref or "", each)
                for report in reports
                if report.ref is not None
                for each in (self._scopes_of(report) if scope is None else [scope])
            }
            repaired = [self._entries.quarantine(stream_id, now) for stream_id in known]
            if True not in repaired:
                raise
        with savepoint(self._connection):
            return self.accept(reports, now, epoch=epoch, scope=scope)

    def try_to_accept(
        self, reports: Sequence[Report], now: Moment, *, epoch: int | None = None, scope: int | None = None
    ) -> tuple[int, Sequence[Report]]:
        """Accept *reports*; return how many were news, and those that are whole and yet nothing that can be kept."""
        try:
            return len(self.accept_over_damage(reports, now, epoch=epoch, scope=scope)), ()
        except damage.UNREADABLE:
            if len(reports) == 1:
                return 0, reports
        each = [
            self.try_to_accept([report], now, epoch=epoch, scope=scope) for report in reports
        ]  # one has spoilt it for all
        return sum(news for news, _ in each), [report for _, unfit in each for report in unfit]

    def _scopes_of(self, report: Report) -> list[int]:
        """Return whose heartbeats *report* is about: a failure that doesn't say counts for all whom it may mean."""
        scope = self._scopes.of_report(report.account)
        may_be_anybodys = not report.account and report.outcome.withdraws
        if not may_be_anybodys or (self._scopes.owns_reports and report.outcome is not Outcome.LOST):
            return [scope]
        return sorted({scope, *self._scopes.all()})

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


def _grouped(
    news: Iterable[tuple[Report, Key]], group: Callable[[Report, Key], T]
) -> Iterable[tuple[T, list[tuple[Report, Key]]]]:
    """Return the outcomes by what *group* says of them, in the order in which they came."""
    groups: dict[T, list[tuple[Report, Key]]] = {}
    for report, key in news:
        groups.setdefault(group(report, key), []).append((report, key))
    return groups.items()


def storable(report: Report) -> Report:
    """Return *report* in text that SQLite takes: bytes that aren't UTF-8 arrive here as surrogates (PEP 383)."""
    given = {"ref": report.ref or "", "job": report.job, "reason": report.reason, "tail": report.tail}
    changed: dict[str, Any] = {name: _printable(text) for name, text in given.items() if not text.isascii()}
    return replace(report, **changed) if changed else report


def _printable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""What is durable and not yet judged: reports in the inbox and the spool, and runs that nobody will report any more.

The inbox is a table of lines: a row is the least that makes a report durable, and what follows from many is written
once, in the transaction that next decides anything. The spool's files, beside the database, are read in like it.

A run is lost when nobody holds its start record and it has no outcome, in inbox or spool either: so the records are
looked at first, then both are taken in, then is judged. The daemon's own runs have rows in ``open_runs`` instead.
Whoever looks next judges those of a daemon that is gone, which its file in ``senders`` tells: the daemon locks that
before it writes its first row, in the same transaction.

A spool file that can't be read as a report is set aside, and that is told in a line for people; so is a line of the
inbox that can't be kept after all.

Works inside the transactions of ``aura_agent.outbox.store``; what the files hold is safe only after the commit.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from aura_agent.clock import Reading
from aura_agent.outbox.accepting import Accepting
from aura_agent.outbox.database import is_served, reading
from aura_agent.outbox.epochs import Epochs
from aura_agent.outbox.rules import Moment
from aura_agent.outbox.senders import Senders
from aura_agent.report import spool, started, wire
from aura_agent.report.record import Outcome, Report, report_in

# What one transaction takes in of a backlog: whoever is ended during the next one has made progress.
BATCH = 500
_BATCH_BYTES = 4 << 20

_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken in: how many reports were *news*, and the files that may go once that is committed."""

    news: int
    spooled: tuple[str, ...]
    records: tuple[str, ...]

    def clear_away(self) -> None:
        for path in self.spooled:
            spool.remove(path)
        for path in self.records:
            started.forget(path)


class Intake:
    """The inbox, and the files in *directory* (None: there are none); *tell* hears of what is set aside."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        directory: str | None,
        epochs: Epochs,
        accepting: Accepting,
        senders: Senders,
        tell: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._senders = senders
        self._directory = directory
        self._epochs = epochs
        self._accepting = accepting
        self._tell = tell
        self._read: dict[bytes, Report | None] = {}  # what is in lines that we kept, and need not be read once more
        self._lost: dict[str, str] = {}  # jobs by runs: what a transaction that fails had judged, the next does again

    def is_due(self) -> bool:
        """Whether there is anything to take in. Raises StoreError."""
        with reading():
            if self._connection.execute("SELECT 1 FROM inbox LIMIT 1").fetchone() is not None:
                return True
            if self._directory is None:
                return False
            if spool.waiting(self._directory) or started.count(self._directory):
                return True
            return bool(self._abandoned_runs())

    def spooled(self) -> list[str]:
        """Return the files of the spool. Raises StoreError."""
        if self._directory is None:
            return []
        with reading():
            return spool.waiting(self._directory)

    def take(self, now: Moment, *, is_starting: bool = False, lost_at_most: int | None = None) -> Taken:
        """Bring in what inbox and spool hold, and judge lost runs; *is_starting*: as for ``_abandoned_runs``."""
        abandoned = [] if self._directory is None else started.abandoned(self._directory, now.wall_ns, lost_at_most)
        kept = self.take_inbox(now)
        taken = self.take_spooled(self.spooled(), now)
        news = kept + taken.news
        for _, line in abandoned:
            news += self._judge_lost(line, now)
        news += self._lose_open_runs(self._abandoned_runs(is_starting=is_starting), now)
        return Taken(news, taken.spooled, tuple(path for path, _ in abandoned))

    def take_spooled(self, paths: Iterable[str], now: Moment) -> Taken:
        """Accept what these files of the spool hold."""
        read = {path: report for path in paths if (report := _read(path, now, self._tell)) is not None}
        if not read:
            return Taken(0, (), ())
        news, unfit = self._accepting.try_to_accept(list(read.values()), now)
        taken = []
        for path, report in read.items():
            if any(report is each for each in unfit):
                _set_aside(path, self._tell)
            else:
                taken.append(path)
        return Taken(news, tuple(taken), ())

    def spool_batches(self) -> Iterator[list[str]]:
        """Yield the files of the spool in batches, each for a transaction; nothing if all fit into one.

        Raises StoreError.
        """
        paths = self.spooled()
        if len(paths) <= BATCH and sum(map(_size, paths)) <= _BATCH_BYTES:
            return
        batch, size = list[str](), 0
        for path in paths:
            size += _size(path)
            if batch and (len(batch) == BATCH or size > _BATCH_BYTES):
                yield batch
                batch, size = [], _size(path)
            batch.append(path)
        yield batch

    def start_records(self) -> int:
        """Return how many start records there are."""
        return 0 if self._directory is None else started.count(self._directory)

    # -- the inbox -----------------------------------------------------------------------------------------------

    def keep(self, lines: Mapping[bytes, Report | None], account: str) -> None:
        """Put ``run`` lines into the inbox, each with the report in it as far as that was read: all or none of them.

        *account* is meant by those that name none, whoever takes them in: the receiver may be gone by then.
        """
        places = ", ".join(["(?1, ?)"] * len(lines))
        self._connection.execute(f"INSERT INTO inbox (account, line) VALUES {places}", (account, *lines))
        self._read.update(lines)

    def kept(self) -> int:
        """Return how many reports wait in the inbox to be judged. Raises StoreError."""
        with reading():
            return int(self._connection.execute("SELECT count(*) FROM inbox").fetchone()[0])

    def take_inbox(self, now: Moment, at_most: int = -1) -> int:
        """Accept what the inbox holds, or its oldest lines; return how many reports were news."""
        rows = self._connection.execute(
            "SELECT id, line, account FROM inbox ORDER BY id LIMIT ?", (at_most,)
        ).fetchall()
        read = self._read
        if at_most < 0 or len(rows) < at_most:
            self._read = {}
        if not rows:
            return 0
        self._connection.execute("DELETE FROM inbox WHERE id <= ?", (rows[-1]["id"],))
        reports = [
            report if report.account else replace(report, account=row["account"] or "")
            for row in rows
            if (report := read.get(row["line"]) or report_in(row["line"])) is not None
        ]
        news, unfit = self._accepting.try_to_accept(reports, now)
        if unfit or len(reports) < len(rows):  # they were whole when they were kept
            lost = len(unfit) + len(rows) - len(reports)
            self._tell(f"{lost} reports that were acknowledged are nothing that can be kept: they are never sent")
        return news

    def take_lost(self) -> tuple[str, ...]:
        """Return, once, the jobs of the runs that were judged."""
        lost, self._lost = self._lost, {}
        return tuple(lost.values())

    # -- the daemon's own runs -----------------------------------------------------------------------------------

    def begin(self, runs: Iterable[tuple[str, str, str | None, Reading]], scope: int) -> None:
        """Put on record that attempts of *runs* go on: run id, job, ref (in *scope*), start of the attempt.

        They go on as long as we live. Not of one whose outcome is on record already: it overtakes this where the
        database was locked.
        """
        try:
            owner: str | None = self._senders.join()
        except OSError:
            owner = None  # only the next daemon can tell that we are gone
        self._connection.executemany(
            "INSERT OR REPLACE INTO open_runs (run_id, job, ref, epoch, started_boot_ns, started_wall_ns, owner,"
            " scope) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8"
            " WHERE NOT EXISTS (SELECT 1 FROM runs WHERE run_id = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE run_id = ?1)",
            [
                (run_id, job, ref, self._epochs.number_of(begun.boot_ns), *begun, owner, scope)
                for run_id, job, ref, begun in runs
            ],
        )

    def _abandoned_runs(self, *, is_starting: bool = False) -> list[sqlite3.Row]:
        """Return the rows of runs whose daemon is gone; *is_starting*: we are the daemon, and have none yet."""
        rows = self._connection.execute("SELECT rowid, * FROM open_runs").fetchall()
        if is_starting or not rows:
            return rows
        gone = {owner: self._is_gone(owner) for owner in {row["owner"] for row in rows}}
        return [row for row in rows if gone[row["owner"]]]

    def _is_gone(self, owner: str | None) -> bool:
        if owner is None:  # an older version wrote the row
            return self._directory is not None and not is_served(self._directory)
        return self._senders.is_gone(owner)

    def _lose_open_runs(self, rows: Iterable[sqlite3.Row], now: Moment) -> int:
        """Judge runs whose daemon is gone, once inbox and spool are taken in; return how many are news."""
        news = 0
        for row in rows:
            begun = Reading(row["started_boot_ns"], row["started_wall_ns"])
            lost = Report(
                run_id=row["run_id"],
                boot_id="",
                started=begun,
                ended=begun,
                outcome=Outcome.LOST,
                ref=row["ref"],
                job=row["job"],
                reason="the agent went away while it ran",
            )
            was_news, unfit = self._accepting.try_to_accept([lost], now, epoch=row["epoch"], scope=row["scope"])
            if was_news:
                self._lost[lost.run_id] = lost.job
                news += 1
            if unfit:
                self._tell(f"the start record of a run of {row['job']!r} is damaged: it is not counted as lost")
            self._connection.execute("DELETE FROM open_runs WHERE rowid = ?", (row["rowid"],))
        return news

    # -- private -------------------------------------------------------------------------------------------------

    def _judge_lost(self, line: bytes, now: Moment) -> bool:
        """Accept the run of a start record as lost, unless its outcome is known; return whether it is news."""
        lost = _as_lost(line, now, self._epochs.boot_id)
        if lost is None or not self._accepting.try_to_accept([lost], now)[0]:
            return False
        self._lost[lost.run_id] = lost.job
        return True


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _read(path: str, now: Moment, tell: Callable[[str], None]) -> Report | None:
    """Return the report in *path*; None when it holds none (yet): what can't be one is set aside. Raises OSError."""
    try:
        line = spool.read(path, now.wall_ns)
    except OSError as problem:
        if problem.errno in _NOT_THE_FILES_FAULT:
            raise
        _set_aside(path, tell)
        return None
    if line is None:
        return None
    report = report_in(line)
    if report is None:
        _set_aside(path, tell)
    return report


def _as_lost(line: bytes, now: Moment, boot_id: str) -> Report | None:
    """Return the report of the run whose start record is *line*, its wrapper being gone; None: it is no such record.

    *boot_id* is the boot of *now*.
    """
    try:
        lost = Report.lost(wire.decode(line)[1], "aura-run went away without an outcome")
    except ValueError:
        return None
    return replace(lost, ended=Reading(now.boot_ns, now.wall_ns)) if lost.boot_id == boot_id else lost


def _set_aside(path: str, tell: Callable[[str], None]) -> None:
    """Move a spool file that is no report out of the way, and *tell* people."""
    try:
        aside = spool.set_aside(path)
    except OSError:
        return  # somebody else did, or the disk takes nothing now: where it lies it is in nobody's way
    tell(f"{os.path.basename(path)} in the spool is no whole report: set aside as {aside}, and never sent")

"""What speaks against a success that is sent from memory: all that can be read, whoever wrote it.

That is the database (``queries.why_not_sent``), and what nobody has applied to it yet: the inbox, the spool, and start
records whose wrapper is gone. What can't be read says nothing.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from aura_agent.errors import StoreError
from aura_agent.outbox.queries import kept_reports, why_not_sent
from aura_agent.outbox.reader import Readable
from aura_agent.report import spool, started, wire
from aura_agent.report.record import Outcome, Report, report_in


def contradiction(outbox: Readable, directory: str, report: Report, others: Sequence[Report] = ()) -> str:
    """Return why *report*, a success of this boot, must not be sent; empty if nothing is known against it.

    *directory* is that of the store, *others* are outcomes on no record at all. Raises StoreError, sqlite3.Error.
    """
    # What is not applied yet is read first: what leaves it meanwhile is in the database by then.
    wall_ns = outbox.now().wall_ns
    lost = _lost_runs(directory, wall_ns)
    ended = _reports_in_spool(directory, wall_ns)
    unapplied = [*ended, *kept_reports(outbox)]
    known = {other.run_id for other in (*unapplied, *others, report)}
    lost = [run for run in lost if run.run_id not in known and not _is_on_record(outbox, run.run_id)]
    return why_not_sent(outbox, report, [*others, *unapplied, *lost])


def contradiction_in_any(stores: Sequence[Readable], directory: str, report: Report) -> str:
    """Return the same, asking the first of *stores* that can be read."""
    for store in stores:
        try:
            return contradiction(store, directory, report)
        except (StoreError, sqlite3.Error):
            continue
    return ""


def contradicted_by(others: Iterable[Report], report: Report, names: Collection[str]) -> str:
    """Return why *report* must not be sent, by what is in memory alone: *others*; empty if nothing is against it.

    *names* are name, id and ping URL of its heartbeat. A run whose ref may mean that one counts.
    """
    later = [
        other
        for other in others
        if other.boot_id == report.boot_id
        and (other.started.boot_ns, other.run_id) > (report.started.boot_ns, report.run_id)
        and (other.ref == report.ref or _may_mean(other.ref, names))
    ]
    if any(other.outcome.withdraws for other in later):
        return "a run that started later did not succeed"
    if not report.replay_all and any(other.outcome is Outcome.SUCCEEDED for other in later):
        return "a later success says the same"
    return ""


def _may_mean(ref: str | None, names: Collection[str]) -> bool:
    said = (ref or "").partition(":")[2]
    return said in names or (bool(said) and any(name.endswith(f"/{said}") for name in names))  # HOST/NAME


def _is_on_record(outbox: Readable, run_id: str) -> bool:
    return outbox.connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None


def _lost_runs(directory: str, wall_ns: int) -> list[Report]:
    """Return the runs whose wrapper is gone without removing its start record."""
    try:
        records = started.abandoned(directory, wall_ns)
    except OSError:
        return []
    found = []
    for _, line in records:
        try:
            found.append(Report.lost(wire.decode(line)[1], "aura-run went away without an outcome"))
        except ValueError:
            continue
    return found


def _reports_in_spool(directory: str, wall_ns: int) -> list[Report]:
    """Return what lies in the spool, as far as it is whole; who applies it says what becomes of the rest."""
    try:
        paths = spool.waiting(directory)
    except OSError:
        return []
    found = []
    for path in paths:
        try:
            found.append(report_in(spool.read(path, wall_ns) or b""))
        except OSError:
            continue
    return [report for report in found if report is not None]

"""Reports on their way in: out of spool files and start records, and into what SQLite takes.

A spool file that can't be read as a report is set aside, and that is told in a line for people.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aura_agent.clock import Reading
from aura_agent.outbox.rules import Moment
from aura_agent.report import spool, wire
from aura_agent.report.record import Report

_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_spooled(path: str, now: Moment, tell: Callable[[str], None]) -> Report | None:
    """Return the report in *path*; None when it holds none (yet): what can't be one is set aside. Raises OSError."""
    try:
        line = spool.read(path, now.wall_ns)
    except OSError as problem:
        if problem.errno in _NOT_THE_FILES_FAULT:
            raise
        set_aside(path, tell)
        return None
    if line is None:
        return None
    try:
        verb, fields = wire.decode(line)
        if verb == "run":
            return Report.from_fields(fields)
    except ValueError:
        pass
    set_aside(path, tell)
    return None


def as_lost(line: bytes, now: Moment, boot_id: str) -> Report | None:
    """Return the report of the run whose start record is *line*, its wrapper being gone; None: it is no such record.

    *boot_id* is the boot of *now*.
    """
    try:
        lost = Report.lost(wire.decode(line)[1], "aura-run went away without an outcome")
    except ValueError:
        return None
    return replace(lost, ended=Reading(now.boot_ns, now.wall_ns)) if lost.boot_id == boot_id else lost


def set_aside(path: str, tell: Callable[[str], None]) -> None:
    """Move a spool file that is no report out of the way, and *tell* people."""
    try:
        aside = spool.set_aside(path)
    except OSError:
        return  # somebody else did, or the disk takes nothing now: where it lies it is in nobody's way
    tell(f"{os.path.basename(path)} in the spool is no whole report: set aside as {aside}, and never sent")


def storable(report: Report) -> Report:
    """Return *report* in text that SQLite takes: bytes that aren't UTF-8 arrive here as surrogates (PEP 383)."""
    given = {"ref": report.ref or "", "job": report.job, "reason": report.reason, "tail": report.tail}
    changed: dict[str, Any] = {name: _printable(text) for name, text in given.items() if not text.isascii()}
    return replace(report, **changed) if changed else report


def _printable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

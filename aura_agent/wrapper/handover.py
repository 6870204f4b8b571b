"""The way of what waits in a user's own store to the daemon, once one answers.

It has the token, the API's budget and the time that a wrapper hasn't. It recognises runs that it has, so handing over
twice does no harm. What isn't acknowledged stays where it is, for the next aura-run. A store of no use is a line on
stderr and no more: whoever has a daemon doesn't need it.
"""

import os
from time import time_ns

from aura_agent.private_files import open_private
from aura_agent.report import spool, started
from aura_agent.report.wire import encode
from aura_agent.wrapper.daemon import PATIENCE_S, Busy, Daemon, Refused
from aura_agent.wrapper.warnings import warn

_DONE = "handed-over"  # its mtime is that of an outbox in which nothing was left for the daemon


def hand_over(store: str, socket_path: str) -> None:
    """Hand over what waits in *store*, for half of our patience at the most.

    Raises TimeoutError: the daemon doesn't answer; another OSError: it is gone.
    """
    try:
        spooled = spool.waiting(store)
        lost = started.count(store) and bool(started.abandoned(store, time_ns()))
    except OSError as problem:
        warn(store, "store", f"{store}: {problem.strerror}: what may wait there is not handed over to the daemon")
        return
    outbox_ns = _modified_ns(os.path.join(store, "outbox.db"))
    unseen = outbox_ns is not None and outbox_ns != _modified_ns(os.path.join(store, _DONE))
    unseen = unseen or os.path.exists(os.path.join(store, "outbox.db-wal"))  # somebody has it open
    if not (spooled or unseen or lost):
        return
    handing = _Handing(Daemon(socket_path, PATIENCE_S / 2))
    try:
        spoilt = [path for path in spooled if not _hand_over_report(path, handing)]
        if unseen or lost or spoilt:
            _hand_over_outbox(store, outbox_ns, handing)
    except TimeoutError:
        if not handing.given:
            raise
    finally:
        handing.close()


class _Handing:
    """The hand-over's own connection: on the run's, another run's outcome would pass for that of ours."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.given = 0

    def give(self, record: bytes) -> bool:
        """Return whether the daemon has *record* now. Raises OSError."""
        try:
            self._daemon.hand_over(record)
        except (Busy, Refused):
            return False
        self.given += 1
        return True

    def close(self) -> None:
        self._daemon.close()


def _hand_over_report(path: str, handing: _Handing) -> bool:
    """Hand over the spool's file *path*; return False if it is none that holds a report. Raises OSError."""
    try:
        report = spool.read(path, time_ns())
    except OSError:
        return False
    if report and handing.give(report):
        spool.remove(path)
    return report != b""


def _hand_over_outbox(store: str, outbox_ns: int | None, handing: _Handing) -> None:
    """Hand over what the outbox holds, with the runs whose wrappers are gone: it knows which of them had an outcome.

    It also sets aside what in the spool is no report.
    """
    from aura_agent.errors import StoreBusyError, StoreError
    from aura_agent.outbox.handover import handed_over, to_hand_over
    from aura_agent.outbox.store import open_outbox

    try:
        outbox = open_outbox(store, "run", check=True, patience_s=PATIENCE_S / 2)
        try:
            outbox.take_in()
            for notice in outbox.take_notices():
                warn(store, "set aside", notice)
            reports, given = to_hand_over(outbox), list[str]()
            try:
                given += (report.run_id for report in reports if handing.give(encode("run", report.to_fields())))
            finally:
                changed = handed_over(outbox, given)
        finally:
            outbox.close()
        if outbox_ns is not None and not changed and len(given) == len(reports):
            done = os.path.join(store, _DONE)
            os.close(open_private(done, os.O_WRONLY))
            os.utime(done, ns=(outbox_ns, outbox_ns))
    except StoreBusyError:
        pass  # others are at it
    except StoreError as problem:
        warn(store, "store", str(problem))


def _modified_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None

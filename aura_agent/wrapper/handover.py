"""The way of what waits in a user's own store to the daemon, once one answers.

It has the token, the API's budget and the time that a wrapper hasn't. It recognises runs that it has, so handing over
twice does no harm. What isn't acknowledged stays where it is, for the next aura-run.
"""

import os
from time import time_ns

from aura_agent.report import spool, started
from aura_agent.report.wire import encode
from aura_agent.wrapper.daemon import PATIENCE_S, Busy, Daemon, Refused

_DONE = "handed-over"  # its mtime is that of an outbox in which nothing was left for the daemon


def hand_over(store: str, socket_path: str) -> None:
    """Hand over what waits in *store*, for half of our patience at the most.

    Raises TimeoutError: the daemon doesn't answer; another OSError: it is gone.
    """
    spooled = spool.waiting(store)
    outbox_ns = _modified_ns(os.path.join(store, "outbox.db"))
    unseen = outbox_ns is not None and outbox_ns != _modified_ns(os.path.join(store, _DONE))
    unseen = unseen or os.path.exists(os.path.join(store, "outbox.db-wal"))  # somebody has it open
    lost = started.any_record(store) and bool(started.abandoned(store, time_ns()))
    if not (spooled or unseen or lost):
        return
    handing = _Handing(Daemon(socket_path, PATIENCE_S / 2))
    try:
        for path in spooled:
            record = spool.read(path, time_ns())
            if record and handing.give(record):
                spool.remove(path)
        if unseen or lost:
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


def _hand_over_outbox(store: str, outbox_ns: int | None, handing: _Handing) -> None:
    """Hand over what the outbox holds, with the runs whose wrappers are gone: it knows which of them had an outcome."""
    from aura_agent.errors import AuraError
    from aura_agent.outbox.handover import handed_over, to_hand_over
    from aura_agent.outbox.store import open_outbox

    try:
        outbox = open_outbox(store, "run")
        try:
            outbox.take_spool()
            reports, given = to_hand_over(outbox), list[str]()
            try:
                given += (report.run_id for report in reports if handing.give(encode("run", report.to_fields())))
            finally:
                changed = handed_over(outbox, given)
        finally:
            outbox.close()
        if outbox_ns is not None and not changed and len(given) == len(reports):
            done = os.path.join(store, _DONE)
            os.close(os.open(done, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            os.utime(done, ns=(outbox_ns, outbox_ns))
    except AuraError:
        pass  # delivery by ourselves would say what is wrong with the store


def _modified_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None

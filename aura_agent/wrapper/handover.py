"""The way of what waits in a user's own store to the daemon, once one answers.

It has the token, the API's budget and the time that a wrapper hasn't. It recognises runs that it has, so handing over
twice does no harm. What isn't acknowledged stays where it is, for the next aura-run. A store of no use is a line on
stderr and no more: whoever has a daemon doesn't need it.
"""

import errno
import os
from time import time_ns

from aura_agent.private_files import open_private
from aura_agent.report import spool, started
from aura_agent.report.places import DAEMON_LOCK, UNJUDGED_SUFFIX
from aura_agent.report.wire import decode, encode
from aura_agent.wrapper.daemon import PATIENCE_S, Busy, Daemon, Refused
from aura_agent.wrapper.warnings import warn

_DONE = "handed-over"  # its mtime is that of an outbox in which nothing was left for the daemon


def holds_anything(store: str, run_id: str) -> bool:
    """Whether an older success may still be sent from *store*: one waits there, or a run other than *run_id* goes on.

    Cheap: a few names, and no database is opened.
    """
    try:
        return bool(spool.waiting(store)) or _is_unseen(store) or started.others(store, run_id)
    except OSError:
        return True


def hand_over(store: str, socket_path: str, run_id: str | None = None, *, busy_raises: bool = False) -> bool:
    """Hand over what waits in *store*, for half of our patience at the most; return whether the daemon took all of it.

    Where the outbox may hold a success, or a run other than *run_id* may still bring one, it takes in what the spool
    holds before that goes: a failure among it may withdraw the success. Raises TimeoutError: the daemon doesn't answer;
    another OSError: it is gone, or, with *busy_raises*, it can't keep reports now (EBUSY). A store that a daemon serves
    is left to it: forwarded to itself, nothing would be sent.
    """
    if os.path.exists(os.path.join(store, DAEMON_LOCK)):
        return True
    try:
        spooled = spool.waiting(store)
        lost = started.count(store) and bool(started.abandoned(store, time_ns()))
        others = bool(spooled) and started.others(store, run_id)
    except OSError as problem:
        warn(store, "store", f"{store}: {problem.strerror}: what may wait there is not handed over to the daemon")
        return False
    unseen = _is_unseen(store)
    if not (spooled or unseen or lost):
        return True
    handing = _Handing(Daemon(socket_path, PATIENCE_S / 2))
    in_outbox = unseen or lost or others
    try:
        tried = _hand_over_outbox(store, handing) if in_outbox else None
        if tried is None:
            spoilt = _hand_over_spool(spooled, handing)
            if spoilt and not in_outbox:
                _hand_over_outbox(store, handing)
        elif not tried:
            _hand_over_spool(spooled, handing, remove=False)  # whoever is at the outbox has to take it in, too
    except TimeoutError:
        if not handing.given:
            raise
    finally:
        handing.close()
    if handing.busy and busy_raises:
        raise OSError(errno.EBUSY, "it is busy")
    return not (handing.refused or handing.busy)


class ServingDaemon:
    """The daemon beside a user's own store. While it answers, it sends what waits there, unless it refuses the user."""

    def __init__(self, store: str, socket_path: str) -> None:
        self._store = store
        self.socket_path = socket_path
        self._is_refused = False

    def answers(self) -> bool:
        """Whether a daemon accepts connections that may take what *store* holds; it serves that store itself: False."""
        if self._is_refused or os.path.exists(os.path.join(self._store, DAEMON_LOCK)):
            return False
        try:
            Daemon(self.socket_path).close()
        except TimeoutError:
            return True  # it hangs, and may know of failures
        except OSError:
            return False
        return True

    def take_all(self) -> bool:
        """Forward what waits; return False if the daemon refuses this user.

        Raises OSError: it does not answer, or takes nothing now. It may then know of failures that no disk has taken.
        """
        self._is_refused = not hand_over(self._store, self.socket_path, busy_raises=True)
        return not self._is_refused


def hand_over_unjudged(store: str, socket_path: str) -> None:
    """Hand over the successes that only a daemon may judge. Raises OSError: it is gone, or doesn't answer."""
    handing = _Handing(Daemon(socket_path, PATIENCE_S / 2))
    try:
        _hand_over_spool(spool.waiting(store, UNJUDGED_SUFFIX), handing)
    finally:
        handing.close()


class _Handing:
    """The hand-over's own connection: on the run's, another run's outcome would pass for that of ours."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.given = 0
        self.refused = 0
        self.busy = 0

    def give(self, record: bytes) -> bool:
        """Return whether the daemon has *record* now. Raises OSError."""
        try:
            self._daemon.hand_over(record)
        except Refused:
            self.refused += 1
            return False
        except Busy:
            self.busy += 1
            return False
        self.given += 1
        return True

    def close(self) -> None:
        self._daemon.close()


def _hand_over_spool(paths: list[str], handing: _Handing, *, remove: bool = True) -> bool:
    """Hand over files of the spool; return whether there are some that hold no report. Raises OSError.

    What may withdraw others is removed last: whoever lists the spool meanwhile finds it with all that it withdraws.
    """
    given: list[tuple[bool, str]] = []
    spoilt = False
    try:
        for path in paths:
            try:
                line = spool.read(path, time_ns())
            except OSError:
                line = b""
            if line == b"":
                spoilt = True
            elif line is not None and handing.give(line):
                given.append((not _is_success(line), path))
    finally:
        for _, path in sorted(given) if remove else ():
            spool.remove(path)
    return spoilt


def _is_success(line: bytes) -> bool:
    try:
        return decode(line)[1].get("outcome") == "succeeded"
    except ValueError:
        return False


def _hand_over_outbox(store: str, handing: _Handing) -> bool | None:
    """Hand over what the outbox holds, with the runs whose wrappers are gone: it knows which of them had an outcome.

    It also sets aside what in the spool is no report. Return False while others are at it, None if it is of no use.
    """
    from aura_agent.errors import StoreBusyError, StoreError
    from aura_agent.outbox.handover import handed_over, to_hand_over
    from aura_agent.outbox.store import open_outbox

    outbox_ns = _modified_ns(os.path.join(store, "outbox.db"))
    try:
        outbox = open_outbox(store, "run", check=True, patience_s=PATIENCE_S / 2)
        try:
            outbox.take_in()
            for notice in outbox.take_notices():
                warn(store, "set aside", notice)
            given, whole = list[str](), True
            try:
                for report in to_hand_over(outbox):
                    if handing.give(encode("run", report.to_fields())):
                        given.append(report.run_id)
                    else:
                        whole = False
            finally:
                changed = handed_over(outbox, given)
        finally:
            outbox.close()
        if outbox_ns is not None and not changed and whole:
            done = os.path.join(store, _DONE)
            os.close(open_private(done, os.O_WRONLY))
            os.utime(done, ns=(outbox_ns, outbox_ns))
    except StoreBusyError:
        return False
    except StoreError as problem:
        warn(store, "store", str(problem))
        return None
    return True


def _is_unseen(store: str) -> bool:
    """Whether there is an outbox that may hold something for the daemon: others may have it open just now."""
    outbox_ns = _modified_ns(os.path.join(store, "outbox.db"))
    unseen = outbox_ns is not None and outbox_ns != _modified_ns(os.path.join(store, _DONE))
    return unseen or os.path.exists(os.path.join(store, "outbox.db-wal"))


def _modified_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None

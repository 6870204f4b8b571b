"""What stands in our store for one attempt: its start record, then its outcome, both written by helpers.

The helper that writes the start record waits a moment for the outcome, and writes that too. If the run takes longer, it
hands over the locked record, syncs it and ends: no second process stays beside a job.
"""

import os

from aura_agent.report import boots, spool
from aura_agent.report.places import DAEMON_LOCK
from aura_agent.wrapper.helper import GLANCE_S, PATIENCE_S, ask, leave_to_helper

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from _socket import socket

    from aura_agent.wrapper.helper_channel import Helper

_SYNC, _STORE, _FORGET = b"S", b"R", b"D"
_YOUNG_S = 0.2
_BEGUN = b"\0"
_HUNG = "its disk doesn't answer"


class Stored:
    """What became of an outcome: ``path`` is None if no disk took it, ``problem`` then says why.

    ``hangs``: the disk doesn't answer, so that nobody should ask it anything.
    """

    def __init__(self, path: str | None, problem: str, *, served: bool, hangs: bool = False) -> None:
        self.path, self.problem, self.served, self.hangs = path, problem, served, hangs


class RecordKeeper:
    """The records of one attempt of the run *run_id* in the store's *directory*. *boot_id* is empty if unknown."""

    def __init__(self, directory: str, run_id: str, boot_id: str, attempt: int) -> None:
        self.directory, self._run_id, self._boot_id, self._attempt = directory, run_id, boot_id, attempt
        self._is_begun = False  # whether there may be a start record
        self._is_prepared = False  # in the helper
        self._parent = os.getpid()
        self._helper: Helper | None = None
        self._lock: int | None = None  # the start record, locked

    def start(self, line: bytes) -> None:
        """Have the start record written; how that went ``settle`` and ``store`` find out."""
        from aura_agent.report import started  # noqa: F401  # before the fork
        from aura_agent.wrapper.helper_channel import Helper

        self._is_begun = True
        try:
            self._helper = Helper(lambda to: self._begin(to, line))
        except OSError:
            self._helper = None

    def started(self) -> None:
        """Wait until the start record is there, or can't be."""
        if self._helper is not None:
            self._helper.answer(GLANCE_S, first=True)

    def settle(self, patience_s: float = GLANCE_S) -> bool:
        """The run takes a while: take the lock over, and let the record be synced. Return whether there is one."""
        if self._helper is not None and self._helper.answer(patience_s, first=True) is not None:
            self._take_lock(self._helper)
            self._helper.tell(_SYNC)
            self._helper.close()
            self._helper = None
        return self._lock is not None

    def store(self, line: bytes, suffix: str = "") -> Stored:
        """Make the outcome durable in a file with *suffix*, mostly the usual one, and forget the start.

        If the disk hangs, that may still happen later.
        """
        helper, self._helper = self._helper, None
        if helper is None:
            try:
                answer = ask(lambda: self._store(line, suffix), PATIENCE_S)
            except OSError:
                answer = self._store(line, suffix)  # no process to be had: by ourselves
        else:
            helper.tell(_STORE + suffix.encode("ascii") + b"\n" + line)
            answer = helper.answer(PATIENCE_S)
            self._take_lock(helper)
            helper.close()
            if answer is not None:
                answer = answer.partition(_BEGUN)[2]
                if not answer:  # it hasn't waited so long
                    return self.store(line, suffix)
        stored = self._result(answer)
        if stored.path is not None:
            self._unlock()
        return stored

    def forget(self) -> None:
        """The outcome is on record elsewhere: forget the start."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.tell(_FORGET)
            answer = helper.answer(GLANCE_S)
            self._take_lock(helper)
            helper.close()
            if answer is None or answer.endswith(_FORGET):
                self._unlock()
        if self._lock is not None:
            leave_to_helper(self._forget_start, patience_s=GLANCE_S)
        self._unlock()

    def _forget_start(self) -> None:
        from aura_agent.report.started import forget, path_of

        forget(path_of(self.directory, self._run_id, self._attempt))

    def _take_lock(self, helper: "Helper") -> None:
        if helper.descriptor is not None:
            self._lock, helper.descriptor = helper.descriptor, None

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _result(self, answer: bytes | None) -> Stored:
        if answer is None:
            return Stored(None, _HUNG, served=False, hangs=True)
        kind, _, rest = answer.decode("utf-8", "surrogateescape").partition(" ")
        served, _, text = rest.partition(" ")
        if kind == "kept":
            return Stored(text, "", served=served == "served")
        return Stored(None, text or "the process that was to write it is gone", served=served == "served")

    # -- in the helper -------------------------------------------------------------------------------------------

    def _begin(self, to: "socket", line: bytes) -> None:
        from aura_agent.report.started import StartRecord
        from aura_agent.wrapper.helper_channel import give, heard

        record = None
        try:
            boot = self._prepare()
            record = StartRecord(self.directory, self._run_id, self._attempt, _of_boot(line, boot))
        except OSError:
            pass  # storing the outcome will tell
        try:
            give(to, _BEGUN, None if record is None else record.file)
            to.settimeout(_YOUNG_S)
            said = heard(to)
        except TimeoutError:
            said = _SYNC
        except OSError:
            said = b""
        if said.startswith(_STORE):
            suffix, _, outcome = said[1:].partition(b"\n")
            give(to, self._store(outcome, suffix.decode("ascii")))
        elif record is not None and said == _SYNC:
            record.sync()
        elif record is not None and (said == _FORGET or os.getppid() == self._parent):
            record.remove()  # it isn't waited for any more; but if it is the wrapper that is gone, its run is lost
            give(to, _FORGET)

    def _store(self, line: bytes, suffix: str) -> bytes:
        try:
            boot = self._prepare()
            path = spool.write(self.directory, self._run_id, _of_boot(line, boot), suffix or spool.SUFFIX)
        except OSError as problem:
            kind, text = ("refused", problem.strerror)
        else:
            if self._is_begun:
                self._forget_start()
            kind, text = ("kept", path)
        served = os.path.exists(os.path.join(self.directory, DAEMON_LOCK))
        return f"{kind} {'served' if served else 'alone'} {text}".encode("utf-8", "surrogateescape")

    def _prepare(self) -> str:
        """Return by which id our store knows this boot; find out once. Raises OSError."""
        if not self._is_prepared:
            spool.prepare(self.directory)
            self._boot_id = self._boot_id or boots.identify(self.directory)
            try:
                boots.count(self.directory, self._boot_id)
            except OSError:
                pass  # the database knows this boot, or orders what is of it by the wall clock
            self._is_prepared = True
        return self._boot_id


def _of_boot(line: bytes, boot_id: str) -> bytes:
    """Return *line*, which names no boot, with *boot_id* as its own."""
    return b"%s boot=%s\n" % (line.rstrip(b"\n"), boot_id.encode("ascii"))

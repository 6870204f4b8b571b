"""``--no-overlap``: whether this job already runs on this host, also as the orphan of a wrapper that was killed.

Until the last attempt has ended, a living wrapper holds a lock on the job's file; delivery comes after that. The file
also says which process is the job, so that one that outlived its wrapper is still seen. A pid counts only with the
start time, the boot and the pid namespace it had.
"""

import os
from _socket import socket
from fcntl import LOCK_EX, LOCK_NB, flock

from aura_agent.boot_time import current_boot_id
from aura_agent.private_files import make_directory, open_private
from aura_agent.report.spool import prepare
from aura_agent.wrapper.helper import GLANCE_S, leave_to_helper
from aura_agent.wrapper.helper_channel import Helper, give

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from aura_agent.wrapper.options import Options


_OURS, _OTHERS = b"ours", b"others"


class Turn:
    """Our turn at a job; ``held`` is False when somebody else has it."""

    def __init__(self, directory: str, identity: str) -> None:
        """Try to take the turn for *identity* in the store's *directory*. Raises OSError: the store can't be used."""
        from hashlib import blake2b

        name = blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        helper = Helper(lambda to: _take(to, directory, name))
        try:
            answer = helper.answer(GLANCE_S)
        finally:
            helper.close()
        if helper.descriptor is None:
            text = "its disk doesn't answer" if answer is None else answer.decode("utf-8", "surrogateescape")
            raise OSError(110, text, directory)
        self._file = helper.descriptor
        self.held = answer == _OURS

    def mark(self, pid: int) -> None:
        """Note which process is the job now."""
        note = _living(pid).encode("ascii")
        leave_to_helper(lambda: _write(self._file, note), keeps=self._file)

    def release(self) -> None:
        """End the turn: remove the note, then release the lock.

        Where the disk hangs, the note stays: it names a process that has ended, which doesn't count.
        """
        leave_to_helper(lambda: os.ftruncate(self._file, 0), keeps=self._file, patience_s=GLANCE_S)
        os.close(self._file)


def _take(to: socket, directory: str, name: str) -> None:
    """Give the locked file to *to*, and whether it is our turn; or why there can't be such a file."""
    try:
        prepare(directory)
        locks = os.path.join(directory, "locks")
        make_directory(locks)
        file = open_private(os.path.join(locks, name), os.O_RDWR)
    except OSError as problem:
        give(to, (problem.strerror or "not usable").encode("utf-8", "surrogateescape"))
        return
    give(to, _OURS if _is_free(file) else _OTHERS, file)


def _is_free(file: int) -> bool:
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    noted = os.pread(file, 200, 0).decode("ascii", "replace")
    pid = noted.partition(" ")[0]
    return not (pid.isdigit() and noted == _living(int(pid)))


def _write(file: int, note: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, note, 0)


def job_identity(options: "Options") -> str:
    """Return what makes two runs runs of the same job."""
    return options.job or options.heartbeat or "\0".join(options.command)


def _living(pid: int) -> str:
    """Return *pid* with what makes it unique; empty if there is no such process, or it has ended."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fields = os.read(file, 4096).rpartition(b")")[2].split()
    except OSError:
        return ""
    finally:
        os.close(file)
    if fields[0] in (b"Z", b"X"):
        return ""
    started = fields[19].decode("ascii")  # proc_pid_stat(5): starttime is field 22, the second after the name is 3
    return f"{pid} {started} {current_boot_id()} {os.stat('/proc/self/ns/pid').st_ino}"

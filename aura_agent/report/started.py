"""Start records: runs that go on, each a file in ``runs`` that its living wrapper holds locked.

A whole record whose lock is free belongs to a wrapper that is gone: if no outcome is on record either, the run is lost.
The lock ends with the process, however that ended, and is seen across containers; a pid would say nothing there. The
job never has it: the record is opened after the job has been spawned, and closed in whatever is spawned later. It
takes a local disk: over NFS, flock(2) means something else.
"""

import errno
import os
from fcntl import LOCK_NB, LOCK_SH, flock

from aura_agent.private_files import lock
from aura_agent.report.spool import may_grow, no_space, open_new, sync_directory, unwrap, wrap

_DIRECTORY = "runs"
_MAX_BYTES = 1 << 17
_NO_RECORD = (errno.ENOENT, errno.ELOOP, errno.EACCES)  # gone, or nothing that we have put there


class StartRecord:
    """Our own run's record, locked as long as we live."""

    def __init__(self, directory: str, run_id: str, attempt: int, line: bytes) -> None:
        """Put *line* on record under the store's *directory*; not synced. Raises OSError."""
        self._path = path_of(directory, run_id, attempt)
        self.file = open_new(directory, _DIRECTORY, os.path.basename(self._path))
        try:
            lock(self.file)  # before there is anything to judge in it
            whole = wrap(line)
            if os.write(self.file, whole) != len(whole):
                no_space(self._path)
        except OSError:
            self.remove()
            raise

    def sync(self) -> None:
        """Make it outlive a power cut. If the disk takes nothing, keeping the outcome will tell."""
        try:
            os.fdatasync(self.file)
            sync_directory(os.path.dirname(self._path))
        except OSError:
            pass

    def remove(self) -> None:
        """The run's outcome is on record: forget its start. First the name goes, then the lock."""
        forget(self._path)
        os.close(self.file)


def path_of(directory: str, run_id: str, attempt: int) -> str:
    """Return where the record of an attempt lies in the store's *directory*."""
    return os.path.join(directory, _DIRECTORY, f"{run_id}-{attempt:06}")


def count(directory: str) -> int:
    """Return how many records there are, of whoever lives or is gone: cheap, and mostly none."""
    return len(_names(directory))


def others(directory: str, run_id: str | None) -> bool:
    """Whether runs other than *run_id* have a record."""
    return any(run_id is None or not name.startswith(run_id) for name in _names(directory))


def abandoned(directory: str, wall_ns: int, at_most: int | None = None) -> list[tuple[str, bytes]]:
    """Return path and line of each record whose wrapper is gone, a run's last attempt first. Raises OSError.

    Whoever judges them reads the spool after this: what a wrapper left there is by then as whole as it will ever be.
    A record that was not finished is removed once nobody can still be at it.
    """
    found: list[tuple[str, bytes]] = []
    for name in sorted(_names(directory), reverse=True):
        if len(found) == at_most:
            break
        path = os.path.join(directory, _DIRECTORY, name)
        line = _line_if_abandoned(path, wall_ns)
        if line is not None:
            found.append((path, line))
    return found


def forget(path: str) -> None:
    """Remove a record whose run has been judged for good; what can't be removed is a run that is known."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _line_if_abandoned(path: str, wall_ns: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # whatever lies there
    except OSError as problem:
        if problem.errno not in _NO_RECORD:
            raise
        return None
    line = None
    try:
        flock(file, LOCK_SH | LOCK_NB)  # shared: two who look at once don't take each other for the wrapper
        status = os.fstat(file)
        if status.st_nlink:  # else its run has ended as it should, between our open and our lock
            line = unwrap(os.read(file, _MAX_BYTES))
            if line is None and not may_grow(status.st_mtime_ns, wall_ns):
                forget(path)
    except (BlockingIOError, IsADirectoryError):
        pass  # held: the wrapper lives; or no file at all
    finally:
        os.close(file)
    return line


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(os.path.join(directory, _DIRECTORY))
    except (FileNotFoundError, NotADirectoryError):
        return []

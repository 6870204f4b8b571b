"""Spool files: reports that are on disk before anything else happens to them.

One file holds one record. It is created under its final name with O_EXCL, holds its length and CRC, and is synced
together with its directory before ``write`` returns: write, sync, rename without the directory's sync loses files
in a power cut. A reader takes only files that are whole; a torn one is set aside once nobody can still be writing it.
"""

import os
from binascii import crc32

from aura_agent.private_files import explained, make_directory, make_parents, open_private, unusable
from aura_agent.report.wire import MAX_LINE_BYTES

SUFFIX = ".report"
TORN_DIRECTORY = "torn"
_MAGIC = b"aura1"
_STILL_WRITTEN_NS = 60 * 10**9  # a writer that takes longer between open and sync has died


def prepare(directory: str) -> None:
    """Create the store's *directory* for us alone. Raises OSError: not possible, or it belongs to somebody else."""
    try:
        try:
            found = os.lstat(directory)
        except FileNotFoundError:
            make_parents(os.path.dirname(directory))
            make_directory(directory)
            found = os.lstat(directory)
    except PermissionError as denied:
        raise explained(denied, directory) from None
    if found.st_mode & 0o170000 != 0o040000:
        raise NotADirectoryError(20, "not a directory", directory)
    if found.st_uid != os.geteuid():
        raise PermissionError(13, f"belongs to uid {found.st_uid}, not to us", directory)
    if reason := unusable(directory, found):
        raise PermissionError(13, reason, directory)


def make_room(directory: str, name: str) -> None:
    """Create the store's *directory* and *name* in it. Raises OSError."""
    prepare(directory)
    if make_directory(os.path.join(directory, name)):
        sync_directory(directory)


def open_new(directory: str, place: str, name: str) -> int:
    """Create a file in the store's subdirectory *place*, which is made if it is missing. Raises OSError."""
    path, flags = os.path.join(directory, place, name), os.O_WRONLY | os.O_EXCL
    try:
        try:
            return open_private(path, flags)
        except FileNotFoundError:
            make_room(directory, place)
            return open_private(path, flags)
    except PermissionError as denied:
        raise explained(denied, path) from None


def write(directory: str, run_id: str, record: bytes, suffix: str = SUFFIX) -> str:
    """Put *record* under *directory*/spool and return its path; from here on it survives a power cut.

    Raises OSError.
    """
    spool = os.path.join(directory, "spool")
    path = os.path.join(spool, run_id + suffix)
    file = open_new(directory, "spool", run_id + suffix)
    try:
        whole = wrap(record)
        if os.write(file, whole) != len(whole):
            no_space(path)
        os.fdatasync(file)
        sync_directory(spool)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(file)
    return path


def holds(directory: str, run_id: str) -> bool:
    """Whether the run's outcome lies in the spool under *directory*."""
    return os.path.exists(os.path.join(directory, "spool", run_id + SUFFIX))


def waiting(directory: str, suffix: str = SUFFIX) -> list[str]:
    """Return the paths of the spool's files, in no order; empty when there is no spool."""
    try:
        names = os.listdir(os.path.join(directory, "spool"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [os.path.join(directory, "spool", name) for name in names if name.endswith(suffix)]


def read(path: str, wall_ns: int) -> bytes | None:
    """Return the record in *path*; None when it is gone or still being written, and nothing of a torn one.

    Raises OSError: the file is there but can't be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # whatever lies there
    except FileNotFoundError:
        return None
    try:
        modified_ns = os.fstat(file).st_mtime_ns
        whole = b""
        while chunk := os.read(file, MAX_LINE_BYTES):
            whole += chunk
            if len(whole) > 2 * MAX_LINE_BYTES:
                break
    finally:
        os.close(file)
    record = unwrap(whole)
    return b"" if record is None and not may_grow(modified_ns, wall_ns) else record


def remove(path: str) -> None:
    """Remove a file whose record is durable elsewhere; what can't be removed is a run that is known."""
    try:
        os.unlink(path)
    except OSError:
        pass


def set_aside(path: str) -> str:
    """Move a file that can't be read as a record out of the way, into ``torn``; return where it is now.

    It is never deleted. Raises OSError.
    """
    directory, name = os.path.split(path)
    aside = os.path.join(directory, TORN_DIRECTORY)
    make_directory(aside)
    os.rename(path, os.path.join(aside, name))
    return os.path.join(aside, name)


def wrap(record: bytes) -> bytes:
    """Return *record* with its length and CRC before it."""
    return b"%s %d %08x\n%s" % (_MAGIC, len(record), crc32(record), record)


def unwrap(whole: bytes) -> bytes | None:
    """Return the record in *whole*; None if it is torn."""
    head, newline, record = whole.partition(b"\n")
    words = head.split()
    if not newline or len(words) != 3 or words[0] != _MAGIC:
        return None
    if words[1] != b"%d" % len(record) or words[2] != b"%08x" % crc32(record):
        return None
    return record


def may_grow(modified_ns: int, wall_ns: int) -> bool:
    """Whether somebody may still be writing a torn file that was modified then."""
    return abs(wall_ns - modified_ns) <= _STILL_WRITTEN_NS


def sync_directory(path: str) -> None:
    """Make the names in *path* durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def no_space(path: str) -> None:
    """A write was cut short, which is how a full disk begins. Raises OSError."""
    raise OSError(28, "No space left on device", path)

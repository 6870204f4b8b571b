"""The count of boots: which boot came before which, whatever the wall clock said.

The file ``boots`` in the state directory has one line per boot id, appended under a lock by the first process that
sees another one than the last. The database numbers boots by it, so that (number, CLOCK_BOOTTIME) orders instants over
reboots; where the two differ the database is right. A store that moves to another host and back meets a boot that it
knows, and counts it anew.

Beside it ``boot-clock`` says how far the wall clock was ahead of CLOCK_BOOTTIME when the last line was written: only a
reboot or a step of the wall clock changes that. It lets a process without /proc recognise the boot.
"""

import os
import time

from aura_agent.boot_time import current_boot_id, namespace_offset_ns
from aura_agent.private_files import lock, open_private

__all__ = ["count", "current_boot_id", "identify", "lines", "recognised"]

_MAX_BYTES = 1 << 20
_CLOCK = "boot-clock"
_SAME_NS = 2_000_000_000  # the two clocks are read one after the other, and files have times of their own
_WRITTEN = ("", "boots", "spool", "runs", "outbox.db", "outbox.db-wal")  # what changes as a store is used


def identify(directory: str | None) -> str:
    """Return the id of this boot: the kernel's, or else that by which the store in *directory* knows the boot.

    Without the kernel's id it is the store's last boot if the wall clock is as far ahead of CLOCK_BOOTTIME as it was
    then, and if nothing in the store is newer than now: whatever boot it is, later is later by both clocks
    then. If not, it is a new boot, after all others.
    """
    return current_boot_id() or (directory and recognised(directory)) or f"unknown-{os.urandom(8).hex()}"


def count(directory: str, boot_id: str) -> int:
    """Put *boot_id*, this boot, on record if it is new; return the number of its line. Raises OSError."""
    path = os.path.join(directory, "boots")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    else:
        try:
            found = _epoch_of_last(_content(file), boot_id)
        finally:
            os.close(file)
        if found:
            return found
    return _append(path, boot_id)


def lines(directory: str) -> list[str]:
    """Return the boot ids on record, oldest first. Raises OSError."""
    try:
        file = os.open(os.path.join(directory, "boots"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return _content(file).decode("ascii", "replace").split("\n")[:-1]
    finally:
        os.close(file)


def _append(path: str, boot_id: str) -> int:
    file = open_private(path, os.O_RDWR | os.O_APPEND)
    try:
        lock(file)
        content = _content(file)
        found = _epoch_of_last(content, boot_id)
        if found:
            return found
        # A line that a power cut has torn counts as a boot of its own: only the order matters.
        line = ("\n" if content and not content.endswith(b"\n") else "") + boot_id + "\n"
        if os.write(file, line.encode("ascii")) != len(line):
            raise OSError(28, "No space left on device", path)
        os.fsync(file)
        _note_clock(os.path.dirname(path), boot_id)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return _epoch_of_last(_content(file), boot_id)
    finally:
        os.close(file)


def _content(file: int) -> bytes:
    """Return the end of the file: all of it, unless it is damaged."""
    size_bytes = os.fstat(file).st_size
    return os.pread(file, min(size_bytes, _MAX_BYTES), max(0, size_bytes - _MAX_BYTES))


def _epoch_of_last(content: bytes, boot_id: str) -> int:
    """Return the 1-based number of the last line if that is *boot_id*'s, else 0."""
    found = content.split(b"\n")
    return len(found) - 1 if len(found) > 1 and found[-2:] == [boot_id.encode("ascii"), b""] else 0


def _wall_ahead_ns() -> int:
    """Return how far the wall clock is ahead of the host's CLOCK_BOOTTIME."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + namespace_offset_ns()


def _note_clock(directory: str, boot_id: str) -> None:
    """Note the clocks of the last line's boot. If no disk takes it, the boot may be counted once more."""
    try:
        file = open_private(os.path.join(directory, _CLOCK), os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, f"{boot_id} {_wall_ahead_ns()}\n".encode("ascii"))
        finally:
            os.close(file)
    except OSError:
        pass


def recognised(directory: str) -> str:
    """Return the id of the store's last boot if that goes on by all that can be seen; else an empty text."""
    try:
        file = os.open(os.path.join(directory, _CLOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            boot_id, ahead_ns = os.read(file, 200).decode("ascii", "replace").split()
        finally:
            os.close(file)
        if lines(directory)[-1:] != [boot_id] or abs(_wall_ahead_ns() - int(ahead_ns)) > _SAME_NS:
            return ""
    except (OSError, ValueError):
        return ""
    latest_ns = time.time_ns() + _SAME_NS
    for name in _WRITTEN:
        try:
            if os.stat(os.path.join(directory, name)).st_mtime_ns > latest_ns:
                return ""
        except OSError:
            pass
    return boot_id

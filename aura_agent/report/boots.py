"""The count of boots: which boot came before which, whatever the wall clock said.

The file ``boots`` in the state directory has one line per boot id, appended under a lock by the first process that
sees another one than the last. The database numbers boots by it, so that (number, CLOCK_BOOTTIME) orders instants over
reboots; where the two differ the database is right. A store that moves to another host and back meets a boot that it
knows, and counts it anew.
"""

import os
from fcntl import LOCK_EX, flock

from aura_agent.private_files import open_private

_MAX_BYTES = 1 << 20


def current_boot_id() -> str:
    """Return the kernel's id of this boot (random(4))."""
    file = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 64).decode("ascii").strip()
    finally:
        os.close(file)


def count(directory: str, boot_id: str) -> int:
    """Put *boot_id*, this boot, on record if it is new; return the number of its line. Raises OSError."""
    path = os.path.join(directory, "boots")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        file = os.open(os.path.join(directory, "boots"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return _content(file).decode("ascii", "replace").split("\n")[:-1]
    finally:
        os.close(file)


def _append(path: str, boot_id: str) -> int:
    file = open_private(path, os.O_RDWR | os.O_APPEND)
    try:
        flock(file, LOCK_EX)
        content = _content(file)
        found = _epoch_of_last(content, boot_id)
        if found:
            return found
        # A line that a power cut has torn counts as a boot of its own: only the order matters.
        line = ("\n" if content and not content.endswith(b"\n") else "") + boot_id + "\n"
        if os.write(file, line.encode("ascii")) != len(line):
            raise OSError(28, "No space left on device", path)
        os.fsync(file)
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
    return os.pread(file, _MAX_BYTES, max(0, os.fstat(file).st_size - _MAX_BYTES))


def _epoch_of_last(content: bytes, boot_id: str) -> int:
    """Return the 1-based number of the last line if that is *boot_id*'s, else 0."""
    found = content.split(b"\n")
    return len(found) - 1 if len(found) > 1 and found[-2:] == [boot_id.encode("ascii"), b""] else 0

"""The count of boots: which boot came before which, whatever the wall clock said.

The file ``boots`` in the state directory has one line per boot id, appended under a lock by the first process that
sees a new one. A boot's epoch is the number of its line, so (epoch, CLOCK_BOOTTIME) orders instants over reboots.
"""

import os
from fcntl import LOCK_EX, flock

_MAX_BYTES = 1 << 20


def current_boot_id() -> str:
    """Return the kernel's id of this boot (random(4))."""
    file = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 64).decode("ascii").strip()
    finally:
        os.close(file)


def count(directory: str, boot_id: str) -> int:
    """Return the epoch of *boot_id*, this boot, and make it durable if it is new. Raises OSError."""
    path = os.path.join(directory, "boots")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    else:
        try:
            found = _line_of(os.read(file, _MAX_BYTES), boot_id)
        finally:
            os.close(file)
        if found:
            return found
    return _append(path, boot_id)


def known(directory: str) -> dict[str, int]:
    """Return the epoch of each boot id on record; empty when there is none."""
    try:
        file = os.open(os.path.join(directory, "boots"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    try:
        lines = os.read(file, _MAX_BYTES).decode("ascii", "replace").split("\n")
    finally:
        os.close(file)
    epochs: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        epochs.setdefault(line, number)
    return epochs


def _append(path: str, boot_id: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        flock(file, LOCK_EX)
        content = os.pread(file, _MAX_BYTES, 0)
        found = _line_of(content, boot_id)
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
        return _line_of(os.pread(file, _MAX_BYTES, 0), boot_id)
    finally:
        os.close(file)


def _line_of(content: bytes, boot_id: str) -> int:
    """Return the 1-based number of *boot_id*'s line, 0 if it has none."""
    lines = content.split(b"\n")
    wanted = boot_id.encode("ascii")
    return lines.index(wanted) + 1 if wanted in lines[:-1] else 0

"""A copy in memory of a database that takes nothing more, or can't be opened: what is on record there still counts.

A full or read-only disk can mostly be read. SQLite needs room beside the file for that if its log (WAL) isn't empty and
nobody has it open (sqlite.org/wal.html, "Read-Only Databases"), so the file is then read from a copy elsewhere.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from urllib.parse import quote

# Besides $XDG_RUNTIME_DIR and $TMPDIR. What is made there is a directory of a new name, 0700.
_PLACES = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108
_PATIENCE_S = 2.0


def copy_into(memory: sqlite3.Connection, path: str) -> bool:
    """Fill *memory*, an empty database, with what the file at *path* holds; return whether there was anything to read.

    Raises sqlite3.Error or OSError: it is there and can't be read.
    """
    if not os.path.exists(path):
        return False
    problem: Exception | None = None
    for read in (_read_in_place, _read_from_elsewhere):
        try:
            read(memory, path)
        except (sqlite3.Error, OSError) as trouble:
            problem = problem or trouble
        else:
            return True
    assert problem is not None
    raise problem


def _read_in_place(memory: sqlite3.Connection, path: str) -> None:
    _back_up(memory, f"file:{quote(path)}?mode=ro")


def _read_from_elsewhere(memory: sqlite3.Connection, path: str) -> None:
    if not _size(path + "-wal"):
        _back_up(memory, f"file:{quote(path)}?mode=ro&immutable=1")
        return
    _somewhere(lambda directory: _read_from(memory, path, directory))


def _read_from(memory: sqlite3.Connection, path: str, directory: str) -> None:
    copied = os.path.join(directory, "outbox.db")
    for suffix in ("", "-wal"):
        shutil.copyfile(path + suffix, copied + suffix)
    _back_up(memory, f"file:{quote(copied)}?mode=rw")


def _back_up(memory: sqlite3.Connection, uri: str) -> None:
    source = sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S)
    try:
        source.backup(memory)
    finally:
        source.close()


def _somewhere(use: Callable[[str], None]) -> None:
    """Call *use* with a directory of our own that has room. Raises what it raised in the first."""
    problem: Exception = OSError("no place for a temporary file")
    places = [os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), *_PLACES]
    for number, place in enumerate(place for place in places if place and os.path.isdir(place)):
        try:
            with tempfile.TemporaryDirectory(prefix="aura-agent-", dir=place) as directory:
                use(directory)
        except (sqlite3.Error, OSError) as trouble:
            problem = trouble if number == 0 else problem
        else:
            return
    raise problem


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

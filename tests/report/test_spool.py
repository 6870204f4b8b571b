"""Spool files on a real disk."""

import os
import stat
from pathlib import Path

import pytest

from aura_agent.report import spool
from tests.machine import needs, root

_HOUR_NS = 3600 * 10**9


def _now_ns(path: str) -> int:
    return os.stat(path).st_mtime_ns


def test_a_record_comes_back_and_is_private(tmp_path: Path) -> None:
    """What was written is read again; file and directories are for their owner alone."""
    store = str(tmp_path / "a" / "store")

    path = spool.write(store, "run1", b"run v=1 x=y\n")

    assert spool.waiting(store) == [path]
    assert spool.read(path, _now_ns(path)) == b"run v=1 x=y\n"
    modes = [stat.S_IMODE(os.stat(place).st_mode) for place in (path, os.path.dirname(path), store)]
    assert modes == [0o600, 0o700, 0o700]


def test_the_same_run_is_never_written_twice(tmp_path: Path) -> None:
    """A run id names its file: a second report of it is refused, not merged."""
    spool.write(str(tmp_path / "s"), "run1", b"a\n")

    with pytest.raises(FileExistsError):
        spool.write(str(tmp_path / "s"), "run1", b"b\n")


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -1])
def test_a_torn_file_is_left_alone_first_and_set_aside_later(tmp_path: Path, cut: int) -> None:
    """A writer may still be at work on it; an hour later nobody is, and it goes out of the way, not deleted."""
    store = str(tmp_path / "s")
    path = spool.write(store, "run1", b"run v=1 x=y\n")
    os.truncate(path, cut if cut >= 0 else os.path.getsize(path) - 1)

    assert spool.read(path, _now_ns(path)) is None
    assert spool.waiting(store) == [path]
    assert spool.read(path, _now_ns(path) + _HOUR_NS) == b""
    assert spool.set_aside(path) == os.path.join(store, "spool", "torn", "run1.report")
    assert spool.waiting(store) == []
    assert os.listdir(os.path.join(store, "spool", "torn")) == ["run1.report"]


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """The checksum covers the record."""
    path = spool.write(str(tmp_path / "s"), "run1", b"run v=1 x=y\n")
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"x=y", b"x=z"))

    assert spool.read(path, _now_ns(path)) is None


def test_a_store_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Nobody can redirect a store by a symbolic link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(NotADirectoryError):
        spool.prepare(str(tmp_path / "link"))


@pytest.mark.root
@needs(root)
def test_a_store_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Root doesn't write into another user's store."""
    (tmp_path / "store").mkdir()
    os.chown(tmp_path / "store", 65534, 65534)

    with pytest.raises(PermissionError):
        spool.prepare(str(tmp_path / "store"))

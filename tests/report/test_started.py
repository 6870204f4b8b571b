"""Start records on a real disk, and the processes that hold them."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aura_agent.report import started
from aura_agent.report.started import StartRecord

_NOW_NS = 1_800_000_000 * 10**9
_HOLD = (
    "from sys import argv; from aura_agent.report.started import StartRecord as S\nr = S(argv[1], argv[2], 1, b'x')\n"
)


@contextmanager
def _wrapper(store: Path, run_id: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has a record, and ends when it is told to or killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD + "print(flush=True); input()", str(store), run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def _lines(store: Path, wall_ns: int = _NOW_NS) -> list[bytes]:
    return [line for _, line in started.abandoned(str(store), wall_ns)]


def test_a_record_is_abandoned_when_its_process_is_gone_and_not_before(tmp_path: Path) -> None:
    """However often somebody looks, two of them at once included."""
    with _wrapper(tmp_path / "s", "run1") as process:
        assert _lines(tmp_path / "s") == _lines(tmp_path / "s") == []
        process.kill()
        process.wait()
        assert _lines(tmp_path / "s") == _lines(tmp_path / "s") == [b"x"]


def test_a_record_of_a_run_that_ended_is_gone(tmp_path: Path) -> None:
    """Removed by its process, or by whoever has judged it; it was its owner's alone."""
    record = StartRecord(str(tmp_path / "s"), "run1", 1, b"x")
    (path,) = (tmp_path / "s" / "runs").iterdir()
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent)] == [0o600, 0o700]
    record.sync()
    record.remove()
    assert not started.count(str(tmp_path / "s"))

    with _wrapper(tmp_path / "s", "run2"):
        assert started.count(str(tmp_path / "s"))
    ((left, _),) = started.abandoned(str(tmp_path / "s"), _NOW_NS)
    started.forget(left)
    started.forget(left)
    assert not started.count(str(tmp_path / "s"))


def test_what_the_process_starts_does_not_hold_the_record(tmp_path: Path) -> None:
    """An orphaned job must not pass for a living wrapper."""
    script = _HOLD + "import os\nprint(os.posix_spawn('/bin/sleep', ['sleep', '1000'], {}), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s"), "run1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        job = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            assert _lines(tmp_path / "s") == [b"x"]
        finally:
            os.kill(job, 9)


@pytest.mark.parametrize("content", [b"", b"aura1 1 0000", b"aura1 1 00000000\nx"])
def test_an_unfinished_record_is_left_alone_first_and_removed_later(tmp_path: Path, content: bytes) -> None:
    """Its process may be at it, or was killed over it: that much is known of no run."""
    path = tmp_path / "runs" / "run1-000001"
    path.parent.mkdir()
    path.write_bytes(content)
    written_ns = path.stat().st_mtime_ns

    assert _lines(tmp_path, written_ns) == []
    assert path.exists()
    assert _lines(tmp_path, written_ns + 3600 * 10**9) == []
    assert not path.exists()


def test_what_is_no_file_of_ours_hinders_nobody(tmp_path: Path) -> None:
    """A link, a directory: they are left where they are, and the records beside them are read."""
    with _wrapper(tmp_path / "s", "run1"):
        pass
    (tmp_path / "s" / "runs" / "link").symlink_to("/dev/zero")
    (tmp_path / "s" / "runs" / "directory").mkdir()

    assert _lines(tmp_path / "s") == [b"x"]


def test_of_a_runs_attempts_the_last_comes_first(tmp_path: Path) -> None:
    """Who was killed between two of them left both, and the last decides."""
    script = "from sys import argv; from aura_agent.report.started import StartRecord as S\n"
    script += "for attempt in (9, 10): S(argv[1], 'run1', attempt, b'%d' % attempt)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)

    assert _lines(tmp_path) == [b"10", b"9"]

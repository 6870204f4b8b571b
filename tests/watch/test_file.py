"""Whether a watched file is young and large enough, and what a run left."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aura_agent.watch.expect import expect_file, timestamp_slack_ns
from aura_agent.watch.file import check_file, epoch_ns
from aura_agent.watch.newest import find_newest
from tests.machine import needs, root

NOW = datetime(2024, 5, 17, 3, 0, 0, 123456, tzinfo=UTC)
NOW_NS = epoch_ns(NOW)
ROOT = str(Path(__file__).resolve().parents[2])


def make(path: Path, age_s: float = 0.0, size_bytes: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)
    at = NOW_NS - round(age_s * 1e9)
    os.utime(path, ns=(at, at))
    return path


def found(pattern: Path | str) -> str | None:
    newest = find_newest(str(pattern), now_ns=NOW_NS).newest
    return None if newest is None else newest.path


def test_the_newest_match_counts(tmp_path: Path) -> None:
    """Older files beside it don't matter, younger ones of another name neither."""
    make(tmp_path / "a.tar", age_s=7200)
    make(tmp_path / "b.tar", age_s=600, size_bytes=2000)
    make(tmp_path / "c.log", age_s=1)

    condition = check_file(path=f"{tmp_path}/*.tar", now=NOW, max_age_s=3600, min_size_bytes=2000)

    assert condition.healthy
    assert condition.reason == f"{tmp_path}/b.tar is 10m old, 2.0 kB"
    assert condition.facts == {"files": 2, "path": f"{tmp_path}/b.tar", "size_bytes": 2000, "age_s": 600.0}


def test_too_old_and_too_small_say_by_how_much(tmp_path: Path) -> None:
    """The newest file is judged, even if an older one is larger."""
    make(tmp_path / "a", age_s=7200, size_bytes=5000)
    make(tmp_path / "b", age_s=3601, size_bytes=1999)

    old = check_file(path=f"{tmp_path}/*", now=NOW, max_age_s=3600)
    small = check_file(path=f"{tmp_path}/*", now=NOW, min_size_bytes=2000)

    assert (old.healthy, old.reason) == (False, f"{tmp_path}/b is 1h old, more than 1h")
    assert (small.healthy, small.reason) == (False, f"{tmp_path}/b is too small: 1999 B, expected at least 2000 B")


def test_age_and_size_at_the_limit_are_well(tmp_path: Path) -> None:
    """max_age and min_size are included."""
    make(tmp_path / "a", age_s=3600, size_bytes=100)

    assert check_file(path=f"{tmp_path}/a", now=NOW, max_age_s=3600, min_size_bytes=100).healthy


def test_directories_sockets_and_dangling_links_are_no_files(tmp_path: Path) -> None:
    """Only regular files count, also behind a symbolic link."""
    (tmp_path / "d.tar").mkdir()
    os.mkfifo(tmp_path / "f.tar")
    (tmp_path / "l.tar").symlink_to(tmp_path / "nowhere")

    none = check_file(path=f"{tmp_path}/*.tar", now=NOW)
    make(tmp_path / "target", age_s=5)
    (tmp_path / "ok.tar").symlink_to(tmp_path / "target")
    linked = check_file(path=f"{tmp_path}/*.tar", now=NOW)

    assert not none.healthy
    assert "matches no regular file" in none.reason
    assert linked.facts["path"] == f"{tmp_path}/ok.tar"


def test_a_file_from_the_future_is_not_fresh(tmp_path: Path) -> None:
    """Its age can't be told; it would feed the heartbeat for years."""
    make(tmp_path / "f", age_s=-86400 * 365)

    alone = check_file(path=f"{tmp_path}/*", now=NOW, max_age_s=60)
    make(tmp_path / "old", age_s=120)
    beside_old = check_file(path=f"{tmp_path}/*", now=NOW, max_age_s=60)
    make(tmp_path / "young", age_s=30)
    beside_young = check_file(path=f"{tmp_path}/*", now=NOW, max_age_s=60)

    assert not alone.healthy
    assert "365d in the future" in alone.reason
    assert not beside_old.healthy
    assert "in the future" in beside_old.reason
    assert beside_young.healthy
    assert beside_young.facts["future_path"] == f"{tmp_path}/f"


def test_a_file_server_whose_clock_is_a_little_ahead_is_believed(tmp_path: Path) -> None:
    """Less than a minute ahead counts as new."""
    make(tmp_path / "f", age_s=-30)

    assert check_file(path=f"{tmp_path}/f", now=NOW, max_age_s=60).reason == f"{tmp_path}/f is 0s old, 1 B"


def test_a_missing_directory_and_no_match_are_told_apart(tmp_path: Path) -> None:
    """The reason names the directory that isn't there."""
    missing = check_file(path=f"{tmp_path}/no/such/*.tar", now=NOW)
    empty = check_file(path=f"{tmp_path}/*.tar", now=NOW)

    assert missing.reason == f"no file matches {tmp_path}/no/such/*.tar: {tmp_path}/no does not exist"
    assert empty.reason == f"no file matches {tmp_path}/*.tar"


@pytest.mark.root
@needs(root)
def test_an_unreadable_directory_is_reported(tmp_path: Path) -> None:
    """Not a missing backup but a missing right; a file known by name is found even there."""
    make(tmp_path / "closed" / "a.tar", age_s=5)
    (tmp_path / "closed").chmod(0o711)
    make(tmp_path / "locked" / "a.tar", age_s=5)
    (tmp_path / "locked").chmod(0o700)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from datetime import datetime; from aura_agent.watch.file import check_file\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); now = datetime.fromisoformat(sys.argv[2])\n"
        "for path in ('closed/*.tar', 'closed/a.tar', 'locked/*.tar', 'locked/a.tar', '*/a.tar'):\n"
        "    condition = check_file(path=path, now=now); print(condition.healthy, condition.reason)\n"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code, ROOT, NOW.isoformat()], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.splitlines()

    assert lines[0] == "False no file matches closed/*.tar; can't read closed: Permission denied"
    assert lines[1].startswith("True")
    assert lines[2] == "False no file matches locked/*.tar; can't read locked: Permission denied"
    assert lines[3] == "False no file matches locked/a.tar; can't read locked/a.tar: Permission denied"
    assert lines[4].startswith("True")


def test_patterns_match_as_a_shell_does(tmp_path: Path) -> None:
    """Hidden names only if asked for, `*` within one name, `**` at any depth but not through links."""
    for age_s, name in enumerate(["x/y/deep.tar", "x/mid.tar", "top.tar", ".hidden.tar", ".h/in.tar"]):
        make(tmp_path / name, age_s=float(age_s))

    assert found(tmp_path / "*.tar") == f"{tmp_path}/top.tar"
    assert found(tmp_path / ".*.tar") == f"{tmp_path}/.hidden.tar"
    assert found(tmp_path / "*/*.tar") == f"{tmp_path}/x/mid.tar"
    assert found(tmp_path / "**/*.tar") == f"{tmp_path}/x/y/deep.tar"
    assert found(tmp_path / "**") == f"{tmp_path}/x/y/deep.tar"
    assert found(tmp_path / "**/x/**/m*.tar") == f"{tmp_path}/x/mid.tar"
    assert found(tmp_path / "[tz]?p.tar") == f"{tmp_path}/top.tar"
    assert found(tmp_path / ".h" / "*") == f"{tmp_path}/.h/in.tar"
    assert found(tmp_path / "X*") is None


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """`**` does not follow links to directories."""
    make(tmp_path / "a" / "f")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)

    search = find_newest(f"{tmp_path}/**/f", now_ns=NOW_NS)

    assert search.files == 1
    assert not search.cut_off


def test_work_is_bounded_and_the_bound_is_told(tmp_path: Path) -> None:
    """A verdict on part of a directory would be a guess."""
    for number in range(20):
        make(tmp_path / str(number))

    condition = check_file(path=f"{tmp_path}/*", now=NOW, max_entries=19)

    assert not condition.healthy
    assert "too many directory entries" in condition.reason
    assert check_file(path=f"{tmp_path}/*", now=NOW, max_entries=20).healthy
    assert check_file(path=f"{tmp_path}/7", now=NOW, max_entries=0).healthy


def test_a_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    """Reasons and facts go to logs and JSON."""
    path = os.fsencode(tmp_path) + b"/bad-\xff\n.tar"
    with open(path, "wb"):
        pass
    os.utime(path, ns=(NOW_NS, NOW_NS))

    condition = check_file(path=f"{tmp_path}/*.tar", now=NOW)

    assert condition.healthy
    assert f"{condition.reason}{condition.facts['path']}".encode().isascii()
    assert "\n" not in condition.reason


def test_a_file_made_by_the_run_meets_the_expectation(tmp_path: Path) -> None:
    """Really written after a really read clock, however coarse the file system's timestamps."""
    for number in range(50):
        started_at = datetime.now(UTC)
        (tmp_path / f"{number}.tar").write_bytes(b"x" * 10)

        condition = expect_file(
            path=f"{tmp_path}/{number}.tar", started_at=started_at, now=datetime.now(UTC), min_size_bytes=10
        )

        assert condition.healthy, condition.reason


def test_a_file_from_before_the_run_does_not(tmp_path: Path) -> None:
    """Yesterday's backup is no proof of today's."""
    make(tmp_path / "a.tar", age_s=61)

    condition = expect_file(path=f"{tmp_path}/*.tar", started_at=NOW - timedelta(seconds=60), now=NOW)

    assert not condition.healthy
    assert "was last modified 1s before the run's start" in condition.reason


def test_a_file_that_kept_its_old_time_is_explained(tmp_path: Path) -> None:
    """`cp -p` during the run: not new by its time, and the reason says what to look at."""
    started_at = datetime.now(UTC) - timedelta(seconds=5)
    make(tmp_path / "a.tar")

    condition = expect_file(path=f"{tmp_path}/*.tar", started_at=started_at, now=datetime.now(UTC))

    assert not condition.healthy
    assert "keep the old time" in condition.reason


def test_a_duration_replaces_the_start(tmp_path: Path) -> None:
    """newer_than = "2h" counts back from now."""
    make(tmp_path / "a", age_s=3600)
    expected = {"path": f"{tmp_path}/a", "started_at": NOW - timedelta(seconds=5), "now": NOW}

    assert expect_file(newer_than_s=7200, **expected).healthy  # type: ignore[arg-type]
    assert "before the last 30m" in expect_file(newer_than_s=1800, **expected).reason  # type: ignore[arg-type]


def test_an_expected_file_must_be_large_enough_and_there(tmp_path: Path) -> None:
    """An empty dump is no dump."""
    expected = {"path": f"{tmp_path}/*", "started_at": NOW, "now": NOW}
    missing = expect_file(**expected)  # type: ignore[arg-type]
    make(tmp_path / "a", size_bytes=999)
    small = expect_file(min_size_bytes=1000, **expected)  # type: ignore[arg-type]

    assert (missing.healthy, missing.reason) == (False, f"no file matches {tmp_path}/*")
    assert (small.healthy, small.reason) == (False, f"{tmp_path}/a is too small: 999 B, expected at least 1.0 kB")


def test_of_two_that_are_as_new_the_larger_counts(tmp_path: Path) -> None:
    """A dump and its checksum, stamped by the same tick."""
    make(tmp_path / "dump", size_bytes=5000)
    make(tmp_path / "dump.sha256", size_bytes=64)

    assert expect_file(path=f"{tmp_path}/dump*", started_at=NOW, now=NOW, min_size_bytes=1000).healthy


@pytest.mark.parametrize(
    ("mtime_ns", "slack_s"),
    [(1_700_000_000_123_456_789, 0.01), (1_700_000_001_000_000_000, 1.0), (1_700_000_000_000_000_000, 2.0)],
)
def test_slack_follows_from_the_timestamps_own_grain(mtime_ns: int, slack_s: float) -> None:
    """Ten milliseconds for a kernel's tick, more only for a file system that keeps whole seconds."""
    assert timestamp_slack_ns(mtime_ns) == slack_s * 1e9


@pytest.mark.parametrize(("early_s", "healthy"), [(0.009, True), (0.05, False)])
def test_the_slack_is_no_larger_than_a_tick(early_s: float, healthy: bool, tmp_path: Path) -> None:
    """A file that is older than the run by more than that is older."""
    make(tmp_path / "a", age_s=early_s)

    assert expect_file(path=f"{tmp_path}/a", started_at=NOW, now=NOW).healthy is healthy

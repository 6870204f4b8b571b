"""``discover --write`` and ``--undo``: what is changed, what is kept, and what nobody else's change loses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aura_agent.discover.changes import write
from aura_agent.discover.plan import Change
from tests.discover.hosts import DISCOVERED, Copy
from tests.machine import needs, root

CRONTAB = "# own\n\nMAILTO=''\n0 3 * * *\troot  /x/backup.sh --full\n@daily root a | b%c\n\udcff\n"


@pytest.fixture
def written(copy: Copy) -> Copy:
    copy.cron("cronie")  # Debian's ignores the whole file for its last line
    copy.write("/etc/cron.d/own", CRONTAB, 0o640)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\n", 0o600)
    copy.timer("report", "OnCalendar=daily", "ExecStart=/x")
    return copy


def test_nothing_is_written_unasked(written: Copy) -> None:
    """A look changes nothing; it shows each line that would change, and the command that does it."""
    before = written.files()

    ran = written.discover()

    assert (ran.status, ran.stderr) == (0, "")
    assert written.files() == before
    assert "-0 3 * * *    root  /x/backup.sh --full\n" in ran.stdout
    assert "Next: aura-agent discover --write" in ran.stdout


def test_a_write_is_done_once(written: Copy) -> None:
    """A second one finds nothing to do, and makes no backup."""
    first = written.told("--write")
    after = written.files()

    second = written.told("--write")

    assert first["backup"] is not None
    assert (second["jobs"], second["changes"], second["backup"]) == ([], [], None)
    assert written.files() == after


def test_a_write_is_undone_to_the_byte(written: Copy) -> None:
    """Also what was made anew is gone; a second undo has nothing to do."""
    before = written.files()
    written.told("--write")
    assert written.files() != before

    undone = written.told("--undo")

    assert undone["ok"]
    assert written.files() == before
    assert not written.path("/etc/systemd/system/report.service.d").exists()
    again = written.discover("--undo")
    assert (again.status, again.stdout) == (1, "")
    assert "nothing to undo" in again.stderr


def test_writes_are_undone_one_by_one(written: Copy) -> None:
    """The newest first."""
    before = written.files()
    written.told("--write", "--only", "backup")
    between = written.files()
    written.told("--write")

    written.told("--undo")
    assert written.files() == between
    written.told("--undo")
    assert written.files() == before


def test_backups_are_no_jobs_and_nobody_else_s_to_read(written: Copy) -> None:
    """They lie outside of cron's directories, and hold what was there, readable for their owner alone."""
    backup = Path(written.told("--write")["backup"])

    assert backup.is_relative_to(written.path("/var/backups/aura-agent"))
    assert backup.stat().st_mode & 0o777 == 0o700
    kept = {path.name: path for path in backup.iterdir()}
    assert os.fsdecode(kept["1-etc-cron.d-own"].read_bytes()) == CRONTAB
    assert {path.stat().st_mode & 0o777 for path in kept.values()} == {0o600}
    assert [path.name for path in written.path("/etc/cron.d").iterdir()] == ["own"]


def test_mode_stays_and_cron_notices(written: Copy) -> None:
    """cron reads a file anew if its time of change is another; an old one must not be kept."""
    path = written.path("/etc/cron.d/own")
    os.utime(path, (1, 1))
    inode = path.stat().st_ino

    written.told("--write")

    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_mtime > 1
    assert path.stat().st_ino != inode, "replaced as a whole: nobody ever reads half of it"


@pytest.mark.root
@needs(root)
def test_the_owner_stays(written: Copy) -> None:
    """A crontab that becomes root's own would be ignored by cron."""
    path = written.path("/var/spool/cron/crontabs/bob")
    os.chown(path, 12_345, 54_321)

    written.told("--write")

    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12_345, 54_321, 0o600)


def test_undo_leaves_alone_what_has_changed_since(written: Copy) -> None:
    """It says where the old file is, takes back the rest, and exits with 1."""
    written.told("--write")
    mine = written.write("/etc/cron.d/own", "# mine now\n")

    undone = written.discover("--undo")

    assert undone.status == 1
    assert "/etc/cron.d/own: changed since; as it was: " in undone.stderr
    assert mine.read_text() == "# mine now\n"
    assert written.read("/var/spool/cron/crontabs/bob") == "0 3 * * * x\n"
    assert not written.path(DISCOVERED).exists()


def test_a_file_that_changes_meanwhile_is_not_overwritten(copy: Copy) -> None:
    """It is left alone and named, and the others are written."""
    copy.write("/etc/a", "old")
    copy.write("/etc/b", "edited")
    changes = [Change("/etc/b", "as it was read", "new"), Change("/etc/a", "old", "new")]

    written = write(changes, lambda _: None, str(copy.root), str(copy.root / "backups"), "1")

    assert [(result.path, result.problem) for result in written.left] == [
        ("/etc/b", "changed while it was looked at; try again")
    ]
    assert [change.path for change in written.done] == ["/etc/a"]
    assert (copy.read("/etc/a"), copy.read("/etc/b")) == ("new", "edited")


def test_a_write_that_fails_half_way_can_be_undone(copy: Copy) -> None:
    """What was written before is taken back like a whole one."""
    copy.write("/etc/crontab", "0 3 * * * root x\n")
    copy.path("/etc/aura-agent/conf.d").write_text("a file where a directory should be")
    before = copy.files()

    ran = copy.discover("--write")

    assert ran.status == 1
    assert "conf.d" in ran.stderr
    copy.discover("--undo")
    assert copy.files() == before


def test_a_write_to_a_copy_leaves_this_host_alone(copy: Copy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An absolute link of the copy means a file of the copy: that one is written."""
    outside = tmp_path_factory.mktemp("outside") / "crontab"
    outside.write_text("0 3 * * * root x\n")
    copy.write(str(outside), "0 4 * * * root y\n")
    copy.path("/etc/crontab").symlink_to(outside)

    copy.told("--write")

    assert outside.read_text() == "0 3 * * * root x\n"
    assert copy.path("/etc/crontab").is_symlink()
    assert "aura-run" in copy.read(str(outside))


def test_a_link_within_is_kept(copy: Copy) -> None:
    """The file that it leads to is written."""
    copy.write("/srv/crontab", "0 3 * * * root x\n")
    copy.path("/etc/crontab").symlink_to("../srv/crontab")

    copy.told("--write")

    assert copy.path("/etc/crontab").is_symlink()
    assert "aura-run" in copy.read("/srv/crontab")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--only", "nothing"], 2, "no job to propose is called nothing"),
        (["--undo", "--write"], 2, "give it alone"),
        (["--as", "yaml"], 2, "yaml"),
        (["--root", "/no/such/place"], 2, "--root /no/such/place: no such directory"),
        (["-c", __file__], 2, "not below --root"),
    ],
)
def test_wrong_usage_is_one_line(written: Copy, arguments: list[str], status: int, message: str) -> None:
    """And nothing is done."""
    before = written.files()

    ran = written.discover(*arguments)

    assert (ran.status, ran.stdout, len(ran.stderr.splitlines())) == (status, "", 1)
    assert message in ran.stderr
    assert written.files() == before


def test_what_can_not_be_read_is_said(copy: Copy) -> None:
    """The rest is shown all the same; only if there is no rest it is an error."""
    copy.path("/etc/crontab").mkdir()

    nothing = copy.discover()
    copy.write("/etc/cron.d/a", "0 3 * * * root x\n")
    something = copy.discover()

    assert (nothing.status, nothing.stdout, nothing.stderr) == (1, "", "aura-agent: /etc/crontab: Is a directory\n")
    assert something.status == 0
    assert "aura-agent: /etc/crontab: Is a directory" in something.stderr
    assert "/x" in something.stdout


def test_who_is_not_root_sees_and_leaves_what_is_root_s(copy: Copy) -> None:
    """Crontabs of others can't be read, the system's not be written: both are said."""
    copy.write("/etc/crontab", "0 3 * * * root x\n")
    copy.timer("report", "OnCalendar=daily", "ExecStart=/x")
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * x\n", 0o600)
    copy.path("/var/spool/cron/crontabs").chmod(0o300)
    for directory in ("/etc", "/etc/systemd/system", "/etc/aura-agent"):
        copy.path(directory).chmod(0o555)
    # To root modes mean nothing, unless it goes without its capabilities.
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    program = [sys.executable, "-c", "from aura_agent.cli.main import main; main()"]

    done = subprocess.run(
        [*powerless, *program, "discover", "--root", str(copy.root)],
        env=copy.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert "/var/spool/cron/crontabs: Permission denied: only root sees the crontabs of others" in done.stderr
    assert done.stdout.count("only root can change it") == 2
    assert "aura-run" not in done.stdout

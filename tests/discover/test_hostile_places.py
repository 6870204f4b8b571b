"""Root writes for, and undoes in, a copy of a host of which others own a part: their links and files get nothing."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.discover.hosts import Copy
from tests.machine import needs, root

pytestmark = [pytest.mark.root, needs(root)]
_BOB = 4001
_LINE = "0 3 * * * root /opt/backup.sh\n"
_SETS = "/var/backups/aura-agent"


@pytest.fixture
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside") / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def hostile(copy: Copy) -> Copy:
    copy.write("/etc/cron.d/own", _LINE)
    return copy


def _plant(copy: Copy, before: str, owner: int, mode: int = 0o700) -> Path:
    """Put a set there that says that a file was what *before* holds."""
    directory = copy.path(f"{_SETS}/20200101T000000.000000Z")
    directory.mkdir(parents=True)
    digest = hashlib.sha256(_LINE.encode()).hexdigest()
    item = {"path": "/etc/cron.d/own", "owner": None, "before": before, "after": None, "after_sha256": digest}
    (directory / "manifest.json").write_text(json.dumps({"version": 2, "changes": [item]}))
    for path in (directory.parent, directory, directory / "manifest.json"):
        path.chmod(mode if path.is_dir() else 0o600)
        os.chown(path, owner, owner)
    return directory


def test_backups_do_not_follow_a_link_out_of_the_copy(hostile: Copy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A link in place of var/backups is one of the copy: it leads within."""
    outside = tmp_path_factory.mktemp("outside")
    hostile.path("/var").mkdir(exist_ok=True)
    hostile.path("/var/backups").symlink_to(outside)

    ran = hostile.discover("--write")

    assert ran.status == 0, ran.stderr
    assert list(outside.iterdir()) == []
    assert list(hostile.path(f"{outside}/aura-agent").iterdir())
    assert hostile.discover("--undo").status == 0
    assert hostile.read("/etc/cron.d/own") == _LINE


@pytest.mark.parametrize("owner", [0, _BOB])
@pytest.mark.parametrize("form", ["absolute", "upwards", "link"])
def test_a_planted_backup_hands_out_no_file(hostile: Copy, secret: Path, owner: int, form: str) -> None:
    """Neither by an absolute name, nor by dots, nor by a link in the set; whoever owns it."""
    name = {"absolute": str(secret), "upwards": os.path.relpath(secret, hostile.path(_SETS) / "x"), "link": "0-own"}[
        form
    ]
    directory = _plant(hostile, name, owner)
    if form == "link":
        (directory / "0-own").symlink_to(secret)

    ran = hostile.discover("--undo")

    assert ran.status == 1
    assert "s3cret" not in hostile.read("/etc/cron.d/own") + ran.stdout + ran.stderr
    assert hostile.read("/etc/cron.d/own") == _LINE


@pytest.mark.parametrize(("owner", "mode"), [(_BOB, 0o700), (0, 0o755), (0, 0o770)])
def test_a_backup_that_others_own_or_reach_is_not_followed(hostile: Copy, owner: int, mode: int) -> None:
    """The line names the directory."""
    directory = _plant(hostile, "0-own", owner, mode)
    (directory / "0-own").write_text("* * * * * root rm -rf /\n")

    ran = hostile.discover("--undo")

    assert ran.status == 1
    assert hostile.path(_SETS).as_posix() in ran.stderr
    assert hostile.read("/etc/cron.d/own") == _LINE


@pytest.mark.parametrize(("owner", "mode"), [(_BOB, 0o755), (0, 0o777), (0, 0o775)])
def test_root_writes_nothing_where_others_can_exchange_it(hostile: Copy, owner: int, mode: int) -> None:
    """The file is left alone, and named with the reason; other files are written."""
    hostile.write("/etc/crontab", "0 4 * * * root /opt/other.sh\n")
    directory = hostile.path("/etc/cron.d")
    os.chown(directory, owner, 0)
    directory.chmod(mode)

    ran = hostile.discover("--write")

    assert hostile.read("/etc/cron.d/own") == _LINE
    assert "others can change this directory" in ran.stdout + ran.stderr
    assert "aura-run" in hostile.read("/etc/crontab")


def test_a_new_table_has_no_more_rights_than_a_table_needs(hostile: Copy) -> None:
    """Whoever owned the old one may have made it setuid, or given it a capability."""
    path = hostile.path("/etc/cron.d/own")
    path.chmod(0o6744)
    capability = bytes.fromhex("0100000202000000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)

    ran = hostile.discover("--write")

    assert "aura-run" in hostile.read("/etc/cron.d/own"), ran.stderr
    assert path.stat().st_mode & 0o7777 == 0o744
    assert "security.capability" not in os.listxattr(path)


def test_a_user_reaches_a_directory_behind_one_that_cannot_be_listed() -> None:
    """/home may be 0711: it can be passed through and not be listed."""
    with tempfile.TemporaryDirectory(prefix="aura-hostile-") as place:
        own = Path(place) / "own"
        own.mkdir()
        os.chown(own, _BOB, _BOB)
        (own / "set").write_text("")
        os.chmod(place, 0o711)
        code = (
            "import os, sys; from aura_agent.discover.file_content import open_directory\n"
            f"os.setgroups([]); os.setgid({_BOB}); os.setuid({_BOB})\n"
            "with open_directory('/', sys.argv[1]) as directory: print(os.listdir(directory))"
        )

        said = subprocess.run([sys.executable, "-c", code, own], capture_output=True, text=True, check=False)

    assert said.stdout == "['set']\n", said.stderr

"""``discover --write`` on a running host as root: who can run aura-run, which tables can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aura_agent.discover.accounts import Account
from aura_agent.discover.runnable import why_not_runnable
from tests.discover.live import LiveHost, install
from tests.machine import mounts, needs

pytestmark = [pytest.mark.root, needs(mounts)]

LINKED = "/usr/local/bin/aura-run"


def test_the_path_in_usr_local_bin_is_written_if_it_is_the_same(live: LiveHost) -> None:
    """It outlasts a move of the installation, and is what people look for."""
    live.link_into_path()
    live.write("/etc/cron.d/own", "0 3 * * * root /bin/true\n0 4 * * * bob /bin/true\n")

    ran = live.discover("--write")

    assert ran.returncode == 0, ran.stderr
    assert live.read("/etc/cron.d/own").count(f" {LINKED} -H ") == 2
    assert "Written: all of 2 files" in ran.stdout, ran.stdout


@pytest.mark.parametrize("mode", [0o700, 0o750])
def test_lines_of_users_who_cannot_run_aura_run_are_left_alone(live: LiveHost, tmp_path: Path, mode: int) -> None:
    """An installation made under a strict umask, or for one group: whoever can run it gets it, the others are named."""
    closed = _own_installation(live, tmp_path)
    os.chown(closed, 0, 4100)
    closed.chmod(mode)
    live.write("/etc/cron.d/own", "0 3 * * * root /x/a\n0 4 * * * bob /x/b\n")
    live.crontab("eve", "0 5 * * * /x/c\n")

    told = live.told("--write")

    reasons = {item["where"]: item["reason"] for item in told["left_alone"]}
    users = ["root"] if mode == 0o700 else ["eve", "root"]
    assert [job["user"] for job in told["jobs"]] == users
    assert live.read("/etc/cron.d/own").endswith("0 4 * * * bob /x/b\n")
    assert ("aura-run" in live.read("/var/spool/cron/crontabs/eve")) == (mode == 0o750)
    assert reasons["/etc/cron.d/own:2"] == (
        f"bob can't run /opt/aura-agent/bin/aura-run: the directory /opt/aura-agent is closed to it (mode {mode:04o})"
    )
    declared = live.read("/etc/aura-agent/conf.d/discovered.toml")
    assert declared.count("[jobs.") == len(users)


@pytest.mark.parametrize(
    ("setting", "who"),
    [
        ("User=bob", "bob"),
        ("User=4001", "4001"),
        ("DynamicUser=yes", "a dynamic user"),
        ("User=job-x\nDynamicUser=true", "job-x"),
    ],
)
def test_units_of_users_who_cannot_run_aura_run_are_left_alone(
    live: LiveHost, tmp_path: Path, setting: str, who: str
) -> None:
    """User= by name or number, and users that systemd makes up."""
    _own_installation(live, tmp_path).chmod(0o700)
    live.timer("closed", f"ExecStart=/x\n{setting}")
    live.timer("open", "ExecStart=/x")
    live.boot()

    told = live.told("--write")

    assert [job["where"] for job in told["jobs"]] == ["open.timer"]
    assert f"{who} can't run /opt/aura-agent/bin/aura-run: " in told["left_alone"][0]["reason"]
    assert not live.path("/etc/systemd/system/closed.service.d").exists()


def test_timers_are_left_alone_where_systemd_does_not_run(live: LiveHost) -> None:
    """As in a container: units are installed there, and nothing starts them."""
    live.timer("report", "ExecStart=/x")
    live.link_into_path()

    told = live.told()

    assert told["jobs"] == told["changes"] == []
    assert {item["where"]: item["reason"] for item in told["left_alone"]} == {
        "report.timer": "systemd doesn't run here, so nothing starts it"
    }


def test_a_python_that_a_user_cannot_read_is_noticed(live: LiveHost, tmp_path: Path) -> None:
    """The script may be open to all while what it needs isn't."""
    package = _own_installation(live, tmp_path)
    next(package.glob("lib/*/site-packages")).chmod(0o700)
    live.write("/etc/cron.d/own", "0 4 * * * bob /x/b\n")

    told = live.told("--write")

    assert (told["jobs"], told["changes"]) == ([], [])
    assert (
        "bob can't run /opt/aura-agent/bin/aura-run: aura-run: its modules cannot be loaded"
        in told["left_alone"][0]["reason"]
    )


def test_a_user_who_is_not_there_is_named(live: LiveHost) -> None:
    """Nobody can run anything as that one."""
    live.write("/etc/cron.d/own", "0 4 * * * nobody-here /x/b\n")

    (left,) = live.told("--write")["left_alone"]

    assert "nobody-here" in left["reason"]


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("/root/.local/pipx/aura-agent", "is in the home /root: "),
        ("/home/bob/venv", "is in the home /home/bob: "),
        ("/srv/aura-agent/.venv", "is in the checkout /srv/aura-agent: "),
        ("/tmp/try/venv", "is in a temporary directory: "),
    ],
)
def test_a_path_that_does_not_last_is_refused(live: LiveHost, tmp_path: Path, prefix: str, reason: str) -> None:
    """Also through a link in /usr/local/bin; a look says it beforehand, and nothing changes."""
    live.mounts.append((str(install(tmp_path / "other", prefix)), prefix))
    live.path(prefix).mkdir(parents=True)
    live.path("/srv/aura-agent/.git").mkdir(parents=True)
    live.path("/local-bin/aura-run").symlink_to(f"{prefix}/bin/aura-run")
    live.write("/etc/cron.d/own", "0 3 * * * root /x/a\n0 4 * * * bob /x/b\n")
    before = live.files()

    looked = live.discover(prefix=prefix)
    refused = live.discover("--write", prefix=prefix)

    assert looked.returncode == 0
    assert reason in looked.stderr
    assert reason in live.told(prefix=prefix)["refused"]
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
    assert f"{LINKED} leads to {prefix}/bin/aura-run, which {reason}" in refused.stderr
    assert live.files() == before


@pytest.mark.parametrize("part", ["", "bin", "bin/aura-run"])
def test_an_installation_that_others_can_change_is_refused(live: LiveHost, tmp_path: Path, part: str) -> None:
    """Root's lines would run what its owner puts there."""
    prefix = "/srv/shared/venv"
    installed = install(tmp_path / "other", prefix)
    os.chown(installed / part, 4001, 4001)
    live.mounts.append((str(installed), prefix))
    live.path(prefix).mkdir(parents=True)
    live.write("/etc/cron.d/own", "0 3 * * * root /x/a\n")

    refused = live.discover("--write", prefix=prefix)

    assert refused.returncode == 1
    assert "is not root's alone (" in refused.stderr
    assert "it belongs to bob" in refused.stderr
    assert live.read("/etc/cron.d/own") == "0 3 * * * root /x/a\n"


def test_a_python_in_a_home_is_refused(live: LiveHost, tmp_path: Path) -> None:
    """As uv and pyenv install it: the interpreter of the script counts, too."""
    installed = install(tmp_path / "other", python="/root/.pyenv/bin/python3")
    live.mounts += [(str(installed), "/opt/aura-agent"), (sys.base_prefix, "/root/.pyenv")]
    live.path("/root/.pyenv").mkdir()
    live.write("/etc/cron.d/own", "0 3 * * * root /x/a\n")

    refused = live.discover("--write")

    assert refused.returncode == 1
    assert "which is in the home /root: " in refused.stderr


def test_the_home_of_a_service_in_opt_is_no_home(live: LiveHost) -> None:
    """An account for the agent may live where the agent is installed."""
    live.write("/etc/passwd", live.read("/etc/passwd") + "aura:x:1500:1500::/opt/aura-agent:/bin/sh\n")
    live.write("/etc/cron.d/own", "0 3 * * * aura /x/a\n")

    assert live.told()["refused"] is None


def test_another_installation_in_usr_local_bin_is_not_written(live: LiveHost) -> None:
    """Its version may be another; a copy of the script for the same Python is the same."""
    script = live.installation / "bin/aura-run"
    live.write("/local-bin/aura-run", "#!/bin/sh\necho aura-run 0.0.1\n", 0o755)
    live.write("/etc/cron.d/own", "0 3 * * * root /x/a\n")

    other = live.told()["changes"][0]["after"]
    live.write("/local-bin/aura-run", script.read_text(), 0o755)
    same = live.told()["changes"][0]["after"]

    assert " /opt/aura-agent/bin/aura-run -H " in other
    assert f" {LINKED} -H " in same


def test_a_user_has_an_installation_in_the_own_home(live: LiveHost, tmp_path: Path) -> None:
    """Only lines of one's own are wrapped then, and they are run by the same user."""
    installed = install(tmp_path / "other", "/home/bob/venv")
    live.mounts.append((str(installed), "/home/bob/venv"))
    live.path("/home/bob/venv").mkdir()
    live.path("/var/spool/cron/crontabs").chmod(0o1777)
    os.chown(live.path("/home/bob"), 4001, 4001)
    live.crontab("bob", "0 3 * * * /x/a\n")
    os.chown(live.path("/var/spool/cron/crontabs/bob"), 4001, 4001)

    ran = live.discover("--write", prefix="/home/bob/venv", uid=4001)

    assert ran.returncode == 0, ran.stderr
    assert "/home/bob/venv/bin/aura-run -H " in live.read("/var/spool/cron/crontabs/bob")


def test_a_program_that_hangs_is_given_up(tmp_path: Path) -> None:
    """After a bound of time, with all that it has started."""
    program = tmp_path / "aura-run"
    program.write_text("#!/bin/sh\nsleep 1000 & wait\n")
    program.chmod(0o755)

    reason = why_not_runnable(str(program), Account("root"), timeout_s=0.2)

    assert reason == f"root can't run {program}: it hasn't answered for 0.2 s"


def test_a_table_of_a_user_who_is_gone_stops_no_other(live: LiveHost) -> None:
    """Left alone, named with crontab's reason, and its jobs are not declared; the others are done, and undone."""
    live.crontab("bob", "0 3 * * * /x/a\n")
    live.write("/etc/cron.d/own", "0 4 * * * root /x/c\n")
    before = live.files()
    live.write("/etc/cron.deny", "bob\n")

    ran = live.discover("--write")

    assert ran.returncode == 1
    assert (
        "/var/spool/cron/crontabs/bob: crontab refuses it: bob is not allowed to use crontab; left alone" in ran.stderr
    )
    assert "Written: 2 of 3 files; " in ran.stdout
    assert "aura-run" in live.read("/etc/cron.d/own")
    assert live.read("/etc/aura-agent/conf.d/discovered.toml").count("[jobs.") == 1
    undone = live.discover("--undo")
    assert undone.returncode == 0, undone.stderr
    live.path("/etc/cron.deny").unlink()
    assert live.files() == before


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("mount -o remount,bind,ro", "Read-only file system"),
        ("chattr +i", "Operation not permitted: the file or its directory may be immutable"),
        ("full", "No space left on device"),
    ],
)
def test_a_directory_that_takes_nothing_stops_no_table(live: LiveHost, before: str, reason: str) -> None:
    """Read-only, immutable, full: the rest is done, and the exit status says that something was left."""
    directory = live.path("/etc/cron.d")
    table = live.write("/etc/cron.d/own", "0 4 * * * root /x/c\n" + "# and so on\n" * 300)
    live.crontab("bob", "0 3 * * * /x/a\n")
    if before == "chattr +i":
        if shutil.which("chattr") is None:
            pytest.skip("this machine lacks: chattr (the package e2fsprogs)")
        if subprocess.run(["chattr", "+i", str(table)], capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine lacks: immutable files; the file system of the temporary directory has none")
        script = ":"
    elif before == "full":
        script = (
            f"cp {table} {live.root}/own; mount -t tmpfs -o size=4k none {directory}; cp {live.root}/own {directory}"
        )
    else:
        script = f"mount --bind {directory} {directory}; {before} {directory}"
    try:
        ran = live.discover("--write", before=script)
    finally:
        if before == "chattr +i":
            subprocess.run(["chattr", "-i", str(table)], check=True)

    assert ran.returncode == 1
    assert f"/etc/cron.d/own: {reason}" in ran.stderr
    assert "Written: 2 of 3 files; " in ran.stdout
    assert "aura-run" in live.read("/var/spool/cron/crontabs/bob")
    assert [path.name for path in directory.iterdir()] == ["own"]
    assert "aura-run" not in table.read_text()


def _own_installation(live: LiveHost, tmp_path: Path) -> Path:
    """Return an installation of this host's alone, whose modes may be changed."""
    installed = install(tmp_path / "own")
    live.mounts.append((str(installed), "/opt/aura-agent"))
    return installed

"""A caller's umask: it is the job's, and takes nothing from what aura-run makes for itself."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_agent.devserver.database import open_database
from aura_agent.discover.changes import write
from aura_agent.discover.plan import Change
from tests.e2e.sites import Site
from tests.machine import needs, root
from tests.waiting import wait_until
from tests.wrapper.runs import AURA_RUN, QUEUE, Host

_UMASKS = [0o177, 0o777, 0o000]
_USER = ["setpriv", "--reuid=4001", "--regid=4001", "--clear-groups"]
_named = pytest.mark.parametrize("umask", _UMASKS, ids=lambda umask: f"{umask:04o}")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory of another user, where he can get at it."""
    with tempfile.TemporaryDirectory(prefix="aura-home-") as made:
        os.chown(made, 4001, 4001)
        yield Path(made)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _modes_below(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): _mode(path) for path in top.rglob("*")}


@_named
def test_store_and_its_parents_are_usable_whatever_the_umask(site: Site, umask: int) -> None:
    """The directories 0700, the files 0600, and what lies above them at least as good for its owner."""
    site.server.create_heartbeat("beat")
    site.extra["AURA_STATE_DIR"] = str(site.home / ".local/state/aura-agent")

    store = site.home / ".local/state/aura-agent"

    until_recorded = f"until [ -e {store}/runs ]; do sleep 0.01; done"
    for options in (["--no-wait"], ["--no-overlap"], []):
        ended = site.run("-H", "beat", *options, "--", "sh", "-c", until_recorded, umask=umask)
        assert (ended.returncode, ended.stderr) == (0, b"")

    assert _mode(site.home / ".local") & 0o722 == _mode(site.home / ".local/state") & 0o722 == 0o700
    assert _mode(store) == 0o700
    found = _modes_below(store)
    assert {"spool", "runs", "boots", "locks", "senders", "budget", "outbox.db"} <= found.keys()
    wrong = {name: oct(mode) for name, mode in found.items() if mode != (0o700 if (store / name).is_dir() else 0o600)}
    assert wrong == {}
    assert site.server.pings("beat")


@_named
def test_a_job_has_the_umask_of_its_caller(host: Host, umask: int) -> None:
    """Also in a second attempt, after our own files were made."""
    ended = host.run(*QUEUE, "--retries", "1", "--retry-delay", "0s", "--", "sh", "-c", "umask; exit 1", umask=umask)

    assert ended.stdout.decode().split() == [f"{umask:04o}"] * 2


@_named
def test_a_warning_is_remembered_whatever_the_umask(host: Host, umask: int) -> None:
    """Where it is kept is made like the store."""
    first = host.run("--no-wait", "--", "sh", "-c", "exit 0", umask=umask)
    again = host.run("--no-wait", "--", "sh", "-c", "exit 0", umask=umask)

    assert b"no heartbeat" in first.stderr
    assert again.stderr == b""
    assert _mode(host.state / "warned") == 0o700


@_named
def test_a_daemon_begins_with_any_umask(site: Site, umask: int) -> None:
    """Its sockets' directory lets all in, its store nobody."""
    site.log.touch()  # ours to read
    before = os.umask(umask)
    try:
        site.start()
    finally:
        os.umask(before)
    assert site.stop() == 0

    assert _mode(site.home / "run") == 0o755
    assert _mode(site.state) == 0o700
    assert {name for name, mode in _modes_below(site.state).items() if mode & 0o077 or not mode & 0o600} == set()


@_named
def test_other_private_files_are_usable_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The embedded Aura's database and the copies of what discover changes."""
    (tmp_path / "etc").mkdir()
    drop_in = "/etc/systemd/system/x.service.d/aura.conf"
    before = os.umask(umask)
    try:
        open_database(str(tmp_path / "aura.db")).close()
        change = Change(drop_in, None, "[Service]\n")
        kept = Path(write([change], lambda _: None, str(tmp_path), "/var/backups/aura", "1").backup or "")
    finally:
        os.umask(before)

    assert _mode(tmp_path / "aura.db") & 0o677 == 0o600
    assert [_mode(kept), _mode(kept.parent)] == [0o700, 0o700]
    assert _mode((tmp_path / drop_in.lstrip("/")).parent) == 0o755


def test_a_directory_of_anybody_keeps_its_mode(host: Host) -> None:
    """Only what we have made gets a mode from us."""
    host.extra["AURA_STATE_DIR"] = str(host.home / "shared/state")
    (host.home / "shared").mkdir()
    (host.home / "shared").chmod(0o1777)

    assert host.run(*QUEUE, "--", "true", umask=0o777).returncode == 0

    assert _mode(host.home / "shared") == 0o1777


@pytest.mark.root
@needs(root)
@pytest.mark.parametrize("place", ["", "state", "state/spool"])
def test_a_directory_of_ours_that_shuts_us_out_is_named(host: Host, home: Path, place: str) -> None:
    """Left by an older version: one line says which it is and what mends it."""
    (home / "state").mkdir()
    if place == "state/spool":
        (home / place).mkdir()
    for path in (home / "state", home / place):
        os.chown(path, 4001, 4001)
    (home / place).chmod(0o600)
    environment = host.environment | {"AURA_STATE_DIR": str(home / "state"), "TMPDIR": "/nonexistent"}
    command = [*_USER, AURA_RUN, *QUEUE, "--", "true"]

    ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, check=False)

    assert ended.returncode == 0
    line, *_ = ended.stderr.decode().splitlines()  # then what became of the ping from memory
    assert f"the mode 0600 of {(home / place).as_posix().rstrip('/')} shuts its owner out: run chmod u+rwx" in line
    (home / place).chmod(0o700)
    mended = subprocess.run(command, env=environment, cwd="/", capture_output=True, check=False)
    assert (mended.returncode, mended.stderr) == (0, b"")


@pytest.mark.root
@needs(root)
def test_a_user_with_a_strict_umask_gets_his_ping(site: Site, home: Path) -> None:
    """As dumps are made: ``umask 177``; the next run finds a store that works."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    environment = {
        **site.environment,
        "HOME": str(home),
        "AURA_CONFIG": "",
        "AURA_API_URL": site.server.base_url,
        "AURA_TOKEN": site.server.token,
    }
    for _ in range(2):
        command = [*_USER, AURA_RUN, "-H", "beat", "--", "true"]
        ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, umask=0o177, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
    wait_until(lambda: len(site.server.pings("beat")) == 2)

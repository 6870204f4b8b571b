"""A host that lacks something: it costs what depends on it, and the job and its ping go on."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.machine import mounts, needs, proc_mounts
from tests.waiting import wait_until
from tests.wrapper.runs import QUEUE, Host, is_alive

pytestmark = [
    pytest.mark.root,
    needs(mounts, proc_mounts),
]
_NO_SYS = "mount -t proc -o subset=pid proc /proc"
_NO_PROC = "mount -t tmpfs none /proc"
_NO_BOOT_ID = b"boot_id can't be read"


def _in(mounts: str, *command: str) -> list[str]:
    """Return what runs *command* where *mounts* have been done."""
    script = f'set -e; {mounts}; exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


def _run(site: Site, mounts: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        _in(mounts, AURA_RUN, *arguments), env=site.environment, cwd=site.home, capture_output=True, check=False
    )


@pytest.mark.parametrize("mounts", [_NO_SYS, _NO_PROC], ids=["no sys", "no proc"])
def test_without_a_boot_id_the_ping_is_sent_and_the_cause_named_once(site: Site, mounts: str) -> None:
    """ProcSubset=pid, and a chroot: a success is told, a failure is on record, one line a day says what is missing."""
    site.server.create_heartbeat("beat", expected_interval=3600)

    first = _run(site, mounts, "-H", "beat", "--", "true")
    second = _run(site, mounts, "-H", "beat", "--", "sh", "-c", "exit 7")

    assert (first.returncode, second.returncode) == (0, 7)
    assert first.stderr.count(_NO_BOOT_ID) == len(first.stderr.splitlines()) == 1
    assert second.stderr == b""
    assert len(site.server.pings("beat")) == 1
    assert [row[0] for row in site.rows("SELECT outcome FROM runs ORDER BY started_wall_ns")] == ["succeeded", "failed"]


def test_runs_with_and_without_a_boot_id_are_of_one_boot(site: Site) -> None:
    """A failure in the chroot withdraws a success from outside, and the other way round."""
    for name in ("one", "two"):
        site.server.create_heartbeat(name, expected_interval=3600)
    site.server.refuse()
    site.run("-H", "one", "--no-wait", "--", "true")
    _run(site, _NO_PROC, "-H", "one", "--no-wait", "--", "false")
    _run(site, _NO_PROC, "-H", "two", "--no-wait", "--", "true")
    site.run("-H", "two", "--no-wait", "--", "false")
    site.server.accept()

    assert site.agent("queue", "flush").returncode == 0

    assert {row["state"] for row in site.queue("--all")} == {"invalidated"}
    assert not site.server.pings("one") + site.server.pings("two")
    assert len((site.state / "boots").read_text().splitlines()) == 1


def test_a_daemon_knows_the_boot_for_a_wrapper_without_one(site: Site) -> None:
    """What is said over its socket is said in its own boot."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.start()

    ended = _run(site, _NO_PROC, "-H", "beat", "--", "true")

    assert (ended.returncode, ended.stderr) == (0, b"")
    wait_until(lambda: site.server.pings("beat"), what="the ping")
    assert site.rows("SELECT count(DISTINCT epoch) FROM entries") == [(1,)]


@pytest.mark.parametrize("mounts", [_NO_SYS, _NO_PROC, "mount -t tmpfs none /dev"], ids=["no sys", "no proc", "no dev"])
def test_a_daemon_runs_its_jobs_where_something_is_missing(site: Site, mounts: str) -> None:
    """They run, end at their time-out, ping; status says what is missing."""
    site.server.create_heartbeat("tick", expected_interval=3600)
    site.configure(
        '[jobs.tick]\nevery = "1s"\nshell = "echo; cat"\n'
        f'[jobs.slow]\nevery = "1h"\ntimeout = "0.3s"\nshell = "sleep 1000 & echo $! > {site.home}/pid; wait"\n'
    )
    with site.log.open("ab") as log:
        site.daemon = subprocess.Popen(
            _in(mounts, AURA_AGENT, "run"), env=site.environment, cwd=site.home, stderr=log, stdin=subprocess.DEVNULL
        )
    wait_until(lambda: site.server.pings("tick"), what="a ping of its job")
    assert site.agent("trigger", "slow").returncode == 0
    wait_until(lambda: any(event["job"] == "slow" for event in site.events("run.finished")), what="a time-out")
    status = site.agent("status")

    assert not is_alive(int((site.home / "pid").read_text()))
    assert (_NO_BOOT_ID.decode() in status.stdout.replace("\n", " ")) == ("/proc" in mounts)
    assert bool(site.events("surroundings.missing")) == ("/proc" in mounts)
    assert not site.events("run.crashed")
    assert site.stop() == 0


@pytest.mark.parametrize("mounts", [_NO_SYS, _NO_PROC], ids=["no sys", "no proc"])
def test_a_time_out_ends_the_children_without_proc(host: Host, mounts: str) -> None:
    """The group that we made can be ended by its number alone."""
    script = f"trap '' TERM; sleep 1000 & echo $! > {host.home}/pid; wait; wait"
    options = [*QUEUE, "--timeout", "0.3s", "--kill-after", "0.2s", "--", "sh", "-c", script]

    ended = subprocess.run(
        _in(mounts, AURA_RUN, *options), env=host.environment, cwd=host.home, capture_output=True, check=False
    )

    assert ended.returncode == 124
    assert b"internal error" not in ended.stderr
    assert not is_alive(int((host.home / "pid").read_text()))


def test_a_job_outside_its_group_is_ended_without_proc(host: Host) -> None:
    """The whole group hears of it, what has left it doesn't: that is said."""
    options = [*QUEUE, "--timeout", "0.2s", "--", "sleep", "1000"]

    ended = subprocess.run(
        _in(_NO_PROC, AURA_RUN, *options), env=host.environment, cwd=host.home, capture_output=True, check=False
    )

    assert ended.returncode == 124
    assert b"process group, without /proc all that can be found" in ended.stderr


@pytest.mark.parametrize(
    "mounts",
    [
        "mount -t tmpfs none /dev",
        "mount -t tmpfs none /sys; mount -t tmpfs none /dev/shm",
        "for f in passwd group nsswitch.conf hosts resolv.conf; do mount --bind /dev/null /etc/$f; done",
        "exec <&- >&-",
        "mkdir gone; cd gone; rmdir ../gone",
        "export LANG=xx_YY LC_ALL=zz TZ=No/Where TMPDIR=/nonexistent XDG_RUNTIME_DIR=relative; unset HOME",
    ],
    ids=["dev", "sys and shm", "files of etc", "descriptors", "directory", "variables"],
)
def test_what_else_is_missing_costs_no_ping(site: Site, mounts: str) -> None:
    """None of it is a condition of everything."""
    site.server.create_heartbeat("beat", expected_interval=3600)

    ended = _run(site, mounts, "-H", "beat", "--", "sh", "-c", "kill -TERM $$")
    again = _run(site, mounts, "-H", "beat", "--", "true")

    assert ended.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert again.returncode == 0
    assert len(site.server.pings("beat")) == 1


@pytest.mark.parametrize(
    "place", ["/proc/store", "/proc/self/fd/a/b/store", "unmounted/me/.local/store", "/dev/null/x"]
)
def test_store_that_cannot_be_created_costs_no_ping(site: Site, place: str) -> None:
    """A home on a disk that isn't mounted is often a link that leads nowhere; /proc takes no directory."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    (site.home / "unmounted").symlink_to(site.home / "no such disk")
    site.extra["AURA_STATE_DIR"] = str(site.home / place)

    ended = site.run("-H", "beat", "--", "true")

    assert ended.returncode == 0
    (line,) = ended.stderr.decode().splitlines()
    assert (
        line.endswith("o such file or directory: this run's ping can't be kept, only sent at once") or "Not a" in line
    )
    assert len(site.server.pings("beat")) == 1


def test_a_home_that_is_no_path_is_not_taken_for_one(tmp_path: Path) -> None:
    """A relative HOME would make a store of its own in each directory."""
    environment = {"PATH": os.environ["PATH"], "HOME": "relative", "AURA_SOCKET": str(tmp_path / "none")}
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    subprocess.run([*user, AURA_RUN, *QUEUE, "--", "true"], env=environment, cwd="/tmp", check=True)

    assert not Path("/tmp/relative").exists()

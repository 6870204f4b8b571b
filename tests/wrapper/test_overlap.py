"""``--no-overlap``: who counts as still running."""

import os
import subprocess

import pytest

from tests.waiting import wait_until
from tests.wrapper.runs import AURA_RUN, Host

_NO_OVERLAP = ("--no-wait", "--no-overlap", "-H", "beat", "--")
_IN_A_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


def test_a_job_that_is_over_in_no_time_leaves_the_next_its_turn(host: Host) -> None:
    """It was a zombie before we could note who it is; that must not count as running for ever after."""
    assert [host.run(*_NO_OVERLAP, "true").returncode for _ in range(10)] == [0] * 10


def test_a_working_directory_that_is_gone_keeps_no_job_from_running(host: Host) -> None:
    """A relative store is nowhere then: that is one line on stderr, and the job runs."""
    command = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", AURA_RUN, *_NO_OVERLAP]
    environment = host.environment | {"AURA_STATE_DIR": "store"}
    run = subprocess.run(
        [*command, "sh", "-c", "echo ran; exit 3"],
        cwd=host.home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stdout) == (3, "ran\n")
    assert "Traceback" not in run.stderr
    assert "internal error" not in run.stderr
    assert "--no-overlap can't be kept: store: No such file or directory" in run.stderr


def test_the_turn_is_in_the_store_that_the_config_names(host: Host) -> None:
    """A container's only writable place may be that one."""
    config = host.home / "config.toml"
    config.write_text(f'[agent]\nstate_dir = "{host.home}/named"\n')
    nowhere = {"AURA_STATE_DIR": "", "XDG_STATE_HOME": "/proc/none", "AURA_CONFIG": str(config)}

    ran = host.run(*_NO_OVERLAP, "true", env=host.environment | nowhere)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert len(list((host.home / "named" / "locks").iterdir())) == 1


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace takes root")
def test_containers_that_share_a_store_see_each_other_run(host: Host) -> None:
    """Their pids mean nothing to each other, the lock does; once it is free, a pid of theirs is not mistaken for ours."""
    container = subprocess.Popen(
        [*_IN_A_PID_NAMESPACE, AURA_RUN, *_NO_OVERLAP, "sh", "-c", "echo; read x"],
        env=host.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert container.stdout is not None
    container.stdout.readline()
    (lock,) = (host.state / "locks").iterdir()
    wait_until(lock.read_text, what="who the job is")
    meanwhile = host.run(*_NO_OVERLAP, "sh", "-c", "echo; read x")
    container.communicate(b"\n")
    pid, _, boot, namespace = lock.read_text().split()
    lock.write_text(f"{os.getpid()} {_started(os.getpid())} {boot} {namespace}")
    afterwards = host.run(*_NO_OVERLAP, "sh", "-c", "echo; read x")

    assert (container.returncode, meanwhile.returncode, afterwards.returncode) == (0, 75, 1)
    assert int(pid) < 100


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[19]

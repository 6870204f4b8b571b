"""``--no-overlap``: who counts as still running."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.machine import needs, pid_namespaces
from tests.waiting import wait_until
from tests.wrapper.runs import AURA_RUN, Host, children

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


def test_turn_ends_with_the_job_not_with_the_delivery(host: Host) -> None:
    """Aura accepts the connection and never answers: the job is over, and its next run must not be skipped."""
    with socket.create_server(("127.0.0.1", 0)) as aura:
        host.extra = {"AURA_PING_URL": f"http://127.0.0.1:{aura.getsockname()[1]}/ping/x"}
        first = host.start("--wait", "60s", "--no-overlap", "--", "sh", "-c", "exit 0")
        connection, _ = aura.accept()
        with connection:
            second = host.run("--no-wait", "--no-overlap", "--", "sh", "-c", "exit 0")
            still_delivers = first.poll() is None
            first.send_signal(signal.SIGTERM)
            first.communicate()

    assert (second.returncode, still_delivers, first.returncode) == (0, True, 0)


def test_turn_ends_while_the_daemon_still_takes_the_report(host: Host, tmp_path: Path) -> None:
    """A daemon that reads the report and doesn't answer."""
    path = str(tmp_path / "hung.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(path)
        daemon.listen()
        first = host.start(*_NO_OVERLAP, "true", env=host.environment | {"AURA_SOCKET": path})
        connection, _ = daemon.accept()
        with connection, connection.makefile("rb") as lines:
            while not lines.readline().startswith(b"run "):
                pass
            second = host.run(*_NO_OVERLAP, "true")
            first.communicate()

    assert (first.returncode, second.returncode) == (0, 0)


def test_turn_ends_while_held_output_waits_for_its_reader(host: Host) -> None:
    """The job has failed and is over; nobody reads what it printed."""
    quiet = ("--quiet", *_NO_OVERLAP, "sh", "-c", "seq 1 100000; exit 3")
    first = host.start(*quiet)
    assert first.stdout is not None
    first.stdout.read(1)
    second = host.run(*quiet)
    still_prints = first.poll() is None
    first.communicate()

    assert (second.returncode, still_prints, first.returncode) == (3, True, 3)


def test_turn_is_kept_between_attempts(host: Host) -> None:
    """A run that waits for its retry goes on."""
    first = host.start("--retries", "1", "--retry-delay", "1h", *_NO_OVERLAP, "sh", "-c", "echo; exit 3")
    assert first.stdout is not None
    first.stdout.readline()
    (lock,) = (host.state / "locks").iterdir()
    wait_until(lambda: not children(first.pid), what="the end of the first attempt")
    second = host.run(*_NO_OVERLAP, "sh", "-c", "echo; exit 3")
    first.send_signal(signal.SIGTERM)
    first.communicate()

    assert (second.returncode, first.returncode) == (75, 3)
    assert lock.read_bytes() == b""


@pytest.mark.root
@needs(pid_namespaces)
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
    pid, _, boot, namespace = lock.read_text().split()
    meanwhile = host.run(*_NO_OVERLAP, "sh", "-c", "echo; read x")
    container.communicate(b"\n")
    lock.write_text(f"{os.getpid()} {_started(os.getpid())} {boot} {namespace}")
    afterwards = host.run(*_NO_OVERLAP, "sh", "-c", "echo; read x")

    assert (container.returncode, meanwhile.returncode, afterwards.returncode) == (0, 75, 1)
    assert int(pid) < 100


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[19]

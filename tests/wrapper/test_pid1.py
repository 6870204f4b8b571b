"""aura-run as process 1, a container's entrypoint: in a pid namespace of its own. Takes root."""

import os
import signal
import subprocess

import pytest

from tests.machine import needs, pid_namespaces
from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, children, state

pytestmark = [pytest.mark.root, needs(pid_namespaces)]

_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _start(
    host: Host, *job: str, options: tuple[str, ...] = (), stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """Start aura-run as process 1; whatever else of the namespace is left ends with it."""
    command = [*_NAMESPACE, AURA_RUN, *QUEUE, *options, "--", *job]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=host.environment, cwd=host.home, stdin=stdin, stdout=pipe, stderr=pipe)


def _run(host: Host, *job: str) -> tuple[int, bytes]:
    started = _start(host, *job)
    output, errors = started.communicate(timeout=60)
    assert errors == b""
    return started.returncode, output


@behaviour("exit status", bare="its own")
@pytest.mark.parametrize("code", [0, 7, 255])
def test_process_1_has_the_jobs_exit_status(host: Host, code: int) -> None:
    """It is the container's."""
    assert _run(host, "sh", "-c", f"test $PPID = 1 && exit {code}") == (code, b"")


@behaviour("the job is killed by a signal", bare="only SIGKILL and SIGSTOP from outside can end it", ours="128 + n")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_process_1_tells_the_signal_by_its_status(host: Host, signum: int) -> None:
    """It can't die of a signal of its own (pid_namespaces(7))."""
    assert _run(host, "sh", "-c", f"kill -{int(signum)} $$") == (128 + signum, b"")
    assert host.report()["signal"] == str(int(signum))


@behaviour(
    "SIGTERM from outside", bare="is ignored unless it handles it", ours="ends the job: it isn't process 1 itself"
)
def test_process_1_forwards_sigterm(host: Host) -> None:
    """A job that handles it says how the container ends; any other dies of it."""
    for script, status in (("trap 'exit 3' TERM; echo ready; read x; exit 9", 3), ("echo ready; exec sleep 1000", 143)):
        outside = _start(host, "sh", "-c", script, stdin=subprocess.PIPE)
        assert outside.stdout is not None
        assert outside.stdout.readline() == b"ready\n"
        (init,) = children(outside.pid)
        os.kill(init, signal.SIGTERM)

        assert outside.wait(timeout=30) == status
        outside.communicate()


@behaviour(
    "orphans that end",
    bare="stay zombies unless it reaps them",
    ours="are reaped while the job runs, and before a retry",
)
def test_process_1_reaps_orphans(host: Host) -> None:
    """Grandchildren whose parent has gone leave no zombie in the process table."""
    script = (
        "for n in 1 2 3 4 5; do (sh -c 'echo $$ >>ended' &); done;"
        " until test $(wc -l <ended) = 5; do sleep .02; done;"
        " while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep .02; done; echo none left"
    )

    assert _run(host, "sh", "-c", script) == (0, b"none left\n")


def test_process_1_reaps_orphans_before_a_retry_too(host: Host) -> None:
    """What ends in that pause is no zombie until the job runs again."""
    script = "(until test -e go; do sleep .02; done; echo >ended) & exit 7"
    outside = _start(host, "sh", "-c", script, options=("--retries", "1", "--retry-delay", "1000s"))
    wait_until((host.state / "runs").exists)
    (init,) = children(outside.pid)
    wait_until(lambda: len(children(init)) == 1 and state(init) == "S")

    (host.home / "go").touch()
    wait_until((host.home / "ended").exists)
    wait_until(lambda: children(init) == [])
    os.kill(init, signal.SIGTERM)

    assert outside.wait(timeout=30) == 7
    outside.communicate()


@behaviour("dispositions and mask of signals", bare="default", ours="the same for the job")
def test_a_job_of_process_1_has_default_dispositions(host: Host) -> None:
    """Nothing is ignored or blocked but what would be without us."""
    show = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]
    bare = subprocess.run([*_NAMESPACE, *show], capture_output=True, check=True)

    status, output = _run(host, *show)

    assert status == 0
    assert _masks(output) == _masks(bare.stdout)


def _masks(lines: bytes) -> list[int]:
    """Return the masks without glibc's own two signals, which its posix_spawn leaves ignored."""
    return [int(line.split()[1], 16) & ~(0b11 << 31) for line in lines.splitlines()]


def test_process_1_ends_with_its_job_whatever_is_left(host: Host) -> None:
    """A grandchild that goes on doesn't keep the container; the kernel ends it."""
    assert _run(host, "sh", "-c", "setsid sleep 1000 & exit 5") == (5, b"")
    wait_until(lambda: host.report()["code"] == "5")

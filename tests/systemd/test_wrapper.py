"""aura-run around and inside what only a booted machine has: units, systemd-run, sudo."""

from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine
from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

# No daemon takes what these runs report: it stays in the stores of root and of the user "stranger".
_LEFT_BEHIND = ("/var/lib/aura-agent", "/home/stranger/.local")
_AURA_RUN = ("/opt/aura-agent/bin/aura-run", "--no-wait", "-H", "beat", "--")
_JOB = ("sh", "-c", "echo out; echo err >&2; exit 7")
_TRANSIENT = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect")
_SUDO = ("sudo", "-n", "-u", "backup-user")


@pytest.fixture(autouse=True, scope="module")
def _nothing_left(machine: Machine) -> Iterator[None]:
    yield
    machine.run("rm", "-rf", *_LEFT_BEHIND)


@behaviour("`systemd-run --wait --pipe`, `sudo` around it", bare="hand its status and output on")
@pytest.mark.parametrize("program", [_TRANSIENT, ("sudo", "-n")], ids=["systemd-run", "sudo"])
def test_programs_around_us_see_what_they_would_see(machine: Machine, program: tuple[str, ...]) -> None:
    """A transient unit, and another session's rights."""
    bare, ours = machine.try_run(*program, *_JOB), machine.try_run(*program, *_AURA_RUN, *_JOB)

    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert (ours.returncode, ours.stdout) == (7, "out\n")


@behaviour("`systemd-run --wait --pipe`, `sudo` inside it", bare="hand the job's status on")
@pytest.mark.parametrize("program", [_TRANSIENT, _SUDO], ids=["systemd-run", "sudo"])
def test_programs_inside_us_work_as_without_us(machine: Machine, program: tuple[str, ...]) -> None:
    """They are the job, whoever runs what they start."""
    bare, ours = machine.try_run(*program, *_JOB), machine.try_run(*_AURA_RUN, *program, *_JOB)

    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert (ours.returncode, ours.stdout) == (7, "out\n")


@behaviour("SIGTERM to it, with `sudo` inside", bare="sudo passes it on", ours="the same, though sudo is root's")
def test_sigterm_reaches_a_job_behind_sudo(machine: Machine) -> None:
    """As an ordinary user who may use sudo: it keeps that user as its real one, who so may signal it (kill(2))."""
    machine.write("/etc/sudoers.d/stranger", "stranger ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    unit = ("--unit=behind-sudo", "--uid=stranger", "--setenv=HOME=/home/stranger", "--property=KillMode=mixed")
    machine.run("systemd-run", "--quiet", *unit, *_AURA_RUN, "sudo", "-n", "sleep", "86397")
    try:
        wait_until(lambda: machine.try_run("pgrep", "-fx", "sleep 86397").returncode == 0)
        main = machine.show("behind-sudo", "MainPID")
        machine.run("kill", "-TERM", main)

        wait_until(lambda: machine.show("behind-sudo", "ActiveState") != "active")
        assert machine.try_run("pgrep", "-fx", "sleep 86397").returncode == 1
    finally:
        machine.try_run("systemctl", "stop", "behind-sudo")
        machine.try_run("systemctl", "reset-failed", "behind-sudo")
        machine.run("rm", "/etc/sudoers.d/stranger")


@behaviour("`ExecStart=`, and `systemctl stop`", bare="SIGTERM ends it")
def test_stopping_the_unit_ends_the_job(machine: Machine) -> None:
    """The job is told, and systemd sees a clean stop: no SIGKILL was needed."""
    machine.run("systemd-run", "--quiet", "--unit=stopped", *_AURA_RUN, "sleep", "86396")
    wait_until(lambda: machine.try_run("pgrep", "-fx", "sleep 86396").returncode == 0)

    machine.run("systemctl", "stop", "stopped")

    assert machine.try_run("pgrep", "-fx", "sleep 86396").returncode == 1
    assert machine.show("stopped", "Result") == "success"


_COUNT = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("told", 1 + (signal.sigtimedwait({signal.SIGTERM}, 1.0) is not None), flush=True)
"""


@behaviour("`systemctl stop` of a unit with `KillMode=mixed`", bare="SIGTERM, once")
def test_a_unit_that_tells_only_its_main_process_tells_the_job_once(machine: Machine) -> None:
    """systemd tells us alone, and we the job; with control-group, its default, both would."""
    job = ("/opt/aura-agent/bin/python", "-c", _COUNT)
    machine.run("systemd-run", "--quiet", "--unit=mixed", "--property=KillMode=mixed", *_AURA_RUN, *job)
    wait_until(lambda: "ready" in machine.journal("-u", "mixed"))

    machine.run("systemctl", "stop", "mixed")

    wait_until(lambda: "told 1\n" in machine.journal("-u", "mixed"))

"""In company: pipelines, grandchildren, parents that die, programs around us and inside us, and many of us at once."""

import os
import signal
import subprocess
import sys

import pytest

from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, is_alive, state

_RUN = [AURA_RUN, *QUEUE, "--"]
_BOTH = pytest.mark.parametrize("command", [[], _RUN], ids=["bare", "aura-run"])
_PROGRAMS = [
    ["setsid", "--wait"],
    ["timeout", "1000"],
    ["flock", "lock"],
    ["nohup"],
    ["nice", "-n", "5"],
    ["ionice", "-c", "3"],
    ["stdbuf", "-o", "L"],
    ["env", "LANG=C"],
    ["sh", "-c", '"$@"', "sh"],
    ["bash", "-c", 'exec "$@"', "bash"],
    ["xargs", "-a", "/dev/null"],
]


@behaviour("`… | head -1`: the reader of a pipeline leaves", bare="SIGPIPE ends it: 141 in PIPESTATUS")
@_BOTH
def test_a_pipelines_end_ends_the_job(host: Host, command: list[str]) -> None:
    """A job that prints for ever ends with its reader."""
    script = '"$@" yes | head -n 1; echo ${PIPESTATUS[0]}'

    done = subprocess.run(
        ["bash", "-c", script, "bash", *command], env=host.environment, capture_output=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == (b"y\n141\n", b"")


@behaviour("a grandchild in the background keeps the pipe open", bare="it returns at once", ours="so do we")
@_BOTH
def test_a_background_grandchild_does_not_hold_us(host: Host, command: list[str]) -> None:
    """We wait for the job alone, whatever it left behind; and what it left behind lives on."""
    job = subprocess.Popen([*command, "sh", "-c", "sleep 1000 & echo $!"], env=host.environment, stdout=subprocess.PIPE)
    assert job.stdout is not None
    grandchild = int(job.stdout.readline())

    assert job.wait(timeout=30) == 0
    assert is_alive(grandchild)
    os.kill(grandchild, signal.SIGKILL)
    job.communicate()


@behaviour(
    "a job that makes a daemon of itself",
    bare="returns when its first process ends",
    ours="the same; the daemon lives on",
)
@_BOTH
def test_a_job_that_daemonizes_is_over_for_us_too(host: Host, command: list[str]) -> None:
    """Forked twice, in a session of its own, without our descriptors."""
    program = (
        "import os,sys\n"
        "if os.fork(): os._exit(4)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "nothing = os.open('/dev/null', os.O_RDWR)\n"
        "for fd in range(3): os.dup2(nothing, fd)\n"
        "open('pid', 'w').write(f'{os.getpid()}.')\n"
        "os.execvp('sleep', ['sleep', '1000'])\n"
    )
    done = subprocess.run(
        [*command, sys.executable, "-c", program],
        env=host.environment,
        cwd=host.home,
        capture_output=True,
        timeout=60,
        check=False,
    )
    noted = host.home / "pid"
    wait_until(lambda: noted.exists() and noted.read_text().endswith("."))
    daemon = int(noted.read_text()[:-1])

    assert done.returncode == 4
    assert is_alive(daemon)
    os.kill(daemon, signal.SIGKILL)


@behaviour("its parent dies first", bare="it goes on", ours="job and aura-run go on, and the outcome is reported")
def test_the_death_of_our_parent_changes_nothing(host: Host) -> None:
    """Also that of who reads our output."""
    script = '"$@" & echo $!; read x; kill -9 $$'
    parent = subprocess.Popen(
        ["sh", "-c", script, "sh", *_RUN, "sh", "-c", "until test -e go; do sleep .02; done; exit 6"],
        env=host.environment,
        cwd=host.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    wrapper = int(parent.stdout.readline())
    parent.stdin.close()
    parent.stdout.close()

    assert parent.wait() == -signal.SIGKILL
    assert is_alive(wrapper)
    (host.home / "go").touch()
    wait_until(lambda: not is_alive(wrapper))
    wait_until(lambda: host.reports() != [])
    assert host.report()["code"] == "6"


def _ran(host: Host, command: list[str]) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command,
        env=host.environment,
        cwd=host.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


@behaviour(
    "`setsid`, `timeout`, `flock`, `nohup`, `nice`, `ionice`, `stdbuf`, `env`, a shell, `xargs` around it",
    bare="hand its status on",
)
@pytest.mark.parametrize("program", _PROGRAMS, ids=lambda program: program[0])
def test_programs_around_us_see_what_they_would_see(host: Host, program: list[str]) -> None:
    """Output and status are those of the bare command under the same program."""
    job = ["sh", "-c", "echo out; echo err >&2; exit 7"]

    bare, ours = _ran(host, [*program, *job]), _ran(host, [*program, *_RUN, *job])

    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert host.report()["code"] == "7"


@behaviour("the same programs inside it", bare="hand the job's status on")
@pytest.mark.parametrize("program", _PROGRAMS, ids=lambda program: program[0])
def test_programs_inside_us_work_as_without_us(host: Host, program: list[str]) -> None:
    """They are the job."""
    command = [*program, "sh", "-c", "echo out; echo err >&2; exit 7"]

    bare, ours = _ran(host, command), _ran(host, [*_RUN, *command])

    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert host.report()["code"] == str(bare.returncode)


@behaviour("`timeout` around it, and time is up", bare="124, and the job is gone")
@_BOTH
def test_a_timeout_around_us_ends_the_job(host: Host, command: list[str]) -> None:
    """It tells us, and we the job: no orphan."""
    done = _ran(host, ["timeout", "0.5", *command, "sh", "-c", "echo $$; exec sleep 1000"])

    assert done.returncode == 124
    assert state(int(done.stdout)) == ""


@behaviour(
    "`flock` inside it",
    bare="holds the lock as long as the job runs",
    ours="the same; around it `flock` holds as long as aura-run delivers, too",
)
def test_a_lock_is_not_held_by_our_delivery(host: Host) -> None:
    """Nothing of ours inherits it: it is free as soon as the job has ended."""
    job = host.start(*QUEUE, "--", "flock", "lock", "sh", "-c", "echo; read x", stdin=subprocess.PIPE)
    assert job.stdout is not None
    job.stdout.readline()
    taken = _ran(host, ["flock", "-n", "lock", "true"]).returncode
    job.communicate(b"\n")

    assert (taken, _ran(host, ["flock", "-n", "lock", "true"]).returncode) == (1, 0)


@behaviour("200 at once", bare="each has its own status", ours="the same, and each run is reported once")
def test_two_hundred_at_once_do_not_mix(host: Host) -> None:
    """They share one store, and are all under way before the first may end."""
    gate, opener = os.pipe()
    jobs = [
        host.start(
            *QUEUE, "--", "sh", "-c", f"echo >>started; read x; exit {number}", stdin=gate, stderr=subprocess.DEVNULL
        )
        for number in range(200)
    ]
    started = host.home / "started"
    wait_until(lambda: started.exists() and started.stat().st_size == 200, 60.0)
    os.close(opener)
    for job in jobs:
        job.communicate()
    os.close(gate)

    assert [job.returncode for job in jobs] == list(range(200))
    reports = host.reports()
    assert sorted(int(report["code"]) for report in reports) == list(range(200))
    assert len({report["run"] for report in reports}) == 200

"""aura-run and its job: real processes, as the caller and the job see them."""

import os
import resource
import signal
import subprocess
import sys
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, is_alive


@behaviour("exit status, 0 to 255", bare="its own")
def test_every_exit_status_is_the_jobs(host: Host) -> None:
    """Whatever the job says, from 0 to 255, the caller hears."""
    for first in range(0, 256, 16):
        jobs = [host.start("--", "sh", "-c", f"exit {code}") for code in range(first, first + 16)]
        for job in jobs:
            job.communicate()

        assert [job.returncode for job in jobs] == list(range(first, first + 16))


def _deadly() -> list[int]:
    """Return the signals that end a process unless it says otherwise (signal(7)); glibc keeps 32 and 33 for itself."""
    spared = {*(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)}
    stopping = {*(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)}
    return sorted({*map(int, signal.valid_signals())} - spared - stopping)


@behaviour("death by any signal", bare="its caller sees the signal", ours="the same: we die of it too")
@pytest.mark.parametrize("signum", _deadly())
def test_a_job_killed_by_a_signal_takes_us_along(host: Host, signum: int) -> None:
    """The caller sees the same death as without us."""
    kill = ["sh", "-c", f"kill -{signum} $$"]
    bare = subprocess.run(kill, cwd=host.home, check=False)

    ended = host.run(*QUEUE, "--", *kill)

    assert ended.returncode == bare.returncode == -signum
    assert host.report()["outcome"] == "killed"
    assert host.report()["signal"] == str(signum)


@behaviour("core dumps", bare="one", ours="one, that of the job")
def test_a_job_that_dumps_core_leaves_its_own_and_none_of_ours(host: Host) -> None:
    """Where cores are wanted, there is one: that of the process that went wrong."""

    def want_cores() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    job = host.start(*QUEUE, "--", "sh", "-c", "kill -SEGV $$", preexec_fn=want_cores)
    _, status = os.waitpid(job.pid, 0)
    job.returncode = status
    job.communicate()

    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGSEGV, False)


def test_no_config_no_token_no_network(host: Host) -> None:
    """The job runs, its status comes through, and one line says that nothing names a heartbeat; once a day."""
    first = host.run("--", "sh", "-c", "exit 42")
    second = host.run("--", "sh", "-c", "exit 42")

    assert (first.returncode, second.returncode) == (42, 42)
    assert len(first.stderr.splitlines()) == 1
    assert b"-H" in first.stderr
    assert second.stderr == b""
    assert host.reports() == []


@behaviour(
    "a command that can't be executed, or isn't there",
    bare="the shell says why: 126, 127",
    ours="the same status and words, behind `aura-run:`",
)
@pytest.mark.parametrize(
    ("make", "command", "status", "text"),
    [
        ("", "no-such-command", 127, "no-such-command: command not found"),
        ("", "./missing", 127, "./missing: No such file or directory"),
        ("touch plain", "./plain", 126, "./plain: Permission denied"),
        ("mkdir folder", "./folder", 126, "./folder: Is a directory"),
        (
            "cp /dev/null nuls; truncate -s 9 nuls; chmod +x nuls",
            "./nuls",
            126,
            "./nuls: cannot execute binary file: Exec format error",
        ),
        (
            "printf '#!/no/sh\\n' > lost; chmod +x lost",
            "./lost",
            127,
            "./lost: cannot execute: required file not found",
        ),
        ("ln -s loop loop", "./loop", 126, "./loop: Too many levels of symbolic links"),
        ("", "x" * 300, 127, f"{'x' * 300}: command not found"),
    ],
)
def test_a_command_that_cannot_start_is_said_as_the_shell_would(
    host: Host, make: str, command: str, status: int, text: str
) -> None:
    """127 not found, 126 not executable, one line, and an outcome that withdraws."""
    subprocess.run(["sh", "-c", make], cwd=host.home, check=True)
    shell = subprocess.run(["bash", "-c", command], cwd=host.home, capture_output=True, text=True, check=False)
    assert (shell.returncode, shell.stderr) == (status, f"bash: line 1: {text}\n")

    ended = host.run(*QUEUE, "--", command)

    assert ended.returncode == status
    assert ended.stderr.decode() == f"aura-run: {text}\n"
    assert host.report()["outcome"] == "not_started"


def test_a_bad_directory_in_path_hides_no_command_behind_it(host: Host) -> None:
    """A loop of links, a file, a name that is too long: what a shell finds, we find."""
    (host.home / "loop").symlink_to("loop")
    (host.home / "file").touch()
    bad = [str(host.home / "loop"), str(host.home / "file"), "/" + "x" * 300, "/nowhere"]
    host.extra = {"PATH": ":".join([*bad, os.environ["PATH"]])}

    ended = host.run(*QUEUE, "--", "sh", "-c", "exit 5")

    assert (ended.returncode, ended.stderr) == (5, b"")


def test_no_line_of_ours_waits_for_a_reader(host: Host) -> None:
    """A pipe of one page that nobody reads, and a line that is longer: it is cut."""
    read, write = os.pipe()
    page_bytes = fcntl(write, F_SETPIPE_SZ, 1)

    ended = host.run(*QUEUE, "--", "x" * page_bytes, capture_output=False, stderr=write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()

    assert ended.returncode == 127
    assert said.startswith(b"aura-run: xxx")
    assert said.endswith(b"x\n")


@behaviour("a script without `#!`", bare="a shell, and execvp(3), run it by /bin/sh")
def test_a_script_without_interpreter_line_is_run_by_sh(host: Host) -> None:
    """As execvp(3) does."""
    script = host.home / "plain.sh"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)

    assert host.run(*QUEUE, "--", "./plain.sh", "x").stdout == b"./plain.sh x\n"


@behaviour("`--no-overlap` while it runs, if only as an orphan", bare="-", ours="isn't run: 75")
def test_no_overlap_skips_with_75(host: Host) -> None:
    """A second one doesn't run, also while only the orphan of a killed wrapper goes on."""
    first = host.start(*QUEUE, "--no-overlap", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert first.stdout is not None
    orphan = int(first.stdout.readline())

    second = host.run(*QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")
    wait_until(
        lambda: any((host.state / "locks").iterdir()) and b" " in next((host.state / "locks").iterdir()).read_bytes()
    )
    first.kill()
    first.wait()
    third = host.run(*QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")
    os.kill(orphan, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not is_alive(orphan))
    fourth = host.run(*QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")

    assert [ended.returncode for ended in (second, third, fourth)] == [75, 75, 0]
    assert (host.home / "ran").exists()


@pytest.mark.parametrize(
    ("command", "ref"),
    [
        ("./backup.sh", "auto:backup"),
        ("./nightly.tar.py", "auto:nightly.tar"),
        ("./plain", "auto:plain"),
    ],
)
def test_a_command_lends_its_name(host: Host, command: str, ref: str) -> None:
    """With no flags at all, backup.sh is known as backup."""
    script = host.home / command
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)

    assert host.run("--no-wait", "--", command).returncode == 0
    assert host.report()["ref"] == ref


@pytest.mark.parametrize("carrier", ["sh", "python3", "env", "nice", "timeout"])
def test_an_interpreter_lends_no_name(host: Host, carrier: str) -> None:
    """What it runs would have one; a guess could feed the wrong heartbeat."""
    arguments = {"sh": ["-c", ":"], "python3": ["-c", ""], "timeout": ["5", "true"]}.get(carrier, ["true"])

    ended = host.run("--no-wait", "--", carrier, *arguments)

    assert (ended.returncode, host.reports()) == (0, [])
    assert b"-H" in ended.stderr


@behaviour(
    "before the job starts", bare="-", ours="one small script and three cached modules; no `re`, nothing compiled"
)
def test_the_installed_command_itself_loads_next_to_nothing(host: Host) -> None:
    """The launcher that pip makes would import re, and a script is compiled anew at each start."""
    loaded = _imported([AURA_RUN, *QUEUE, "--", "true"], host.environment)
    bare = _imported(["-c", "pass"], host.environment)

    ours = [name for name in loaded if name not in bare]
    before = ours[: ours.index("aura_agent.wrapper.main")]  # the rest is loaded beside the job, or after it
    assert {name for name in before if not name.startswith("aura_agent")} <= {"errno", "gc", "time"}
    assert len(before) <= 8
    assert "re" not in ours
    assert len(Path(AURA_RUN).read_text().splitlines()) < 10


def _imported(command: list[str], environment: dict[str, str]) -> list[str]:
    """Return the modules that Python imports for *command*, in the order in which they are complete."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], env=environment, capture_output=True, check=True
    )
    return [line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()[1:]]


def test_nothing_heavy_is_imported_before_or_beside_the_job(host: Host) -> None:
    """The way with a daemon or the spool needs no HTTP client, log library, event loop or command line library."""
    program = (
        "import sys, os\n"
        "leave = os._exit\n"
        "def tell(status):\n"
        "    os.write(1, ' '.join(sorted(sys.modules)).encode())\n"
        "    leave(status)\n"
        "os._exit = tell\n"
        "from aura_agent.wrapper.main import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *QUEUE, "--", "true"], env=host.environment, capture_output=True, check=True
    )

    imported = set(ended.stdout.decode().split())
    assert "aura_agent.report.spool" in imported
    heavy = {
        "httpx",
        "structlog",
        "asyncio",
        "click",
        "sqlite3",
        "json",
        "re",
        "socket",
        "signal",
        "subprocess",
        "typing",
    }
    assert imported & (heavy - set(_at_start())) == set()


def _at_start() -> list[str]:
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True)
    return bare.stdout.decode().split()

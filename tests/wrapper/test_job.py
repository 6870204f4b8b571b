"""aura-run and its job: real processes, as the caller and the job see them."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.wrapper.runs import AURA_RUN, Host

_QUEUE = ("--no-wait", "-H", "beat")


def test_every_exit_status_is_the_jobs(host: Host) -> None:
    """Whatever the job says, from 0 to 255, the caller hears."""
    for first in range(0, 256, 16):
        jobs = [host.start(*_QUEUE, "--", "sh", "-c", f"exit {code}") for code in range(first, first + 16)]
        for job in jobs:
            job.communicate()

        assert [job.returncode for job in jobs] == list(range(first, first + 16))


def _deadly() -> list[int]:
    """Return the signals that end a process unless it says otherwise (signal(7)); glibc keeps 32 and 33 for itself."""
    spared = {*(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)}
    stopping = {*(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)}
    return sorted({*map(int, signal.valid_signals())} - spared - stopping)


@pytest.mark.parametrize("signum", _deadly())
def test_a_job_killed_by_a_signal_takes_us_along(host: Host, signum: int) -> None:
    """The caller sees the same death as without us."""
    kill = ["sh", "-c", f"kill -{signum} $$"]
    bare = subprocess.run(kill, cwd=host.home, check=False)

    ended = host.run(*_QUEUE, "--", *kill)

    assert ended.returncode == bare.returncode == -signum
    assert host.report()["outcome"] == "killed"
    assert host.report()["signal"] == str(signum)


def test_a_job_that_dumps_core_leaves_its_own_and_none_of_ours(host: Host) -> None:
    """Where cores are wanted, there is one: that of the process that went wrong."""

    def want_cores() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    job = host.start(*_QUEUE, "--", "sh", "-c", "kill -SEGV $$", preexec_fn=want_cores)
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


@pytest.mark.parametrize(
    ("make", "command", "status", "text"),
    [
        ("", "no-such-command", 127, "no-such-command: command not found"),
        ("", "./missing", 127, "./missing: No such file or directory"),
        ("touch plain", "./plain", 126, "./plain: Permission denied"),
        ("mkdir folder", "./folder", 126, "./folder: Is a directory"),
    ],
)
def test_a_command_that_cannot_start_is_said_as_the_shell_would(
    host: Host, make: str, command: str, status: int, text: str
) -> None:
    """127 not found, 126 not executable, one line, and an outcome that withdraws."""
    subprocess.run(["sh", "-c", make], cwd=host.home, check=True)

    ended = host.run(*_QUEUE, "--", command)

    assert ended.returncode == status
    assert ended.stderr.decode() == f"aura-run: {text}\n"
    assert host.report()["outcome"] == "not_started"


def test_a_script_without_interpreter_line_is_run_by_sh(host: Host) -> None:
    """As execvp(3) does."""
    script = host.home / "plain.sh"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)

    assert host.run(*_QUEUE, "--", "./plain.sh", "x").stdout == b"./plain.sh x\n"


def test_arguments_and_environment_pass_unchanged(host: Host) -> None:
    """Any bytes; only what would make a nested aura-run speak for this one is gone."""
    host.extra = {"ODD": "\udcff\n=x", "AURA_WAIT": "3s", "AURA_TOKEN": "t-secret", "AURA_JOB": ""}
    show = "import os,sys,json; json.dump([sys.argv[1:], dict(os.environ)], sys.stdout)"
    odd = ["", "a b", "\udcfe", "--", "-x", "'\"$"]

    ended = host.run(*_QUEUE, "--", sys.executable, "-c", show, *odd)

    arguments, environment = json.loads(ended.stdout)
    wanted = {key: value for key, value in host.environment.items() if key not in ("AURA_TOKEN", "AURA_JOB")}
    assert arguments == odd
    assert {key: environment[key] for key in environment if key not in ("LC_CTYPE", "PWD")} == wanted


def test_the_job_has_our_descriptors_limits_and_directory(host: Host) -> None:
    """Nothing of ours is between the job and what the caller gave it."""
    read, write = os.pipe()
    extra = os.open("/dev/null", os.O_RDONLY)
    show = (
        "import os,resource,sys,json;"
        "json.dump([sorted(map(int, os.listdir('/proc/self/fd'))), os.fstat(1).st_ino, os.getcwd(), os.umask(0),"
        " resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0), sys.stdin.read()], sys.stdout)"
    )

    def set_up() -> None:
        os.umask(0o027)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 200))

    job = host.start(
        *_QUEUE,
        "--",
        sys.executable,
        "-c",
        show,
        stdin=subprocess.PIPE,
        stdout=write,
        pass_fds=(extra,),
        preexec_fn=set_up,
    )
    inode = os.fstat(write).st_ino
    os.close(write)
    assert job.stdin is not None
    job.stdin.write(b"from the caller")
    job.stdin.close()
    with os.fdopen(read) as output:
        fds, job_inode, directory, umask, limit, nice, said = json.load(output)
    job.wait()
    assert job.stderr is not None
    job.stderr.close()
    os.close(extra)

    # One more is the listing's own, at the lowest free number.
    assert set(fds) - {3 if extra != 3 else 4} == {0, 1, 2, extra}
    assert (job_inode, directory, umask, limit, nice) == (inode, str(host.home), 0o027, [123, 200], 3)
    assert said == "from the caller"


def test_ignored_signals_stay_ignored_and_ours_are_default(host: Host) -> None:
    """nohup's SIGHUP stays ignored; what Python ignores by itself is undone; nothing is blocked."""
    show = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    bare = subprocess.run(show, capture_output=True, check=True, preexec_fn=nohup)
    ours = host.run(*_QUEUE, "--", *show, preexec_fn=nohup)

    # glibc's posix_spawn leaves its own two signals, 32 and 33, ignored; no program can use them.
    assert _masks(ours.stdout) == _masks(bare.stdout)


def _masks(status: bytes) -> list[int]:
    return [int(line.split()[1], 16) & ~(0b11 << 31) for line in status.splitlines()]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_a_signal_sent_to_us_reaches_the_job_once(host: Host, name: str) -> None:
    """The job decides what it means, as if it had been sent to it."""
    # A byte in the pipe for each signal, written at once: a handler in Python would wait for the next bytecode.
    program = (
        "import os,select,signal\n"
        "told, tell = os.pipe()\n"
        "os.set_blocking(tell, False)\n"
        "signal.set_wakeup_fd(tell)\n"
        f"signal.signal(signal.SIG{name}, lambda *_: None)\n"
        "print('ready', flush=True)\n"
        "count = 0\n"
        "while told in select.select([0, told], [], [])[0]:\n"
        "    count += len(os.read(told, 100))\n"
        "    os.write(1, b'got\\n')\n"
        "print(count, flush=True)\n"
    )
    job = host.start(*_QUEUE, "--", sys.executable, "-c", program, stdin=subprocess.PIPE, start_new_session=True)
    assert job.stdout is not None
    assert job.stdout.readline() == b"ready\n"

    job.send_signal(getattr(signal, f"SIG{name}"))
    assert job.stdout.readline() == b"got\n"
    wait_until(lambda: _pending(job.pid) == 0)
    output, _ = job.communicate()

    assert output == b"1\n"
    assert job.returncode == 0


def _pending(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)


def test_ctrl_c_at_a_terminal_reaches_the_job_once(host: Host) -> None:
    """The terminal tells the whole foreground group: we must not tell the job again."""
    program = (
        "import signal,sys,time\n"
        "n=[0]\n"
        "signal.signal(signal.SIGINT, lambda *_: n.__setitem__(0, n[0]+1))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('count', n[0], flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(AURA_RUN, [AURA_RUN, *_QUEUE, "--", sys.executable, "-c", program], host.environment)
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    wait_until(lambda: _pending(pid) == 0)
    os.write(terminal, b"go\n")
    while b"count" not in said or not said.endswith(b"\n"):
        said += os.read(terminal, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert b"count 1" in said
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_job_in_a_shell_with_job_control_stops_and_goes_on(host: Host) -> None:
    """Ctrl-Z stops job and wrapper, so that the shell has its prompt again; fg continues both."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], host.environment | {"PS1": "prompt> "})
    said = bytearray()

    def until(text: bytes) -> None:
        while text not in said:
            said.extend(os.read(terminal, 1000))
        del said[: said.index(text) + len(text)]

    until(b"prompt> ")
    os.write(terminal, f"{AURA_RUN} --no-wait -H beat -- sh -c 'echo st''arted; read x; echo g''ot $x'\n".encode())
    until(b"started")
    os.write(terminal, b"\x1a")
    until(b"Stopped")
    os.write(terminal, b"fg\n")
    until(b"read x")
    os.write(terminal, b"line\n")
    until(b"got line")
    os.write(terminal, b"exit\n")
    os.waitpid(pid, 0)
    os.close(terminal)

    assert host.report()["outcome"] == "succeeded"


def test_a_background_grandchild_does_not_hold_us(host: Host) -> None:
    """We wait for the job alone, whatever it left behind."""
    job = host.start(*_QUEUE, "--", "sh", "-c", "sleep 1000 & echo $!", stdout=subprocess.PIPE)
    assert job.stdout is not None
    grandchild = int(job.stdout.readline())

    assert job.wait(timeout=30) == 0
    os.kill(grandchild, signal.SIGKILL)
    job.communicate()


def test_the_timeout_ends_the_whole_tree(host: Host) -> None:
    """Children that left the group and the session too; 124, and the reason is told."""
    script = "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait"

    ended = host.run(*_QUEUE, "--timeout", "500ms", "--kill-after", "300ms", "--", "sh", "-c", script)

    assert ended.returncode == 124
    assert b"timed out after 0.5s" in ended.stderr
    for pid in ended.stdout.split():
        wait_until(lambda pid=pid: not _alive(int(pid)))  # type: ignore[misc]
    assert host.report()["outcome"] == "timed_out"


def _alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_retries_are_one_outcome(host: Host) -> None:
    """The deciding attempt is the last; a failed one that is retried withdraws nothing."""
    script = "echo x >>tries; test $(wc -l <tries) = 3"

    ended = host.run(*_QUEUE, "--retries", "5", "--retry-delay", "0s", "--", "sh", "-c", script)

    assert ended.returncode == 0
    report = host.report()
    assert (report["outcome"], report["attempts"]) == ("succeeded", "3")


def test_a_terminating_signal_ends_the_retries(host: Host) -> None:
    """Told to stop, we don't start the job again."""
    job = host.start(*_QUEUE, "--retries", "5", "--retry-delay", "100s", "--", "sh", "-c", "echo x >>tries; exit 7")
    wait_until((host.home / "tries").exists)
    wait_until(lambda: not Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text())
    job.terminate()
    _, errors = job.communicate(timeout=30)

    assert (job.returncode, errors) == (7, b"")
    assert (host.home / "tries").read_text() == "x\n"


def test_success_codes_count_as_success(host: Host) -> None:
    """The status stays the job's own; the ping is earned."""
    assert host.run(*_QUEUE, "--success-codes", "0,3", "--", "sh", "-c", "exit 3").returncode == 3
    assert host.report()["outcome"] == "succeeded"


def test_no_overlap_skips_with_75(host: Host) -> None:
    """A second one doesn't run, also while only the orphan of a killed wrapper goes on."""
    first = host.start(*_QUEUE, "--no-overlap", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert first.stdout is not None
    orphan = int(first.stdout.readline())

    second = host.run(*_QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")
    wait_until(
        lambda: any((host.state / "locks").iterdir()) and b" " in next((host.state / "locks").iterdir()).read_bytes()
    )
    first.kill()
    first.wait()
    third = host.run(*_QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")
    os.kill(orphan, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not _alive(orphan))
    fourth = host.run(*_QUEUE, "--no-overlap", "--", "sh", "-c", "touch ran")

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
        [sys.executable, "-c", program, *_QUEUE, "--", "true"], env=host.environment, capture_output=True, check=True
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

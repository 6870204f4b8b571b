"""What the job finds: descriptors, arguments, environment, limits, rights. All as it would be without us."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host

# Prints what a process can know of its surroundings; -I -S, so that Python itself adds little.
_SHOW = r"""
import json, os, resource, sys
def read(name):
    with open("/proc/self/" + name, "rb") as file:
        return file.read()
def descriptors():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            yield fd, os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd)
        except OSError:
            pass  # that of the listing itself
status = dict(line.split(":\t", 1) for line in read("status").decode().splitlines())
glibc = ~(0b11 << 31)  # its posix_spawn leaves its own signals, 32 and 33, ignored; no program can use them
json.dump({
    "arguments": read("cmdline").hex(),
    "environment": sorted(variable.hex() for variable in read("environ").split(b"\0")),
    "descriptors": sorted(descriptors()),
    "stdin": sys.stdin.read(),
    "directory": os.getcwd(),
    "umask": os.umask(0),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    "priority": (os.nice(0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))),
    "signals": {name: f"{int(status[name], 16) & glibc:x}" for name in ("SigBlk", "SigIgn")},
    "rights": {name: status[name] for name in status if name.startswith(("Uid", "Gid", "Groups", "Cap", "NoNew", "Secc"))},
    "kernel": {name: read(name).decode() for name in ("oom_score_adj", "timerslack_ns", "personality", "cgroup")},
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
}, sys.stdout)
"""


def _surroundings(host: Host, command: list[str], *odd: str) -> dict[str, Any]:
    """Return what a job finds whose caller has changed all that can be changed."""
    read, extra = os.pipe()

    def change() -> None:
        os.umask(0o027)
        os.nice(3)
        os.sched_setaffinity(0, {0})
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 200))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 31))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("77")

    with (host.home / "out").open("wb") as output:
        done = subprocess.run(
            [*command, sys.executable, "-I", "-S", "-c", _SHOW, *odd],
            env=host.environment,
            cwd=host.home,
            input=b"from the caller",
            stdout=output,
            stderr=subprocess.PIPE,
            pass_fds=(extra,),
            preexec_fn=change,
            restore_signals=True,
            check=False,
        )
    for descriptor in (read, extra):
        os.close(descriptor)
    assert (done.returncode, done.stderr) == (0, b"")
    found: dict[str, Any] = json.loads((host.home / "out").read_bytes())
    for fd, place, inheritable in found["descriptors"]:
        if place.startswith("pipe:"):  # each call has pipes of its own
            found["descriptors"][found["descriptors"].index([fd, place, inheritable])] = [fd, "pipe", inheritable]
    return found


@behaviour("argv with any bytes, empty arguments, `--`", bare="as written")
@behaviour(
    "stdin, stdout, stderr and further descriptors", bare="the caller's", ours="the same ones, not copies of ours"
)
@behaviour("umask, working directory, all resource limits", bare="the caller's")
@behaviour("nice value, scheduler, processors, `oom_score_adj`, control group, namespaces", bare="the caller's")
@behaviour("user, groups, capabilities, `no_new_privs`, seccomp", bare="the caller's")
@behaviour("ignored signals (`nohup`), blocked signals", bare="stay so; what the caller didn't ignore is default")
@pytest.mark.parametrize(
    "options", [[], ["--attach", "summary"], ["--timeout", "1000s"]], ids=lambda option: option[:1]
)
def test_the_job_finds_what_it_would_find_without_us(host: Host, options: list[str]) -> None:
    """All that /proc and the usual calls tell of a process is compared."""
    host.extra = {"ODD": "\udcff\n=x", "AURA_WAIT": "3s", "LANG": "C"}
    odd = ["", "a b", "\udcfe", "--", "-x", "'\"$", "\n"]

    bare = _surroundings(host, [], *odd)
    ours = _surroundings(host, [AURA_RUN, *QUEUE, *options, "--"], *odd)

    assert ours == bare


@behaviour(
    "environment",
    bare="the caller's",
    ours="the same, less `AURA_TOKEN`, `AURA_PING_URL`, `AURA_HEARTBEAT`, `AURA_JOB`, `CREDENTIALS_DIRECTORY`;"
    " nothing is added",
)
def test_the_job_loses_our_secrets_and_gets_nothing_from_us(host: Host) -> None:
    """A nested aura-run can't speak for this one; no SSL_CERT_FILE, no locale, no mark of ours."""
    secrets = {
        "AURA_TOKEN": "t",
        "AURA_PING_URL": "",
        "AURA_HEARTBEAT": "h",
        "AURA_JOB": "",
        "CREDENTIALS_DIRECTORY": "/x",
    }
    host.extra = {"AURA_WAIT": "3s", "AURA_CONFIG": "", "EMPTY": ""} | secrets

    ended = host.run(*QUEUE, "--", "cat", "/proc/self/environ")

    wanted = host.environment.keys() - secrets.keys()
    assert sorted(ended.stdout.decode().split("\0")) == sorted(
        ["", *(f"{name}={host.environment[name]}" for name in wanted)]
    )


def _ignored_signals(command: list[str], host: Host, ignored: int) -> tuple[int, set[int]]:
    """Return a job's exit status and what signals it found ignored whose caller ignores *ignored*."""
    done = subprocess.run(
        [*command, "awk", "/SigIgn/ {print $2; exit 7}", "/proc/self/status"],  # a shell has a mind of its own
        env=host.environment,
        stdout=subprocess.PIPE,
        restore_signals=False,
        preexec_fn=lambda: _ignore_only(ignored),
        check=False,
    )
    mask = int(done.stdout, 16)
    return done.returncode, {signum for signum in range(1, 65) if mask >> signum - 1 & 1} - {32, 33}


def _ignore_only(ignored: int) -> None:
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_IGN if signum == ignored else signal.SIG_DFL)


@behaviour("SIGCHLD ignored by the caller", bare="stays ignored")
@pytest.mark.parametrize("options", [[], ["--attach", "output"], ["--timeout", "1000s"]], ids=lambda option: option[:1])
def test_an_ignored_sigchld_stays_ignored_and_hides_nothing(host: Host, options: list[str]) -> None:
    """The kernel would throw the job's status away if we ignored it, too."""
    bare = _ignored_signals([], host, signal.SIGCHLD)
    ours = _ignored_signals([AURA_RUN, *QUEUE, *options, "--"], host, signal.SIGCHLD)

    assert ours == bare == (7, {signal.SIGCHLD})
    assert host.report()["code"] == "7"


def test_a_command_that_cannot_start_is_told_of_with_sigchld_ignored_too(host: Host) -> None:
    """Missing, or a script without an interpreter line: as otherwise."""
    (host.home / "plain.sh").write_text("exit 5\n")
    (host.home / "plain.sh").chmod(0o755)
    ignore = {"preexec_fn": lambda: _ignore_only(signal.SIGCHLD)}

    missing = host.run(*QUEUE, "--", "./missing", **ignore)

    assert (missing.returncode, missing.stderr) == (127, b"aura-run: ./missing: No such file or directory\n")
    assert host.run(*QUEUE, "--", "./plain.sh", **ignore).returncode == 5


@behaviour(
    "SIGPIPE ignored by the caller (systemd's `IgnoreSIGPIPE=`, on by default)",
    bare="stays ignored",
    ours="is default: Python, which ignores it as it starts, leaves no trace of what it was",
)
def test_an_ignored_sigpipe_is_default_for_the_job(host: Host) -> None:
    """A difference that can't be helped."""
    assert _ignored_signals([], host, signal.SIGPIPE) == (7, {signal.SIGPIPE})
    assert _ignored_signals([AURA_RUN, *QUEUE, "--"], host, signal.SIGPIPE) == (7, set())


_ODD_ENVIRONMENT = """
import ctypes, sys
entries = [*sys.argv[1].split("\\n"), "NAME=first", "NAME=second", "no equals sign", "=no name", "last=x"]
arguments = [argument.encode() for argument in sys.argv[2:]]
def strings(texts):
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)
ctypes.CDLL(None).execve(arguments[0], strings(arguments), strings([entry.encode() for entry in entries]))
"""


@behaviour(
    "an environment with two entries of one name, or some without name or `=`",
    bare="as given",
    ours="the first of the two; those without aren't handed on",
)
def test_of_an_odd_environment_the_job_gets_what_has_a_name(host: Host) -> None:
    """What no variable is by any program's reading keeps no job from running."""
    job = ["/bin/cat", "/proc/self/environ"]
    ordinary = [f"{name}={host.environment[name]}" for name in ("PATH", "AURA_STATE_DIR", "AURA_SOCKET")]
    odd = [sys.executable, "-c", _ODD_ENVIRONMENT, "\n".join(ordinary)]

    bare = subprocess.run([*odd, *job], capture_output=True, check=True)
    ours = subprocess.run([*odd, AURA_RUN, *QUEUE, "--", *job], capture_output=True, cwd=host.home, check=True)

    named = [entry.encode() for entry in ordinary] + [b"NAME=first", b"last=x"]
    assert bare.stdout.split(b"\0")[3:-1] == [b"NAME=first", b"NAME=second", b"no equals sign", b"=no name", b"last=x"]
    assert sorted(ours.stdout.split(b"\0")[:-1]) == sorted(named)


@behaviour(
    "`PYTHONHOME`, or a `PYTHONPATH` whose `sitecustomize` ends Python",
    bare="is nothing to it, or what the job wants",
    ours="the same once `-I` stands in aura-run's first line; without it Python ends before we begin, and the job isn't run",
)
@pytest.mark.parametrize("variable", ["PYTHONHOME", "PYTHONPATH"])
def test_pythons_variables_are_the_jobs_alone_behind_an_option(host: Host, variable: str) -> None:
    """The command that README and man page give makes it so, for an editable install too."""
    (host.home / "sitecustomize.py").write_text("import os; os._exit(3)\n")
    (host.home / "aura-run").write_bytes(Path(AURA_RUN).read_bytes())
    (host.home / "aura-run").chmod(0o755)
    host.extra = {variable: str(host.home)}
    job = [*QUEUE, "--", "printenv", variable]
    before = subprocess.run(["./aura-run", *job], env=host.environment, cwd=host.home, capture_output=True, check=False)

    for _ in range(2):  # done again, it changes nothing
        subprocess.run(["sed", "-i", "1s/python[0-9.]*$/& -I/", "aura-run"], cwd=host.home, check=True)
    after = subprocess.run(["./aura-run", *job], env=host.environment, cwd=host.home, capture_output=True, check=False)

    assert (before.returncode, before.stdout) != (0, after.stdout)
    assert (after.returncode, after.stdout, after.stderr) == (0, f"{host.home}\n".encode(), b"")
    assert host.report()["outcome"] == "succeeded"


@behaviour("SIGPIPE and SIGXFSZ, which Python ignores", bare="end the job", ours="the same: they are default for it")
@pytest.mark.parametrize(
    ("script", "signum"),
    [("kill -PIPE $$", signal.SIGPIPE), ("ulimit -f 1; exec head -c 1000000 /dev/zero >file", signal.SIGXFSZ)],
)
def test_what_python_ignores_is_not_ignored_by_the_job(host: Host, script: str, signum: int) -> None:
    """A pipe without a reader and a file beyond its limit end it, and us."""
    bare = subprocess.run(["sh", "-c", script], cwd=host.home, check=False)

    ours = host.run(*QUEUE, "--", "sh", "-c", script)

    assert ours.returncode == bare.returncode == -signum

"""Starting jobs for the daemon, with real programs."""

import asyncio
import os
import pwd
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aura_agent.process.account import Account, job_environment, resolve_account
from aura_agent.process.child import Child, ExitStatus
from aura_agent.process.pump import Pump
from aura_agent.process.spawn import SpawnFailed, SpawnSpec, spawn
from aura_agent.process.tail import Tail
from tests.machine import a_disk, needs, root
from tests.waiting import until, wait_until

pytestmark = pytest.mark.anyio
ENV = {"PATH": "/usr/bin:/bin"}
needs_root = needs(root)


async def run(spec: SpawnSpec) -> tuple[ExitStatus, str, str]:
    """Start, read both pipes to their ends, wait."""
    child = spawn(spec)
    out, err = Tail(1 << 20), Tail(1 << 20)
    pumps = [Pump(fd, tail) for fd, tail in ((child.stdout, out), (child.stderr, err)) if fd is not None]
    status = await child.wait()
    for reader in pumps:
        assert await reader.drained(timeout_s=20)
    return status, out.text(), err.text()


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def in_python(code: str, **options: object) -> SpawnSpec:
    return SpawnSpec(argv=(sys.executable, "-I", "-S", "-c", code), env=ENV, **options)  # type: ignore[arg-type]


async def test_output_and_status_come_back_apart() -> None:
    """stdout, stderr and the exit code are each what the program made them."""
    status, out, err = await run(SpawnSpec(shell_text="echo out; echo err >&2; exit 3", env=ENV))

    assert (status.code, status.signal, out, err) == (3, None, "out\n", "err\n")
    assert str(status) == "exit status 3"


async def test_a_death_by_signal_is_told_from_an_exit() -> None:
    """SIGKILL is not exit code 137."""
    status, _, _ = await run(SpawnSpec(shell_text="kill -9 $$", env=ENV))

    assert (status.code, status.signal, status.shell_code, str(status)) == (None, 9, 137, "killed by SIGKILL")


async def test_the_environment_is_exactly_the_given_one() -> None:
    """Nothing of ours leaks into a job's environment."""
    env = {"PATH": "/usr/bin:/bin", "A": "1", "B": "two words"}

    _, out, _ = await run(SpawnSpec(argv=("env", "-0"), env=env))

    assert dict(item.split("=", 1) for item in out.split("\0") if item) == env


async def test_no_descriptor_of_ours_reaches_the_job() -> None:
    """Even an inheritable descriptor stays with us; stdin is /dev/null."""
    ours = os.open("/dev/zero", os.O_RDONLY)
    try:
        os.set_inheritable(ours, True)
        code = "import os; print({int(fd): os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)})"
        _, out, _ = await run(in_python(code))
    finally:
        os.close(ours)

    descriptors = eval(out)
    assert sorted(descriptors) == [0, 1, 2]
    assert descriptors[0] == "/dev/null"
    assert descriptors[1].startswith("pipe:")
    assert descriptors[1] != descriptors[2]


async def test_nothing_is_left_open_after_runs_and_failures(tmp_path: Path) -> None:
    """A thousand jobs later the daemon has as many descriptors as before."""
    await run(SpawnSpec(argv=("true",), env=ENV))
    before = sorted(os.listdir("/proc/self/fd"))

    await run(SpawnSpec(argv=("true",), env=ENV))
    with pytest.raises(SpawnFailed):
        spawn(SpawnSpec(argv=(str(tmp_path / "missing"),), env=ENV))

    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_the_job_leads_a_session_of_its_own() -> None:
    """The whole tree can be signalled through the group."""
    _, out, _ = await run(in_python("import os; print(os.getpid() == os.getpgrp() == os.getsid(0))"))

    assert out == "True\n"


async def test_sigpipe_and_sigxfsz_have_their_default_action() -> None:
    """Python ignores both; a job that inherited that would misbehave in pipelines."""
    status, out, _ = await run(SpawnSpec(argv=("grep", "SigIgn", "/proc/self/status"), env=ENV))

    ignored = int(out.split()[1], 16)
    assert status.code == 0
    assert not ignored & (1 << (signal.SIGPIPE - 1))
    assert not ignored & (1 << (signal.SIGXFSZ - 1))


async def test_umask_and_working_directory_are_set(tmp_path: Path) -> None:
    """A job finds the umask and directory of its config."""
    _, out, _ = await run(SpawnSpec(shell_text="umask; pwd", env=ENV, umask=0o027, cwd=str(tmp_path)))

    assert out == f"0027\n{tmp_path}\n"


async def test_output_can_be_thrown_away() -> None:
    """`null` leads to /dev/null and needs no pipe."""
    child = spawn(in_python("import os; os.write(2, os.readlink('/proc/self/fd/1').encode())", stdout="null"))
    tail = Tail(100)
    assert child.stdout is None
    assert child.stderr is not None
    reader = Pump(child.stderr, tail)

    await child.wait()
    await reader.drained(timeout_s=20)

    assert tail.text() == "/dev/null"


async def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_wait() -> None:
    """The job is over when its own process is; what it left in the background writes on unharmed."""
    code = (
        "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); pid = os.fork()\n"
        "if pid: print(pid, flush=True); os._exit(4)\n"
        "signal.sigwait({signal.SIGTERM}); print('late', flush=True)"
    )
    child = spawn(in_python(code, stderr="null"))
    tail = Tail(1000)
    assert child.stdout is not None
    reader = Pump(child.stdout, tail)

    status = await child.wait()
    await until(lambda: b"\n" in tail.content())
    grandchild = int(tail.text())
    open_after_the_end = reader.open
    os.kill(grandchild, signal.SIGTERM)

    assert status.code == 4
    assert open_after_the_end
    assert await reader.drained(timeout_s=20)
    assert tail.text() == f"{grandchild}\nlate\n"


async def test_a_cancelled_wait_loses_no_status() -> None:
    """Whoever waits again gets the status; two may wait at once."""
    child = spawn(SpawnSpec(shell_text="read -r _ || :; kill -STOP $$; exit 5", env=ENV, stdout="null", stderr="null"))
    first = asyncio.ensure_future(child.wait())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    both = asyncio.gather(child.wait(), child.wait())
    await until(lambda: state(child.pid) == "T")
    assert child.send_signal(signal.SIGCONT)
    one, other = await both

    assert one is other
    assert one.code == 5
    assert child.pidfd is None
    assert not child.send_signal(signal.SIGTERM)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_without_a_pidfd_a_thread_waits() -> None:
    """Kernels before 5.3 have no pidfds: the status comes all the same."""
    child = Child(subprocess.Popen(["/bin/sh", "-c", "exit 6"]), pidfd=None)

    assert asyncio.run(child.wait()).code == 6


def test_a_status_that_somebody_else_took_is_unknown() -> None:
    """Never a success."""
    popen = subprocess.Popen(["/bin/true"])
    child = Child(popen, pidfd=os.pidfd_open(popen.pid))
    os.waitpid(popen.pid, 0)

    status = asyncio.run(child.wait())

    assert (status.code, status.signal, status.shell_code) == (None, None, None)


async def test_cpu_time_and_peak_memory_are_the_jobs() -> None:
    """Work shows as CPU time; memory beyond our own size shows, our own never does."""
    work = "import time\nwhile time.process_time() < 0.2: pass\nx = bytearray(400_000_000)"
    busy, _, _ = await run(in_python(work))
    idle, _, _ = await run(SpawnSpec(argv=("true",), env=ENV))

    assert busy.cpu_user_s + busy.cpu_system_s >= 0.2
    assert busy.max_rss_bytes is not None
    assert busy.max_rss_bytes > 400_000_000
    assert idle.max_rss_bytes is None


async def test_a_script_without_a_first_line_runs_in_sh(tmp_path: Path) -> None:
    """As execvp(3) does; by path, and along PATH."""
    script(tmp_path / "plain", 'echo "$0 $1 $2"\n')

    _, by_path, _ = await run(SpawnSpec(argv=("./plain", "a b", "c"), env=ENV, cwd=str(tmp_path)))
    _, by_name, _ = await run(SpawnSpec(argv=("plain", "a b", "c"), env={"PATH": f"/nowhere:{tmp_path}:/bin"}))

    assert by_path == "./plain a b c\n"
    assert by_name == f"{tmp_path}/plain a b c\n"


async def test_path_is_the_jobs_and_a_forbidden_file_does_not_end_the_search(tmp_path: Path) -> None:
    """The first executable file of that name in the job's own PATH runs."""
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / name).mkdir()
        script(tmp_path / name / "tool", f"#!/bin/sh\necho {name}\n", mode)
    (tmp_path / "dir" / "tool").mkdir(parents=True)

    _, out, _ = await run(SpawnSpec(argv=("tool",), env={"PATH": f"{tmp_path}/dir:{tmp_path}/a:{tmp_path}/b"}))

    assert out == "b\n"


async def test_a_bad_directory_in_path_hides_no_program_behind_it(tmp_path: Path) -> None:
    """A loop of links, a name that is too long: what a shell finds, we find."""
    (tmp_path / "loop").symlink_to("loop")

    _, out, _ = await run(SpawnSpec(argv=("echo", "here"), env={"PATH": f"{tmp_path}/loop:/{'x' * 300}:{ENV['PATH']}"}))

    assert out == "here\n"


async def test_another_shell_can_be_chosen(tmp_path: Path) -> None:
    """`shell` text goes to that program as `-c`."""
    shell = script(tmp_path / "shell", '#!/bin/sh\nprintf "%s|" "$@"\n')

    _, out, _ = await run(SpawnSpec(shell_text="echo hi", shell=shell, env=ENV))

    assert out == "-c|echo hi|"


def no_execute_bit(tmp: Path) -> SpawnSpec:
    return SpawnSpec(argv=(script(tmp / "x", "#!/bin/sh\n", 0o644),), env=ENV)


@pytest.mark.parametrize(
    ("make", "exit_code", "says"),
    [
        (lambda tmp: SpawnSpec(argv=(f"{tmp}/missing",), env=ENV), 127, "missing: not found"),
        (lambda _: SpawnSpec(argv=("aura-no-such",), env=ENV), 127, "aura-no-such: not found in /usr/bin:/bin"),
        (lambda _: SpawnSpec(argv=(), env=ENV), 127, "command is empty"),
        (lambda _: SpawnSpec(argv=("",), env=ENV), 127, "command is empty"),
        (lambda tmp: SpawnSpec(shell_text="true", shell=f"{tmp}/nosh", env=ENV), 127, "nosh: not found"),
        (no_execute_bit, 126, "permission denied"),
        (lambda tmp: SpawnSpec(argv=(str(tmp),), env=ENV), 126, "is a directory"),
        (
            lambda tmp: SpawnSpec(argv=(script(tmp / "i", "#!/no/such/sh\n"),), env=ENV),
            126,
            "interpreter '/no/such/sh'",
        ),
        (
            lambda tmp: SpawnSpec(argv=(script(tmp / "r", "#!/bin/sh\r\n"),), env=ENV),
            126,
            r"'/bin/sh\\r' does not exist",
        ),
        (lambda tmp: SpawnSpec(argv=("true",), env=ENV, cwd=f"{tmp}/no"), 126, "can't enter the working directory"),
        (lambda _: SpawnSpec(argv=("true", "a\0b"), env=ENV), 126, "argument or environment variable"),
        (lambda _: SpawnSpec(argv=("true",), env=ENV | {"A=B": "x"}), 126, "argument or environment variable"),
        (lambda _: SpawnSpec(argv=("true", "x" * 5_000_000), env=ENV), 126, "too long"),
    ],
)
def test_what_cannot_start_says_why_and_with_the_shells_code(
    make: Callable[[Path], SpawnSpec], exit_code: int, says: str, tmp_path: Path
) -> None:
    """127 not found, 126 otherwise; one line that names the culprit."""
    with pytest.raises(SpawnFailed, match=says) as caught:
        spawn(make(tmp_path))

    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)


@pytest.mark.root
@needs_root
async def test_a_job_runs_as_its_user_with_that_users_groups(tmp_path: Path) -> None:
    """uid, gid and every supplementary group are the user's: none of root's stay."""
    account = resolve_account("nobody")
    entry = pwd.getpwnam("nobody")
    env = job_environment(account, os.environ)

    _, out, err = await run(
        SpawnSpec(
            shell_text="id -u; id -g; id -G; echo $HOME $USER; grep Uid /proc/self/status",
            env=env,
            account=account,
            cwd="/",
        )
    )

    uid, gid, groups, names, uids = out.splitlines()
    assert err == ""
    assert (int(uid), int(gid)) == (entry.pw_uid, entry.pw_gid)
    assert sorted(map(int, groups.split())) == sorted(set(os.getgrouplist("nobody", entry.pw_gid)))
    assert names == f"{entry.pw_dir} nobody"
    assert set(uids.split()[1:]) == {uid}


@pytest.mark.root
@needs_root
def test_our_own_supplementary_groups_do_not_reach_another_user() -> None:
    """A daemon that is in `disk` or `adm` must not lend that to a job."""
    code = (
        "import asyncio, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from aura_agent.process.spawn import *; from aura_agent.process.account import resolve_account\n"
        "os.setgroups([0, 4, 6])\n"
        "spec = SpawnSpec(argv=('id', '-G'), env={}, account=resolve_account('nobody'), cwd='/', stdout='inherit', stderr='null')\n"
        "asyncio.run(spawn(spec).wait())"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    out = subprocess.run([sys.executable, "-c", code, root], check=True, capture_output=True, text=True).stdout

    assert set(map(int, out.split())) == set(os.getgrouplist("nobody", pwd.getpwnam("nobody").pw_gid))


@pytest.mark.root
@needs_root
async def test_a_group_replaces_the_users_own() -> None:
    """`group` becomes the primary group."""
    _, out, _ = await run(SpawnSpec(argv=("id", "-g"), env=ENV, account=resolve_account("nobody", "daemon"), cwd="/"))
    _, number, _ = await run(SpawnSpec(shell_text="id -u; id -g", env=ENV, account=resolve_account("54321"), cwd="/"))

    assert out == f"{resolve_account('daemon').gid}\n"
    assert number == "54321\n54321\n"


@pytest.mark.root
@needs_root
def test_a_program_that_its_user_may_not_run_is_refused_by_name(tmp_path: Path) -> None:
    """Root could execute it; the user can't, and it is the user who counts."""
    program = script(tmp_path / "private", "#!/bin/sh\n", 0o700)

    with pytest.raises(SpawnFailed, match="permission denied for user nobody") as caught:
        spawn(SpawnSpec(argv=(program,), env=ENV, account=resolve_account("nobody"), cwd="/"))

    assert caught.value.exit_code == 126


@pytest.mark.root
@needs_root
def test_becoming_another_user_without_root_is_refused_clearly() -> None:
    """An unprivileged daemon with `user` set says that it can't."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from aura_agent.process.spawn import *; from aura_agent.process.account import resolve_account\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: spawn(SpawnSpec(argv=('true',), env={}, account=resolve_account('daemon'), cwd='/'))\n"
        "except SpawnFailed as exc: print(exc.exit_code, exc)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    out = subprocess.run([sys.executable, "-c", code, root], check=True, capture_output=True, text=True).stdout

    assert out.startswith("126 can't become user daemon: ")
    assert "must run as root" in out


def test_the_event_loop_needs_no_thread_for_a_child() -> None:
    """Ten jobs at once cost no thread."""
    code = (
        "import asyncio, sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from aura_agent.process.spawn import *\n"
        "async def main():\n"
        "    children = [spawn(SpawnSpec(shell_text='sleep 0.1', env={}, stdout='null', stderr='null')) for _ in range(10)]\n"
        "    waits = [asyncio.ensure_future(child.wait()) for child in children]\n"
        "    await waits[0]; print(threading.active_count()); await asyncio.gather(*waits)\n"
        "asyncio.run(main())"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    out = subprocess.run([sys.executable, "-W", "error", "-c", code, root], check=True, capture_output=True, text=True)

    assert (out.stdout, out.stderr) == ("1\n", "")


def test_an_account_without_a_home_starts_in_the_root_directory() -> None:
    """cron's own choice would be to fail; a job that needs no home should run."""
    child = spawn(
        SpawnSpec(
            argv=("sleep", "100"),
            env=ENV,
            stdout="null",
            stderr="null",
            account=Account("x", os.geteuid(), os.getegid(), (), "/no/such/home", switch=False),
        )
    )
    try:
        wait_until(lambda: os.readlink(f"/proc/{child.pid}/cwd") == "/")
    finally:
        child.send_signal(signal.SIGKILL)
        asyncio.run(child.wait())


async def test_limits_and_priority_hold_for_the_job_alone() -> None:
    """Each limit is soft and hard at once, and ours are as they were."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0)
    code = "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE), os.getpriority(os.PRIO_PROCESS, 0))"

    _, out, _ = await run(in_python(code, nice=ours[1] + 5, limits={"open_files": 64, "core": 0}))

    assert out == f"(64, 64) (0, 0) {ours[1] + 5}\n"
    assert ours == (resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0))


@needs_root
@pytest.mark.root
async def test_root_may_raise_what_its_jobs_account_may_not() -> None:
    """Priority and limits are set before root is given up, groups and all after it."""
    account = resolve_account("nobody")

    _, out, _ = await run(SpawnSpec(shell_text="id -u; id -g; id -G; nice", env=ENV, nice=-5, account=account))

    groups = " ".join(map(str, os.getgrouplist("nobody", account.gid)))
    assert out.split("\n")[:4] == [str(account.uid), str(account.gid), groups, "-5"]


async def test_a_limit_that_cannot_be_set_keeps_the_job_from_starting() -> None:
    """Without it the job would be unlimited: the line says which, and no descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SpawnFailed, match=r"can't set limits.open_files = 2147483647: "):
        await run(SpawnSpec(argv=("true",), env=ENV, limits={"open_files": 2**31 - 1}))

    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(SpawnFailed, match="not found"):
        await run(SpawnSpec(argv=("/no/such",), env=ENV, limits={"core": 0}))


@needs(a_disk)
async def test_disk_traffic_is_told() -> None:
    """What a job writes through to the disk, and what it waited for did, is in its figures."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        line = f"dd if=/dev/zero of={place}/x bs=1M count=4 conv=fsync 2>/dev/null"
        status, _, _ = await run(SpawnSpec(shell_text=f"{line}; true", env=ENV))

    assert status.io_written_bytes >= 4 << 20

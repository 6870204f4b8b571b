"""Whether a watched process is alive, with real processes."""

import os
import pwd
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from aura_agent.watch.condition import Condition
from aura_agent.watch.process import MAX_PIDFILE_BYTES, RECYCLED_SLACK_S, check_process
from tests.process.children import ended_afterwards, is_alive, python, read_numbers
from tests.waiting import wait_until

HOLD = "import os, signal, sys; print(os.getpid(), flush=True); signal.pause()"


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "main.pid"


def write(pidfile: Path, content: str, age_s: float = 0.0) -> str:
    pidfile.write_text(content)
    if age_s:
        written = time.time() - age_s
        os.utime(pidfile, (written, written))
    return str(pidfile)


def unique() -> str:
    return f"aura-test-{os.urandom(8).hex()}"


def test_a_process_of_its_pidfile_is_alive(pidfile: Path) -> None:
    """As PostgreSQL writes it: the pid in the first of several lines."""
    job = python(HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)

        condition = check_process(pidfile=write(pidfile, f"{job.pid}\n/var/lib/data\n5432\n"))

    assert condition.healthy, condition.reason
    assert condition.facts["pid"] == job.pid


def test_an_ended_process_is_not_running(pidfile: Path) -> None:
    """The pidfile outlived its process."""
    job = python("pass")
    with ended_afterwards(job):
        path = write(pidfile, f"{job.pid}\n")

    condition = check_process(pidfile=path)

    assert not condition.healthy
    assert f"process {job.pid}" in condition.reason
    assert "not running" in condition.reason


def test_a_zombie_is_not_alive(pidfile: Path) -> None:
    """It has a pid and an entry in /proc, but it is dead."""
    job = python("pass")
    with ended_afterwards(job):
        wait_until(lambda: not is_alive(job.pid))

        condition = check_process(pidfile=write(pidfile, f"{job.pid}\n"))

    assert not condition.healthy
    assert "zombie" in condition.reason


def test_a_recycled_pid_is_another_process(pidfile: Path) -> None:
    """A process that started after the pidfile was written didn't write it."""
    job = python(HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)

        recycled = check_process(pidfile=write(pidfile, f"{job.pid}\n", age_s=RECYCLED_SLACK_S + 60))
        fresh = check_process(pidfile=write(pidfile, f"{job.pid}\n"))

    assert not recycled.healthy
    assert "it is another one" in recycled.reason
    assert fresh.healthy


def test_a_process_seen_before_survives_a_step_of_the_clock(pidfile: Path) -> None:
    """The same process with the same pidfile is trusted; a pidfile written anew is not."""
    job = python(HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)
        path = write(pidfile, f"{job.pid}\n")
        first = check_process(pidfile=path)
        stepped = Condition(True, "", {**first.facts, "pidfile_mtime_ns": os.stat(path).st_mtime_ns - 10**12})
        os.utime(path, ns=(os.stat(path).st_mtime_ns - 10**12,) * 2)

        seen = check_process(pidfile=path, previous=stepped)
        other_file = check_process(pidfile=path, previous=first)
        was_unhealthy = check_process(pidfile=path, previous=Condition(False, "", stepped.facts))

    assert seen.healthy
    assert not other_file.healthy
    assert not was_unhealthy.healthy


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("\n123\n", "empty"),
        ("abc\n", "not a process id"),
        ("-1\n", "not a process id"),
        ("0\n", "not a process id"),
        ("99999999999999999999\n", "not a process id"),
        ("4194305\n", "not a process id"),
        ("12 34\n", "not a process id"),
        ("\u0661\n", "not a process id"),
        ("1\n" + "x" * MAX_PIDFILE_BYTES, "larger than"),
    ],
)
def test_a_pidfile_that_is_none_says_so(content: str, says: str, pidfile: Path) -> None:
    """Whatever the file holds, the probe answers."""
    condition = check_process(pidfile=write(pidfile, content))

    assert not condition.healthy
    assert says in condition.reason
    assert str(pidfile) in condition.reason


def test_a_missing_pidfile_a_directory_and_a_fifo_are_answers(tmp_path: Path) -> None:
    """None of them blocks or raises."""
    os.mkfifo(tmp_path / "fifo")

    reasons = [check_process(pidfile=str(tmp_path / name)).reason for name in ("no", "", "fifo")]

    assert "No such file" in reasons[0]
    assert "not a regular file" in reasons[1]
    assert "not a regular file" in reasons[2]


def test_a_thread_id_is_no_process(pidfile: Path) -> None:
    """A number that is by now a thread's of something else doesn't count."""
    job = python("import _thread, os, signal; _thread.start_new_thread(signal.pause, ())\n" + HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)
        wait_until(lambda: len(os.listdir(f"/proc/{job.pid}/task")) == 2)
        thread = max(int(task) for task in os.listdir(f"/proc/{job.pid}/task"))

        condition = check_process(pidfile=write(pidfile, f"{thread}\n"))

    assert thread != job.pid
    assert not condition.healthy


def test_a_pattern_finds_a_command_line_but_not_us() -> None:
    """The regular expression is searched in the arguments joined by spaces."""
    mark = unique()
    nobody = check_process(pattern=mark)
    job = python(HOLD, "--role", mark)
    with ended_afterwards(job):
        read_numbers(job, 1)

        condition = check_process(pattern=rf"--role {mark}$")
        named_too = check_process(pattern=mark, name="no-such-name")

    assert not nobody.healthy
    assert condition.healthy
    assert condition.facts["pids"] == [job.pid]
    assert not named_too.healthy


def test_a_pattern_never_matches_ourselves() -> None:
    """What is on our own command line proves nothing."""
    own = " ".join(psutil.Process().cmdline())

    condition = check_process(pattern=re.escape(own[:200]))

    assert os.getpid() not in condition.facts.get("pids", [])  # type: ignore[operator]


@pytest.mark.parametrize("program", ["aura-run", "pgrep", "aura-agent", "grep"])
def test_who_looks_for_the_pattern_or_wraps_it_is_not_it(program: str, tmp_path: Path) -> None:
    """aura-run bears its job's whole command line, and pgrep the pattern."""
    mark = unique()
    script = tmp_path / program
    script.write_text(f"#!{sys.executable} -IS\n{HOLD}\n")
    script.chmod(0o755)
    job = python("import os, sys; os.execv(sys.argv[1], sys.argv[1:])", str(script), "--", mark)
    with ended_afterwards(job):
        read_numbers(job, 1)

        assert not check_process(pattern=mark).healthy


def test_an_ended_job_under_its_name_is_told_from_none() -> None:
    """A zombie of that name is not alive, and the reason says what was seen."""
    name = unique()[:15]
    rename = f"open('/proc/self/comm', 'w').write({name!r})\n"
    job = python(rename + "import os; print(os.getpid(), flush=True)")
    with ended_afterwards(job):
        read_numbers(job, 1)
        wait_until(lambda: not is_alive(job.pid))
        dead = check_process(name=name)
    job = python(rename + HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)
        alive = check_process(name=name)

    assert not dead.healthy
    assert "1 zombie(s)" in dead.reason
    assert alive.healthy
    assert alive.facts["name"] == name


def test_the_user_must_fit(pidfile: Path) -> None:
    """A process of another user isn't the one; an unknown user is an answer."""
    mine = pwd.getpwuid(os.geteuid()).pw_name
    other = next(entry for entry in pwd.getpwall() if entry.pw_uid != os.geteuid()).pw_name
    mark = unique()
    job = python(HOLD, mark)
    with ended_afterwards(job):
        read_numbers(job, 1)
        path = write(pidfile, f"{job.pid}\n")

        answers = [check_process(pattern=mark, user=user).healthy for user in (mine, str(os.geteuid()), other)]
        by_file = [check_process(pidfile=path, user=user) for user in (mine, other)]

    assert answers == [True, True, False]
    assert [condition.healthy for condition in by_file] == [True, False]
    assert by_file[1].reason.endswith(f"is not {other}'s")
    assert "no-such-user" in check_process(pattern=mark, user="no-such-user").reason


def test_a_pidfiles_process_must_fit_name_and_pattern_too(pidfile: Path) -> None:
    """Everything that is given must hold for the same process."""
    mark = unique()
    job = python(HOLD, mark)
    with ended_afterwards(job):
        read_numbers(job, 1)
        path = write(pidfile, f"{job.pid}\n")

        assert check_process(pidfile=path, pattern=mark).healthy
        assert "doesn't match" in check_process(pidfile=path, pattern="^postgres").reason
        assert "'postgres'" in check_process(pidfile=path, name="postgres").reason


def test_arguments_never_reach_reason_or_facts(pidfile: Path) -> None:
    """A command line may hold a password."""
    secret = unique()
    job = python(HOLD, secret, "role=worker")
    with ended_afterwards(job):
        read_numbers(job, 1)
        path = write(pidfile, f"{job.pid}\n")
        conditions = [check_process(pattern="role=worker"), check_process(pidfile=path, pattern="^nothing$")]

    assert conditions[0].healthy
    assert not any(secret in repr(condition) for condition in conditions)


def test_nothing_to_look_for_and_a_broken_pattern_are_answers() -> None:
    """A probe never raises for what the config says."""
    assert "nothing to look for" in check_process().reason
    assert "not a regular expression" in check_process(pattern="(").reason


def test_a_stopped_process_is_alive(pidfile: Path) -> None:
    """The fact is told, the verdict is not ours to make."""
    job = python(HOLD)
    with ended_afterwards(job):
        read_numbers(job, 1)
        os.kill(job.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(job.pid).status() == psutil.STATUS_STOPPED)

        condition = check_process(pidfile=write(pidfile, f"{job.pid}\n"))

    assert condition.healthy
    assert condition.facts["status"] == "stopped"

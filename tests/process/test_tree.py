"""Finding and signalling whole process trees, with real processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from aura_agent.process.tree import ProcessTree, descendants, reap_adopted, signal_tree
from tests.machine import needs, root
from tests.process.children import ended_afterwards, is_alive, python, read_numbers
from tests.waiting import wait_until

ROOT = str(Path(__file__).resolve().parents[2])

# Each prints the pids of the tree, children first made ready, then sleeps. `hold` is how every process waits.
PLAIN = """
import os, signal, sys
def hold(): signal.pause(); os._exit(0)
"""
CHAIN = (
    PLAIN
    + "pid = os.fork() or (print(os.getpid(), flush=True), os.fork() or print(os.getpid(), flush=True), hold())\nhold()"
)
SETSID_CHILD = PLAIN + "os.fork() or (os.setsid(), print(os.getpid(), flush=True), hold())\nhold()"
OTHER_GROUP = PLAIN + "os.fork() or (os.setpgid(0, 0), print(os.getpid(), flush=True), hold())\nhold()"
DAEMON = (
    PLAIN
    + """
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    while os.getppid() == int(sys.argv[1]): pass
    print(os.getpid(), flush=True)
    hold()
os.wait()
hold()
"""
)
ORPHAN_IN_GROUP = (
    PLAIN
    + """
if os.fork() == 0:
    parent = os.getpid()
    if os.fork(): os._exit(0)
    while os.getppid() == parent: pass
    print(os.getpid(), flush=True)
    hold()
os.wait()
hold()
"""
)


def boot_s() -> float:
    """Start times are compared in ticks of 10 ms of this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pids(tree: ProcessTree) -> set[int]:
    return {process.pid for process in tree.members()}


def test_a_tree_holds_children_and_grandchildren() -> None:
    """Everything below the root is found, and the root itself is not its own descendant."""
    job = python(CHAIN)
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 2)

        assert [process.pid for process in descendants(job.pid)] == found
        assert pids(ProcessTree(job.pid, own_group=True)) == {job.pid, *found}


@pytest.mark.parametrize("code", [SETSID_CHILD, OTHER_GROUP], ids=["setsid", "setpgid"])
@pytest.mark.parametrize("own_group", [True, False])
def test_leaving_the_group_or_session_is_no_escape(code: str, own_group: bool) -> None:
    """A child with a group of its own gets the signal too."""
    job = python(code)
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 1)

        sent = signal_tree(job.pid, signal.SIGTERM, own_group=own_group)

        assert set(sent.pids) == {job.pid, *found}
        assert sent.refused == ()
        wait_until(lambda: not is_alive(found[0]))
        assert job.wait(20) == -signal.SIGTERM


def test_an_orphan_is_found_by_the_roots_group() -> None:
    """A child whose own parent has died belongs to the job while it stays in its group."""
    job = python(ORPHAN_IN_GROUP)
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 1)

        assert pids(ProcessTree(job.pid, own_group=True)) == {job.pid, *found}
        assert pids(ProcessTree(job.pid, own_group=False)) == {job.pid}


def test_who_was_in_the_tree_once_gets_the_second_signal_too() -> None:
    """The root dies of SIGTERM, its setsid child ignores it and is orphaned by that: SIGKILL still finds it."""
    stubborn = PLAIN + (
        "os.fork() or (os.setsid(), signal.signal(15, signal.SIG_IGN), print(os.getpid(), flush=True), hold())\nhold()"
    )
    job = python(stubborn)
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 1)
        tree = ProcessTree(job.pid, own_group=True)

        tree.signal(signal.SIGTERM)
        job.wait(20)
        survivors = pids(tree)
        tree.signal(signal.SIGKILL)

        assert survivors == set(found)
        assert tree.wait_gone(20)
        assert not is_alive(found[0])


def test_a_daemon_that_left_everything_is_known_by_the_jobs_marker() -> None:
    """Forked twice, session of its own, parent gone: only what it was started with gives it away."""
    marker = f"AURA_TEST_RUN={os.urandom(8).hex()}"
    name, _, value = marker.partition("=")
    code = DAEMON.replace("int(sys.argv[1])", "os.getsid(0)")
    job = python(code, text_env={name: value})
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 1)

        assert pids(ProcessTree(job.pid, own_group=True)) == {job.pid}
        assert pids(ProcessTree(job.pid, own_group=True, marker=marker)) == {job.pid, *found}


def in_agent(code: str) -> list[str]:
    """Run *code* in an interpreter of its own, as an agent that may become subreaper, and return what it prints."""
    prelude = (
        "import os, signal, subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "from aura_agent.process.tree import *; from tests.process.children import *; from tests.process.test_tree import *\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, ROOT],
        check=True,
        capture_output=True,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    return done.stdout.split()


def test_a_subreaper_finds_the_daemons_of_its_sole_job() -> None:
    """aura-run with one job: a double-forked daemon comes to us, is signalled, and is reaped."""
    out = in_agent(
        "assert become_subreaper()\n"
        "job = python(DAEMON.replace('int(sys.argv[1])', 'os.getsid(0)')); stray = read_numbers(job, 1)[0]\n"
        "aged = boot_s() + 0.02; wait_until(lambda: boot_s() > aged)\n"
        "print(psutil.Process(stray).ppid() == os.getpid())\n"
        "print(sorted(signal_tree(job.pid, 9, own_group=False).pids) == sorted([job.pid]))\n"
        "job = job.wait() and python(DAEMON.replace('int(sys.argv[1])', 'os.getsid(0)')); other = read_numbers(job, 1)[0]\n"
        "tree = ProcessTree(job.pid, own_group=True, sole_job=True)\n"
        "print(sorted(tree.signal(9).pids) == sorted([job.pid, other]), is_alive(stray))\n"
        "job.wait(); print(tree.wait_gone(20))\n"
        "os.kill(stray, 9); wait_until(lambda: not is_alive(stray))\n"
        "print(sorted(reap_adopted({job.pid})) == sorted([stray, other]), psutil.pid_exists(stray))\n"
    )

    assert out == ["True", "True", "True", "True", "True", "True", "False"]


def test_children_that_somebody_waits_for_are_not_reaped() -> None:
    """A job's status is its runner's, even on a subreaper that clears away strays."""
    ours, stray = python("raise SystemExit(3)"), python("raise SystemExit(4)")
    try:
        wait_until(lambda: not is_alive(ours.pid) and not is_alive(stray.pid))
        others = {child.pid for child in psutil.Process().children()} - {stray.pid}

        assert reap_adopted(others) == [stray.pid]
        assert ours.wait(20) == 3
    finally:
        for process in (ours, stray):
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_a_child_from_before_the_job_is_not_the_jobs() -> None:
    """`x & exec aura-run …`: a child that we inherited stays alone, in our group or not, and so do we."""
    out = in_agent(
        "before = python(PLAIN + 'print(os.getpid(), flush=True); hold()', session=False); read_numbers(before, 1)\n"
        "aged = boot_s() + 0.02; wait_until(lambda: boot_s() > aged)\n"
        "job = python(CHAIN, session=False); pids_ = read_numbers(job, 2)\n"
        "sent = signal_tree(job.pid, 15, own_group=False, sole_job=True)\n"
        "print(sorted(sent.pids) == sorted([job.pid, *pids_]), is_alive(before.pid))\n"
        "job = python(CHAIN); pids_ = read_numbers(job, 2)\n"
        "after = python(PLAIN + 'print(os.getpid(), flush=True); hold()', session=False); read_numbers(after, 1)\n"
        "sent = signal_tree(job.pid, 15, own_group=True, sole_job=True)\n"
        "print(sorted(sent.pids) == sorted([job.pid, *pids_]), is_alive(after.pid))\n"
        "before.kill(); after.kill()\n"
    )

    assert out == ["True", "True", "True", "True"]


def test_our_own_group_is_never_signalled() -> None:
    """Even a caller that claims our group as the job's own doesn't reach us or our siblings."""
    out = in_agent(
        "sibling = python(PLAIN + 'print(os.getpid(), flush=True); hold()', session=False); read_numbers(sibling, 1)\n"
        "sent = signal_tree(os.getpgrp(), 0, own_group=True)\n"
        "job = python(CHAIN, session=False); pids_ = read_numbers(job, 2)\n"
        "sent = signal_tree(job.pid, 15, own_group=True)\n"
        "print(sorted(sent.pids) == sorted([job.pid, *pids_]), is_alive(sibling.pid)); sibling.kill()\n"
    )

    assert out == ["True", "True"]


def test_the_whole_pipeline_and_shell_around_us_survive() -> None:
    """cron's shell and our neighbours in a pipeline are not the job's, even when the job is in their group."""
    inner = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.process.test_tree import *\n"
        "print(signal_tree(os.getpgrp(), 9, own_group=True, sole_job=True).pids)\n"
        "job = python(CHAIN, session=False); found = read_numbers(job, 2)\n"
        "sent = signal_tree(job.pid, 9, own_group=False, sole_job=True)\n"
        "print(sorted(sent.pids) == sorted([job.pid, *found]))"
    )
    line = '(read -r _; echo left alive >&2) | "$0" -c "$1" "$2" | (cat; echo right alive); echo shell alive'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable, inner, ROOT],
        check=True,
        capture_output=True,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )

    assert done.stdout == "()\nTrue\nright alive\nshell alive\n"
    assert done.stderr == "left alive\n"


def test_a_process_that_ignores_sigterm_is_killed_by_sigkill() -> None:
    """wait_gone tells that it is still there, then that it is gone."""
    job = python(
        PLAIN + "signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True)\nwhile True: signal.pause()"
    )
    with ended_afterwards(job):
        read_numbers(job, 1)
        tree = ProcessTree(job.pid, own_group=True)

        tree.signal(signal.SIGTERM)
        still_there = not tree.wait_gone(0.05)
        tree.signal(signal.SIGKILL)

        assert still_there
        assert tree.wait_gone(20)
        assert job.wait(20) == -signal.SIGKILL


@pytest.mark.anyio
async def test_an_event_loop_can_wait_for_the_tree() -> None:
    """The same without blocking."""
    job = python(CHAIN)
    found: list[int] = []
    with ended_afterwards(job, found):
        found += read_numbers(job, 2)
        tree = ProcessTree(job.pid, own_group=True)

        before = await tree.gone(0.05)
        tree.signal(signal.SIGTERM)

        assert not before
        assert await tree.gone(20)


def test_a_stopped_job_is_woken_to_hear_sigterm() -> None:
    """SIGTERM alone would wait for a SIGCONT that never comes."""
    job = python(PLAIN + "print(os.getpid(), flush=True); hold()")
    with ended_afterwards(job):
        read_numbers(job, 1)
        os.kill(job.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(job.pid).status() == psutil.STATUS_STOPPED)

        signal_tree(job.pid, signal.SIGTERM, own_group=True)

        assert job.wait(20) == -signal.SIGTERM


def test_a_job_that_forks_without_end_is_killed_to_the_last() -> None:
    """What appears between the look and the signal, out of the group's reach, is caught by another look."""
    code = PLAIN + (
        "print(os.getpid(), flush=True)\nfor _ in range(3000): os.fork() or (os.setpgid(0, 0), hold())\nhold()"
    )
    job = python(code)
    with ended_afterwards(job):
        read_numbers(job, 1)
        tree = ProcessTree(job.pid, own_group=True)
        wait_until(lambda: len(tree.members()) > 5)

        tree.signal(signal.SIGKILL)
        job.wait(20)
        try:
            wait_until(lambda: not session_of(job.pid), what="the end of all that were forked")
        finally:
            for pid in session_of(job.pid):
                os.kill(pid, signal.SIGKILL)


def session_of(leader: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader and is_alive(pid):
                members.append(pid)
    return members


def test_a_cleanup_that_sigterm_starts_is_left_to_work() -> None:
    """`trap 'rm -r $tmp' TERM`: what a handler starts in the job's group doesn't get the same SIGTERM."""
    code = PLAIN + (
        "def clean(*_):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: signal.signal(15, signal.SIG_DFL); signal.setitimer(0, 0.3); signal.signal(14, lambda *_: os._exit(7)); hold()\n"
        "    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)\n"
        "signal.signal(15, clean); print(os.getpid(), flush=True)\n"
        "while True: signal.pause()"
    )
    job = python(code)
    with ended_afterwards(job):
        read_numbers(job, 1)

        ProcessTree(job.pid, own_group=True).signal(signal.SIGTERM)

        assert job.wait(20) == 7


def test_a_zombie_is_not_alive_and_a_reused_number_is_not_signalled() -> None:
    """An ended root that nobody has reaped yet has no living members; a number that is free reaches nobody."""
    job = python("pass")
    with ended_afterwards(job):
        wait_until(lambda: not is_alive(job.pid))
        tree = ProcessTree(job.pid, own_group=True)

        assert tree.members() == []
        assert tree.signal(signal.SIGTERM).pids == ()
    assert ProcessTree(job.pid, own_group=True).signal(signal.SIGTERM).pids == ()


@pytest.mark.root
@needs(root)
def test_another_process_under_the_roots_number_is_spared() -> None:
    """A recycled pid: same number, later start. In a pid namespace of its own the number can be handed out at will."""
    code = (
        "job = python(PLAIN + 'print(os.getpid(), flush=True); hold()'); read_numbers(job, 1)\n"
        "tree = ProcessTree(job.pid, own_group=True); row = tree._look()[0]; job.kill(); job.wait()\n"
        "aged = boot_s() + 0.02; wait_until(lambda: boot_s() > aged)\n"
        "open('/proc/sys/kernel/ns_last_pid', 'w').write(str(job.pid - 1))\n"
        "other = python(PLAIN + 'print(os.getpid(), flush=True); hold()'); read_numbers(other, 1)\n"
        "print(other.pid == job.pid, tree.signal(9).pids == (), _send(row, 9, has_it=False))\n"
        "other.send_signal(15); print(other.wait(20))\n"
    )
    prelude = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.process.test_tree import *; from aura_agent.process.tree import _send\n"
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", prelude + code, ROOT],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )

    assert done.stdout.split() == ["True", "True", "True", "-15"]

"""Being the parent of last resort: orphans of our jobs come to us instead of to init, and are reaped.

Light on purpose: aura-run calls ``become_subreaper`` beside every job that has a time-out.
"""

import os
from collections.abc import Container

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def become_subreaper() -> bool:
    """Let orphaned descendants be re-parented to us (prctl(2)); False where the kernel refuses. Not inherited."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill us when *parent*, who has forked us, is gone; False: it is gone already."""
    _prctl(_PR_SET_PDEATHSIG, 9)  # SIGKILL
    return os.getppid() == parent


def _prctl(what: int, value: int) -> bool:
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(what, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap_adopted(ours: Container[int]) -> list[int]:
    """Reap the ended children that are not in *ours* (the pids that somebody else waits for); return their pids.

    For a subreaper or PID 1, on SIGCHLD. Call it where children are started, not beside: a child that has been
    started but isn't in *ours* yet would lose its status here.
    """
    reaped = []
    for pid in _children():
        if pid in ours:
            continue
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
        if ended:
            reaped.append(pid)
    return reaped


def _children() -> list[int]:
    """Return the pids of our children; the kernel lists them per thread (proc_pid_task_children(5))."""
    pids: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as children:
                pids.extend(int(pid) for pid in children.read().split())
    except OSError:
        import psutil  # a kernel without CONFIG_PROC_CHILDREN

        pids = [child.pid for child in psutil.Process().children()]
    return pids

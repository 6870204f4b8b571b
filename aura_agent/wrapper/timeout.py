"""The end of a job that took too long: its whole process tree, first asked, then killed. Loaded when it happens."""

from signal import SIGKILL, SIGTERM

from aura_agent.process.tree import ProcessTree
from aura_agent.units import format_duration
from aura_agent.wrapper.job import Job, Signals, now

_KILLED_S = 1.0  # what SIGKILL has ended is gone by then, unless the kernel holds it


def end_tree(job: Job, signals: Signals, timeout_s: float, kill_after_s: float) -> str:
    """End *job* and all its descendants; return what was done, for people.

    We are the subreaper, so what outlives its parent becomes our child and is still found. The job itself is always
    waited for; a terminating signal sent to us then cuts the wait for the rest short. What is left a moment after
    SIGKILL is in the kernel's hands.
    """
    tree = ProcessTree(job.pid, own_group=job.own_group, sole_job=True)
    _signal(tree, job, SIGTERM)
    deadline_boot_ns = now()[0] + int(kill_after_s * 1e9)
    reached = "process group, without /proc all that can be found" if tree.is_blind else "process tree"
    done = f"timed out after {format_duration(timeout_s)}: sent SIGTERM to its {reached}"
    if signals.wait(job, deadline_boot_ns) and _is_gone(tree, signals, deadline_boot_ns):
        return done
    when = f"after a further {format_duration(kill_after_s)}" if now()[0] >= deadline_boot_ns else "at a signal to us"
    _signal(tree, job, SIGKILL)
    signals.wait(job)
    tree.wait_gone(_KILLED_S)
    return f"{done}, and SIGKILL {when}"


def _signal(tree: ProcessTree, job: Job, signum: int) -> None:
    tree.signal(signum)
    if tree.is_blind and not job.own_group:
        job.send(signum)


def _is_gone(tree: ProcessTree, signals: Signals, deadline_boot_ns: int) -> bool:
    """Wait for the end of what the job has left; False: some of it lives on."""
    while tree.is_alive():
        if not signals.await_orphan(deadline_boot_ns):
            return False
    return True

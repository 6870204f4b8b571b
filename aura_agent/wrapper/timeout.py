"""The end of a job that took too long: its whole process tree, first asked, then killed. Loaded when it happens."""

from signal import SIGKILL, SIGTERM

from aura_agent.process.tree import ProcessTree
from aura_agent.units import format_duration
from aura_agent.wrapper.job import Job, Signals, now

_KILLED_S = 1.0  # what SIGKILL has ended is gone by then, unless the kernel holds it


def end_tree(job: Job, signals: Signals, timeout_s: float, kill_after_s: float) -> str:
    """End *job* and all its descendants; return what was done, for people.

    We are the subreaper, so what outlives its parent becomes our child and is still found. The job itself is always
    waited for; what else is left a moment after SIGKILL is in the kernel's hands.
    """
    tree = ProcessTree(job.pid, own_group=job.own_group, sole_job=True)
    tree.signal(SIGTERM)
    deadline_boot_ns = now()[0] + int(kill_after_s * 1e9)
    done = f"timed out after {format_duration(timeout_s)}: sent SIGTERM to its process tree"
    if signals.wait(job, deadline_boot_ns) and tree.wait_gone(max(0.0, (deadline_boot_ns - now()[0]) / 1e9)):
        return done
    tree.signal(SIGKILL)
    signals.wait(job)
    tree.wait_gone(_KILLED_S)
    return f"{done}, and SIGKILL after a further {format_duration(kill_after_s)}"

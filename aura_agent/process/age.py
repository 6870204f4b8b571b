"""When a process started, read from what even a /proc with ``subset=pid`` has."""

import os

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def started_s(pid: int) -> float:
    """Return when *pid* started, in seconds since boot: no step of the wall clock makes it older.

    Raises ProcessLookupError: there is no such process, or no /proc.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError as problem:
        raise ProcessLookupError(problem.errno, problem.strerror) from None
    if len(fields) < 20:
        raise ProcessLookupError(3, "no such process")
    return int(fields[19]) / _TICKS_PER_S  # proc_pid_stat(5): starttime is field 22, the second after the name is 3

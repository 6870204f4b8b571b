"""Ways of measuring a command from outside: its time, what it holds while its job runs, how much passes through it."""

import os
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[str]
_QUIET_S = 0.2  # without any processor time for so long, a wrapper has settled beside its job


@dataclass(frozen=True)
class Pairs:
    """Medians of two figures that were taken in turns, and of their ratios pair by pair."""

    first: float
    second: float
    ratio: float


def pairs(first: Callable[[], float], second: Callable[[], float], count: int) -> Pairs:
    """Take both figures in turns, so that a drifting machine is fair to both; the first two are to warm up."""
    taken = [(first(), second()) for _ in range(count + 2)][2:]
    return Pairs(
        statistics.median(one for one, _ in taken),
        statistics.median(other for _, other in taken),
        statistics.median(one / other for one, other in taken),
    )


def run_s(command: Command, environment: dict[str, str]) -> float:
    """Return how long *command* takes, in seconds."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_byte_s(command: Command, environment: dict[str, str]) -> float:
    """Return the seconds until *command*, or its job, has written a byte."""
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        select.select([process.stdout], [], [])
        return time.perf_counter() - started


def through_a_pipe_s(command: Command, environment: dict[str, str]) -> float:
    """Return how long *command* takes to get all its output through a pipe to ``cat >/dev/null``."""
    read, write = os.pipe()
    with subprocess.Popen(["cat"], stdin=read, stdout=subprocess.DEVNULL) as reader:
        os.close(read)
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=write)
        os.close(write)
        reader.wait()
        return time.perf_counter() - started


@dataclass(frozen=True)
class Held:
    """What a process holds, and what it has used by then: time on the processor, and how often it was woken up."""

    rss_bytes: int
    pss_bytes: int
    threads: int
    cpu_ns: int
    wakeups: int


def held_by(pid: int) -> Held:
    """Look at *pid* as it is now (proc_pid_smaps(5), proc_pid_status(5), sched-stats)."""
    memory = _fields(f"/proc/{pid}/smaps_rollup")
    status = _fields(f"/proc/{pid}/status")
    cpu_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return Held(
        int(memory["Rss"]) * 1024,
        int(memory["Pss"]) * 1024,
        int(status["Threads"]),
        cpu_ns,
        int(status["voluntary_ctxt_switches"]),
    )


def beside_its_job(command: Command, environment: dict[str, str], span_s: float) -> tuple[Held, Held, int]:
    """Start *command*, whose job waits for input; return what it holds once it has settled and *span_s* later, and the
    nanoseconds on the processor that it and its job have used in all when the job has ended.
    """
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    before = held_by(process.pid)
    while True:
        time.sleep(_QUIET_S)
        settled = held_by(process.pid)
        if settled.cpu_ns == before.cpu_ns:
            break
        before = settled
    time.sleep(span_s)
    later = held_by(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    return settled, later, int((usage.ru_utime + usage.ru_stime) * 1e9)


def _fields(path: str) -> dict[str, str]:
    lines = (line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return {name: (value.split() or [""])[0] for name, value in lines}

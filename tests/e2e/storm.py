"""A storm: many wrapped jobs at once, while aura-runs and the daemon are killed and Aura comes and goes.

Does it, and writes down what it did and saw; what has to come of that is for ``oracle`` to say. It comes in rounds: at
the end of each, no process is left that could have decided anything earlier.
"""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.sites import AURA_RUN, Site
from tests.waiting import wait_until

AT_ONCE = 20
_JOB = """#!/bin/sh
me=$STORM/${0##*/}
read up _ </proc/uptime; echo "start $up" >>"$me"
echo "${0##*/}"
[ "$1" = 0 ] || sleep "$1"
read up _ </proc/uptime; echo "end $up" >>"$me"
case $2 in
again) [ -e "$me.again" ] || { : >"$me.again"; exit 1; };;
exit*) exit "${2#exit}";;
*) kill "-$2" $$;;
esac
"""
_SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGSEGV)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is to be: *kind* says how it is to end, *detail* the exit code or signal that goes with it.

    *strike_s* is how long after its launch it is stopped or killed; None: as soon as aura-run waits for its job.
    """

    tag: str
    beat: str
    kind: str  # good, bad, crash, slow (timed out), missing, again (fails once), stopped (SIGTERM), killed (SIGKILL)
    detail: int
    hold_s: float
    strike_s: float | None
    wait: bool


@dataclass(slots=True)
class Seen:
    """What was seen of one run; instants are CLOCK_BOOTTIME in seconds."""

    plan: Plan
    round: int
    launched_s: float
    ended_s: float = 0.0
    struck_s: float | None = None  # when the signal had been sent
    waited: bool = False  # right before it, aura-run was doing nothing but wait for its job
    status: int = 0
    errors: bytes = b""
    starts_s: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)


@dataclass
class Storm:
    """One storm over *site*. ``pings`` holds, per round, the tags that Aura was pinged with, by heartbeat."""

    site: Site
    rng: random.Random
    beats: list[str]
    seen: list[Seen] = field(default_factory=list)
    pings: list[dict[str, list[str]]] = field(default_factory=list)
    disturbances: int = 0

    def __post_init__(self) -> None:
        self._jobs, self._log = self.site.home / "jobs", self.site.home / "log"
        for place in (self._jobs, self._log):
            place.mkdir()
        script = self.site.home / "job.sh"
        script.write_text(_JOB)
        script.chmod(0o755)
        self.site.extra["STORM"] = str(self._log)
        for beat in self.beats:
            self.site.server.create_heartbeat(beat, expected_interval=86_400)

    def blow(self, runs: int, per_round: int) -> None:
        """Let *runs* runs happen, and then the sun come out: everything up, and nothing left to send."""
        plans = [self._plan(number) for number in range(runs)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for begin in range(0, runs, per_round):
                self._round(pool, plans[begin : begin + per_round])
        self.site.server.accept()
        self.site.server.clear_faults()
        self.site.start()
        flushed = self.site.agent("queue", "flush")
        left = self.site.agent("queue", "list").stdout if flushed.returncode else ""
        assert flushed.returncode == 0, flushed.stderr + left + self.site.log.read_text()[-4000:]
        self.site.stop()
        self._note_pings()
        for seen in self.seen:
            self._read_log(seen)

    def _plan(self, number: int) -> Plan:
        rng = self.rng
        kinds = ["good"] * 40 + ["bad"] * 10 + ["crash"] * 6 + ["slow"] * 4 + ["missing"] * 4 + ["again"] * 6
        kind = rng.choice(kinds + ["stopped"] * 10 + ["killed"] * 20)
        details = {"bad": rng.randint(1, 255), "crash": rng.choice(_SIGNALS)}
        strike_s = rng.choice([None, rng.uniform(0, 0.1), rng.uniform(0, 2)])
        hold_s = {"slow": 30.0, "stopped": rng.choice([0, 0.3, 30.0]), "killed": rng.choice([0.2, 2.0])}
        return Plan(
            tag=f"run-{number:04}",
            beat=rng.choice(self.beats),
            kind=kind,
            detail=details.get(kind, 0),
            hold_s=hold_s.get(kind, rng.choice([0, 0, 0.1, 0.5])),
            strike_s=strike_s,
            wait=rng.random() < 0.25,
        )

    def _round(self, pool: ThreadPoolExecutor, plans: list[Plan]) -> None:
        number = len(self.pings)
        slots = threading.Semaphore(AT_ONCE)
        runs = []
        for plan in plans:
            if self.rng.random() < 0.15:
                self._disturb()
            slots.acquire()
            run = pool.submit(self._run, plan, number)
            run.add_done_callback(lambda _: slots.release())
            runs.append(run)
        self.seen += [run.result(timeout=120) for run in runs]
        if self.site.daemon is not None:
            self.site.stop(self.rng.choice([signal.SIGTERM, signal.SIGKILL]))
        self._note_pings()

    def _disturb(self) -> None:
        """Change something about daemon or service."""
        site, server = self.site, self.site.server
        self.disturbances += 1
        if self.rng.random() < 0.5:
            if site.daemon is None:
                site.start()
            else:
                site.stop(self.rng.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]))
            return
        what = self.rng.choice(["refuse", "accept", "accept", "drop_after", "status"])
        if what == "refuse":
            server.refuse()
        elif what == "accept":
            server.accept()
        elif what == "drop_after":
            server.set_fault("drop_after", target="ping", times=1)
        else:
            server.set_fault("status", target="all", status=503, times=3)

    def _run(self, plan: Plan, number: int) -> Seen:
        job = self._jobs / plan.tag
        if plan.kind != "missing":
            job.symlink_to(self.site.home / "job.sh")
        ends = {"bad": f"exit{plan.detail}", "crash": str(plan.detail), "again": "again"}
        options = ["--wait", "2s"] if plan.wait else ["--no-wait"]
        if plan.kind == "slow":
            options += ["--timeout", "200ms", "--kill-after", "5s"]
        if plan.kind == "again":
            options += ["--retries", "1", "--retry-delay", "0s"]
        seen = Seen(plan, number, _now_s())
        process = subprocess.Popen(
            [
                *(AURA_RUN, "-H", plan.beat, "--attach", "output", *options, "--"),
                *(str(job), str(plan.hold_s), ends.get(plan.kind, "exit0")),
            ],
            env=self.site.environment,
            cwd=self.site.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            if plan.kind in ("stopped", "killed"):
                self._strike(process, seen)
            # Who was left behind may hold stderr for as long as it likes: its end isn't ours.
            seen.status = process.wait(timeout=100)
            seen.ended_s = _now_s()
            assert process.stderr is not None
            os.set_blocking(process.stderr.fileno(), False)
            seen.errors = process.stderr.read() or b""
        finally:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        return seen

    def _strike(self, process: "subprocess.Popen[bytes]", seen: Seen) -> None:
        if seen.plan.strike_s is None:
            wait_until(lambda: is_waiting(process.pid) or process.poll() is not None, timeout_s=60)
        else:
            try:
                process.wait(seen.plan.strike_s)
            except subprocess.TimeoutExpired:
                pass
        if process.poll() is None:
            seen.waited = is_waiting(process.pid)
            process.send_signal(signal.SIGTERM if seen.plan.kind == "stopped" else signal.SIGKILL)
            seen.struck_s = _now_s()

    def _note_pings(self) -> None:
        """Write down which pings came since the last time. Nobody is left who sends any."""
        for _ in range(20):  # what a killed process sent may still lie in the server's sockets
            self.site.server.run_on_the_loop(lambda: None)
        earlier = {beat: sum(len(noted[beat]) for noted in self.pings) for beat in self.beats}
        heard = {beat: [ping.body.strip() for ping in self.site.server.pings(beat)] for beat in self.beats}
        self.pings.append({beat: heard[beat][earlier[beat] :] for beat in self.beats})

    def _read_log(self, seen: Seen) -> None:
        for word, instant_s in self._log_lines(seen.plan.tag):
            (seen.starts_s if word == "start" else seen.ends_s).append(instant_s)

    def _log_lines(self, tag: str) -> Iterator[tuple[str, float]]:
        path = self._log / tag
        for line in path.read_text().splitlines() if path.exists() else []:
            word, _, instant = line.partition(" ")
            yield word, float(instant)


def is_waiting(pid: int) -> bool:
    """Whether the process is in sigwaitinfo(2), without a time-out: aura-run, once all is said of its run's start."""
    try:
        fields = Path(f"/proc/{pid}/syscall").read_text(encoding="ascii").split()
    except OSError:
        return False
    return len(fields) > 3 and fields[0] in ("128", "137") and fields[3] == "0x0"  # rt_sigtimedwait: x86-64, arm64


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)

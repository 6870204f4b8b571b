"""Kills, again and again: daemon, courier and wrappers at random instants, while jobs keep reporting.

A cycle begins with a daemon that starts and ends with its ``kill -9``; a ``queue flush`` is killed beside it now and
then. Wrappers never deliver by themselves, so between two cycles nobody sends: what Aura has heard by then is all that
it can have heard. On a *sure* heartbeat each run succeeds and no wrapper is killed, on a *mixed* one anything happens.
"""

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.waiting import wait_until

SURE = tuple(f"sure-{number}" for number in range(3))
MIXED = tuple(f"mixed-{number}" for number in range(3))
_JOB = """#!/bin/sh
echo "$1"
[ "$3" = 0 ] || sleep "$3"
: >"$DONE/$1"
exit "$2"
"""


@dataclass(slots=True)
class Run:
    """One run that is over. *killed*: its wrapper was; *done*: its job had come to its end by then."""

    tag: str
    code: int
    status: int
    killed: bool
    done: bool

    @property
    def accepted(self) -> bool:
        """Whether it was told to be a success, and its wrapper has returned: it is on disk."""
        return self.code == 0 and self.status == 0 and not self.killed


@dataclass
class Chaos:
    """What was done and what Aura heard. *problems* are the promises that were broken."""

    site: Site
    rng: random.Random
    runs: dict[str, list[Run]] = field(default_factory=dict)  # by heartbeat, in the order of their ends
    problems: list[str] = field(default_factory=list)
    kills: int = 0
    withdrawn: set[str] = field(default_factory=set)  # tags of successes that must never be told any more

    def __post_init__(self) -> None:
        self._script = self.site.home / "job.sh"
        self._script.write_text(_JOB)
        self._script.chmod(0o755)
        self._done = self.site.home / "done"
        self._done.mkdir()
        self._heard: Counter[str] = Counter()
        self._calm = threading.Event()
        self.site.extra["DONE"] = str(self._done)
        for beat in (*SURE, *MIXED):
            self.site.server.create_heartbeat(beat, expected_interval=86_400)
            self.runs[beat] = []
        self.site.configure(
            "\n".join(f'[jobs.{beat}]\nreplay = "all"\nattach = "output"\n' for beat in (*SURE, *MIXED))
        )

    def cycle_through(self, cycles: int) -> None:
        """Do all of it, and then let everything arrive."""
        self._learn_the_urls()
        self.site.server.set_fault("slow", target="ping", delay_s=0.3)  # so that kills meet pings under way
        load = [
            threading.Thread(target=self._load, args=(beat, random.Random(self.rng.random())))
            for beat in (*SURE, *MIXED)
        ]
        for thread in load:
            thread.start()
        try:
            for _ in range(cycles):
                self._cycle()
        finally:
            self._calm.set()
            for thread in load:
                thread.join()
        self.site.server.clear_faults()
        self.site.start()
        while left := self.site.waiting():  # thousands, on a machine that may be busy
            wait_until(lambda left=left: self.site.waiting() < left, 120.0, f"{left} that wait to be told")  # type: ignore[misc]
        assert self.site.stop() == 0
        self._listen(1)
        self._hold_against_the_log()

    def _learn_the_urls(self) -> None:
        """Have each heartbeat pinged once: who asks the API first would spend its short life waiting for answers."""
        self.site.start()
        for beat in self.runs:
            assert self.site.run("-H", beat, "--no-wait", "--", "true").returncode == 0
        wait_until(lambda: self.site.waiting() == 0, what="a first ping of each")
        self.site.stop()
        self.site.server.clear_received()

    def _cycle(self) -> None:
        """A daemon starts, works for a moment or not even that, and is killed; now and then a flush is, too."""
        sock = self.site.home / "run" / "agent.sock"
        sock.unlink(missing_ok=True)
        daemon = self._start(AURA_AGENT, "run")
        kills = 0
        if self.rng.random() < 0.7:
            wait_until(sock.exists, timeout_s=60, what="a daemon that listens")
        instant_s = self.rng.uniform(0, 1.5)
        if self.rng.random() < 0.3:
            flush = self._start(AURA_AGENT, "queue", "flush")
            kills += _kill_after(flush, self.rng.uniform(0.2, 1.0))
        kills += _kill_after(daemon, instant_s)
        self.kills += kills
        self._listen(kills)

    def _start(self, *argv: str) -> "subprocess.Popen[bytes]":
        """Start one of the site's programs; what it says goes into the site's log."""
        with self.site.log.open("ab") as log:
            return subprocess.Popen(
                argv,
                env=self.site.environment,
                cwd=self.site.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def _load(self, beat: str, rng: random.Random) -> None:
        """Let jobs of *beat* run, one after the other, until it is calm."""
        while not self._calm.is_set():
            tag = f"{beat}.{len(self.runs[beat])}"
            code = rng.choice([0, 0, 0, 3]) if beat in MIXED else 0
            hold_s = rng.choice([0, 0, 0.1])
            job = (str(self._script), tag, str(code), str(hold_s))
            wrapper = self._start(AURA_RUN, "-j", beat, "--no-wait", "--", *job)
            killed = beat in MIXED and rng.random() < 0.3
            if killed:
                _kill_after(wrapper, rng.uniform(0, 0.2))
            status = wrapper.wait(timeout=60)
            done = (self._done / tag).exists()
            self.runs[beat].append(Run(tag, code, status, status == -signal.SIGKILL, done))

    def _listen(self, kills: int) -> None:
        """Nobody sends now: take note of what Aura has heard, and of what it must not hear any more."""
        for _ in range(20):  # what a killed process sent may still lie in the server's sockets
            self.site.server.run_on_the_loop(lambda: None)
        ended = {beat: list(runs) for beat, runs in self.runs.items()}
        heard = Counter(ping.body.strip() for ping in self.site.server.pings())
        for tag, times in (heard - self._heard).items():
            if times > kills:
                self.problems.append(f"{tag}: told {times} times between two cycles with {kills} kills")
            if tag in self.withdrawn:
                self.problems.append(f"{tag}: told after a later run had failed")
        self._heard = heard
        for runs in ended.values():
            failures = [at for at, run in enumerate(runs) if run.code != 0 and run.status == run.code]
            if failures:
                self.withdrawn |= {run.tag for run in runs[: failures[-1]] if run.tag not in heard}

    def _hold_against_the_log(self) -> None:
        said = self.site.log.read_bytes()
        if b"Traceback" in said or b"nobody foresaw" in said:
            self.problems.append(f"somebody met an error that nobody foresaw: {said.decode(errors='replace')}")
        for beat in SURE:
            self.problems += [
                f"{run.tag}: accepted and never told"
                for run in self.runs[beat]
                if run.accepted and not self._heard[run.tag]
            ]
            order = [ping.body.strip() for ping in self.site.server.pings(beat)]
            firsts = [int(tag.partition(".")[2]) for tag in dict.fromkeys(order)]
            if firsts != sorted(firsts):
                self.problems.append(f"{beat}: told out of order: {firsts}")
        for run in (run for runs in self.runs.values() for run in runs):
            if self._heard[run.tag] and (run.code != 0 or not run.done):
                self.problems.append(f"told, though it is no success: {run}")


def _kill_after(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Kill -9 in so long, unless it ends before that by itself; return whether it was killed."""
    deadline_s = time.monotonic() + seconds
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False

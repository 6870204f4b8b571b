"""Kills and other faults, again and again: daemon, courier and wrappers at random instants, while jobs keep reporting.

A cycle begins with a daemon that starts and ends with its ``kill -9``; random faults (``chaos_faults.py``) come about
meanwhile. Wrappers never deliver by themselves while a disk takes reports, and what was stopped over several cycles may
send nothing any more. So what Aura has received between two cycles is all that it can have received. On a *sure*
heartbeat each run succeeds and no wrapper is killed, on a *mixed* one anything happens.
"""

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.faults.chaos_faults import (
    BAD,
    HANGING,
    RENAMED,
    UNAVAILABLE,
    BadUrls,
    Fault,
    Flush,
    FrozenFlush,
    FullDisk,
    LostBoots,
    RenamedHeartbeat,
    StoppedDaemon,
    kill_after,
    start,
    stop_for,
)
from tests.waiting import wait_until

SURE = tuple(f"sure-{number}" for number in range(3))
MIXED = tuple(f"mixed-{number}" for number in range(3))
_LOADED = (*SURE, *MIXED, RENAMED)
_JOB = """#!/bin/sh
echo "$1"
[ "$3" = 0 ] || sleep "$3"
: >"$DONE/$1"
exit "$2"
"""


@dataclass(slots=True)
class Run:
    """One run that is over. *killed*: its wrapper was; *done*: its job had come to its end by then.

    *unsure*: the disk was full meanwhile, so nobody may have stored how it ended.
    """

    tag: str
    code: int
    status: int
    killed: bool
    done: bool
    unsure: bool

    @property
    def accepted(self) -> bool:
        """Whether it was told to be a success, and its wrapper has returned: it is on disk."""
        return self.code == 0 and self.status == 0 and not self.killed and not self.unsure


@dataclass
class Chaos:
    """What was done and what Aura heard. *problems* are the promises that were broken."""

    site: Site
    rng: random.Random
    runs: dict[str, list[Run]] = field(default_factory=dict)  # by heartbeat, in the order of their ends
    problems: list[str] = field(default_factory=list)
    kills: int = 0
    has_disk: bool = False  # the store has a file system of its own, which may be filled
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
        self._bad = BadUrls(self.site, self.rng)
        self._renamed = RenamedHeartbeat(self.site, self.rng)
        self._full = FullDisk(self.site, self.rng)
        self.faults: list[Fault] = [
            *(kind(self.site, self.rng) for kind in (Flush, FrozenFlush, LostBoots, StoppedDaemon)),
            self._bad,
            self._renamed,
            *([self._full] if self.has_disk else []),
        ]
        for beat in (*SURE, *MIXED, *BAD):
            self.site.server.create_heartbeat(beat, expected_interval=86_400)
        self.runs = {beat: [] for beat in _LOADED}
        self.site.configure(
            "\n".join(f'[jobs.{beat}]\nreplay = "all"\nattach = "output"\n' for beat in _LOADED)
            + "\n".join(f'[jobs.{beat}]\nattach = "output"\n' for beat in BAD)
        )

    def cycle_through(self, cycles: int) -> None:
        """Do all of it, and then let everything arrive."""
        self._learn_the_urls()
        self._bad.break_them()
        self.site.server.set_fault("slow", target="ping", delay_s=0.3)  # so that kills meet pings under way
        load = [threading.Thread(target=self._load, args=(beat, random.Random(self.rng.random()))) for beat in _LOADED]
        for thread in load:
            thread.start()
        try:
            for number in range(cycles):
                self._cycle(number)
        finally:
            self._calm.set()
            for thread in load:
                thread.join()
            for fault in self.faults:
                fault.close()
        self._let_everything_arrive()
        self._listen(1, "at the end")
        self._hold_against_the_log()

    def _learn_the_urls(self) -> None:
        """Have each heartbeat pinged once: who asks the API first would spend its short life waiting for answers."""
        self.site.start()
        for beat in (*_LOADED, *BAD):
            assert self.site.run("-H", beat, "--no-wait", "--", "true").returncode == 0
        wait_until(lambda: self.site.waiting() == 0, what="a first ping of each")
        self.site.stop()
        self.site.server.clear_received()

    def _let_everything_arrive(self) -> None:
        """Good heartbeats first, with the bad URLs still bad; then those that can be mended."""
        self.site.start()
        self._await_good()
        # On a full disk a listing, too, is remembered in memory alone.
        bearers = self._renamed.ids if self._full.times else self._renamed.bearers
        tag = "last-of-renamed"
        assert self.site.run("-j", RENAMED, "--no-wait", "--", "echo", tag).returncode == 0
        self._await_good()
        to = [ping.heartbeat_id for ping in self.site.server.pings() if ping.body.strip() == tag]
        if len(to) != 1 or to[0] not in bearers:
            self.problems.append(f"{tag}: told to {to}, not to one of {bearers}")
        assert self.site.stop() == 0
        self.site.server.clear_faults()
        self.site.agent("queue", "flush")

    def _await_good(self) -> None:
        while left := self._good_left():  # thousands, on a machine that may be busy
            wait_until(lambda left=left: self._good_left() < left, 120.0, f"{left} that wait to be told")  # type: ignore[misc]

    def _good_left(self) -> int:
        """Return how many pings wait, those of bad URLs not counted."""
        ((bad,),) = self.site.rows("SELECT count(*) FROM entries WHERE state = 'waiting' AND job GLOB 'bad-*'")
        return self.site.waiting() - int(bad)

    def _cycle(self, number: int) -> None:
        """A daemon starts, works for a moment or not even that, and is killed; faults come about beside it."""
        sock = self.site.home / "run" / "agent.sock"
        sock.unlink(missing_ok=True)
        faults = [fault for fault in self.faults if self.rng.random() < fault.chance]
        late = [fault for fault in faults if (self.rng.random() < 0.5 if fault.late is None else fault.late)]
        self.rng.shuffle(late)
        for fault in faults:
            if fault not in late:
                fault.begin()
        daemon = start(self.site, AURA_AGENT, "run")
        if self.rng.random() < 0.7:
            wait_until(sock.exists, timeout_s=60, what="a daemon that listens")
        instant_s = time.monotonic() + self.rng.uniform(0, 1.5)
        for fault in late:
            fault.daemon = daemon
            fault.begin()
        kills = int(kill_after(daemon, instant_s - time.monotonic()))
        kills += sum(fault.end() for fault in faults)
        self.kills += kills
        names = ", ".join(type(fault).__name__ + (" beside the daemon" if fault in late else "") for fault in faults)
        self._listen(kills, f"in cycle {number} with {names or 'no fault'}")

    def _load(self, beat: str, rng: random.Random) -> None:
        """Let jobs of *beat* run, one after the other, until it is calm."""
        while not self._calm.is_set():
            tag = f"{beat}.{len(self.runs[beat])}"
            code = rng.choice([0, 0, 0, 3]) if beat in MIXED else 0
            hold_s = rng.choice([0, 0, 0.1])
            job = (str(self._script), tag, str(code), str(hold_s))
            began_s = time.monotonic()
            wrapper = start(self.site, AURA_RUN, "-j", beat, "--no-wait", "--", *job)
            if rng.random() < 0.1:
                with suppress(subprocess.TimeoutExpired):
                    wrapper.wait(rng.uniform(0, 0.2))
                stop_for(wrapper, rng.uniform(0, 0.5))
            killed = beat in MIXED and rng.random() < 0.3
            if killed:
                kill_after(wrapper, rng.uniform(0, 0.2))
            status = wrapper.wait(timeout=120)
            done = (self._done / tag).exists()
            unsure = self._full.was_met(began_s, time.monotonic())
            self.runs[beat].append(Run(tag, code, status, status == -signal.SIGKILL, done, unsure))

    def _listen(self, kills: int, when: str) -> None:
        """Nobody sends now: take note of what Aura has heard, and of what it must not hear any more."""
        for _ in range(20):  # what a killed process sent may still lie in the server's sockets
            self.site.server.run_on_the_loop(lambda: None)
        ended = {beat: list(runs) for beat, runs in self.runs.items()}
        heard = Counter(ping.body.strip() for ping in self.site.server.pings() if ping.accepted and ping.body)
        for tag, times in (heard - self._heard).items():
            if times > kills:
                self.problems.append(f"{tag}: told {times} times {when} and {kills} kills")
            if tag in self.withdrawn:
                self.problems.append(f"{tag}: told {when} after a later run had failed")
        self._heard = heard
        for runs in ended.values():
            failures = [at for at, run in enumerate(runs) if _failed_for_sure(run)]
            if failures:
                self.withdrawn |= {run.tag for run in runs[: failures[-1]] if run.tag not in heard}

    def _hold_against_the_log(self) -> None:
        said = self.site.log.read_bytes()
        if b"Traceback" in said or b"nobody foresaw" in said:
            self.problems.append(f"somebody met an error that nobody foresaw: {said.decode(errors='replace')}")
        for beat in (*SURE, RENAMED):
            self.problems += [f"{run.tag}: accepted and never told" for run in self._lost(self.runs[beat])]
        for beat in SURE:
            unsure = {run.tag for run in self.runs[beat] if run.unsure}
            order = [ping.body.strip() for ping in self.site.server.pings(beat)]
            firsts = [int(tag.partition(".")[2]) for tag in dict.fromkeys(order) if tag not in unsure]
            if firsts != sorted(firsts):
                self.problems.append(f"{beat}: told out of order: {firsts}")
        for beat in (UNAVAILABLE, HANGING):
            for tag, *span in self._bad.accepted[beat][-1:]:
                if not self._heard[tag] and not self._full.was_met(*span):
                    self.problems.append(f"{tag}: accepted and never told")
        for run in (run for runs in self.runs.values() for run in runs):
            if self._heard[run.tag] and (run.code != 0 or not run.done):
                self.problems.append(f"told, though it is no success: {run}")

    def _lost(self, runs: list[Run]) -> list[Run]:
        """Return the accepted successes that were never told.

        A later run of which nobody could store how it ended is a lost one: it withdraws what still waits.
        """
        gone = [at for at, run in enumerate(runs) if run.unsure and not self._heard[run.tag]]
        sure_from = gone[-1] if gone else 0
        return [run for run in runs[sure_from:] if run.accepted and not self._heard[run.tag]]


def _failed_for_sure(run: Run) -> bool:
    """Whether a failure was reported, and stored."""
    return run.code != 0 and run.status == run.code and not run.unsure

"""Kills and other faults, again and again: daemon, courier and wrappers at random instants, while jobs keep reporting.

A cycle begins with a daemon that starts and ends with its ``kill -9``; random faults (``chaos_faults``, ``chaos_disk``,
``chaos_flush``) come about meanwhile. Wrappers never deliver by themselves while a disk takes reports, and what was
stopped over several cycles may send nothing any more. So what Aura has received between two cycles is all that it can
have received, and each accepted success that it has not received must then be in the store. On a *sure* heartbeat each
run succeeds and no wrapper is killed, on a *mixed* one anything happens.

Suspend is not among the faults: nothing makes CLOCK_BOOTTIME jump under a process that runs, and the offset of a time
namespace, which only a new process gets, is what the program subtracts. ``tests/outbox/test_stateful.py`` has it.
"""

import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.faults.chaos_disk import FrozenDisk, FullDisk, RestoredStore
from tests.faults.chaos_faults import (
    BAD,
    HANGING,
    RENAMED,
    UNAVAILABLE,
    BadUrls,
    Fault,
    LostBoots,
    OtherAccount,
    RenamedHeartbeat,
    StoppedDaemon,
)
from tests.faults.chaos_flush import ASLEEP, Flush, FrozenFlush
from tests.faults.chaos_processes import Gate, Process, kill_after, start, stop_for
from tests.waiting import wait_until

SURE = tuple(f"sure-{number}" for number in range(3))
MIXED = tuple(f"mixed-{number}" for number in range(3))
OTHER = OtherAccount.name
_LOADED = (*SURE, *MIXED, RENAMED)
_NEVER_KILLED = (*SURE, RENAMED)
_TAG = re.compile(rb"\b[a-z0-9-]+\.[0-9]+\b")
_JOB = """#!/bin/sh
echo "$1"
[ "$3" = 0 ] || sleep "$3"
: >"$DONE/$1"
exit "$2"
"""


@dataclass(slots=True)
class Run:
    """One run that is over. *killed*: its wrapper was; *done*: its job had come to its end by then.

    *unsure*: the disk took nothing at some time meanwhile, so nobody may have stored how it ended. *gone*: the store was
    put back later, perhaps to a state in which it had no word of it.
    """

    tag: str
    code: int
    status: int
    killed: bool
    done: bool
    unsure: bool
    gone: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it was told to be a success, and its wrapper has returned: it is on disk."""
        return self.code == 0 and self.status == 0 and not self.killed and not self.unsure

    @property
    def failed_for_sure(self) -> bool:
        """Whether a failure was reported, and stored."""
        return self.code != 0 and self.status == self.code and not self.unsure and not self.gone


@dataclass
class Chaos:
    """What was done and what Aura heard. *problems* are the promises that were broken.

    *other* is the Aura of another account; *disk* is the kind of the store's own file system.
    """

    site: Site
    other: ThreadedDevServer
    rng: random.Random
    disk: str
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
        self._missed: set[str] = set()  # tags that Aura needn't hear any more, or whose loss is on record
        self._last_kills = 0  # after the last cycle
        self._calm = threading.Event()
        self._gate = Gate()
        self._daemon: Process | None = None
        self.site.extra["DONE"] = str(self._done)
        for beat in (*SURE, *MIXED, *BAD):
            self.site.server.create_heartbeat(beat, expected_interval=86_400)
        self.runs = {beat: [] for beat in (*_LOADED, OTHER)}
        self.site.configure(
            "\n".join(f'[jobs.{beat}]\nreplay = "all"\nattach = "output"\n' for beat in _LOADED)
            + "\n".join(f'[jobs.{beat}]\nattach = "output"\n' for beat in BAD)
            + FrozenFlush.config()
        )
        self._make_faults()

    def _make_faults(self) -> None:
        """In the order in which they begin before the daemon's start."""
        site, rng = self.site, self.rng
        self._bad = BadUrls(site, rng)
        self._renamed = RenamedHeartbeat(site, rng)
        self._full = FullDisk(site, rng)
        self._frozen = FrozenDisk(site, rng)
        self._stranger = OtherAccount(site, rng, self.other, SURE[0])
        self.asleep = FrozenFlush(site, rng)
        self._restored = RestoredStore(site, rng, self._gate, self.asleep.give_up, self._note_restored)
        self.faults: list[Fault] = [
            self._restored,
            self.asleep,
            LostBoots(site, rng),
            Flush(site, rng, self._stranger.environment),
            StoppedDaemon(site, rng),
            self._bad,
            self._renamed,
            self._stranger,
            *([self._full] if self.disk else []),
            *([self._frozen] if self.disk == "ext4" else []),
        ]

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
            for fault in (self._frozen, *self.faults):
                self._last_kills += fault.close()
            for thread in load:
                thread.join()
            if self._daemon is not None:
                kill_after(self._daemon, 0.0)
        self._let_everything_arrive()
        self._listen(self._last_kills + 1, "at the end")  # and then whoever is left tells it
        self._hold_against_the_log()

    def _learn_the_urls(self) -> None:
        """Have each heartbeat pinged once: who asks the API first would spend its short life waiting for answers."""
        self.site.start()
        for beat in (*_LOADED, *BAD):
            assert self.site.run("-H", beat, "--no-wait", "--", "true").returncode == 0
        wait_until(lambda: self.site.waiting() == 0, what="a first ping of each")
        self.site.stop()
        self.site.server.clear_received()
        self._stranger.introduce()

    def _let_everything_arrive(self) -> None:
        """Good heartbeats first, with the bad URLs still bad; then those that can be mended."""
        self.site.start()
        release = start(self.site, AURA_AGENT, "queue", "flush")  # of what is held
        self._await_good()
        kill_after(release, 120.0)
        listed = self.site.server.create_heartbeat("listed-at-the-end", expected_interval=86_400).id
        assert self.site.run("-H", "listed-at-the-end", "--no-wait", "--", "true").returncode == 0
        wait_until(lambda: self.site.server.pings(listed), 120.0, "a listing")
        tag = "last-of-renamed"
        assert self.site.run("-j", RENAMED, "--no-wait", "--", "echo", tag).returncode == 0
        self._await_good()
        to = [ping.heartbeat_id for ping in self.site.server.pings() if ping.body.strip() == tag]
        if to != self._renamed.ids[-1:]:
            self.problems.append(f"{tag}: told to {to}, not to the last of {self._renamed.ids}")
        assert self.site.stop() == 0
        self.site.server.clear_faults()
        self.site.agent("queue", "flush")

    def _await_good(self) -> None:
        while left := self._good_left():  # thousands, on a machine that may be busy
            wait_until(lambda left=left: self._good_left() < left, 120.0, f"{left} that wait to be told")  # type: ignore[misc]

    def _good_left(self) -> int:
        """Return how many pings wait, those of bad URLs not counted."""
        jobs = ", ".join(f"'{job}'" for job in (*BAD, *ASLEEP))
        ((bad,),) = self.site.rows(f"SELECT count(*) FROM entries WHERE state = 'waiting' AND job IN ({jobs})")
        return self.site.waiting() - int(bad)

    def _cycle(self, number: int) -> None:
        """A daemon starts, works for a moment or not even that, and is killed; faults come about beside it."""
        sock = self.site.home / "run" / "agent.sock"
        sock.unlink(missing_ok=True)
        faults = [fault for fault in self.faults if self.rng.random() < fault.chance]
        late = [fault for fault in faults if (self.rng.random() < 0.5 if fault.late is None else fault.late)]
        self.rng.shuffle(late)
        late.sort(key=lambda fault: fault is self._frozen)
        for fault in [fault for fault in faults if fault not in late]:
            if self._restored.is_restored and isinstance(fault, Flush | FrozenFlush):
                faults.remove(fault)  # it would send what is held
            else:
                fault.begin()
        if self._restored.is_restored:
            late = [fault for fault in late if not isinstance(fault, Flush)]
            faults = [fault for fault in faults if fault in late or not isinstance(fault, Flush)]
        daemon = self._daemon = start(self.site, AURA_AGENT, "run")
        if self.rng.random() < 0.7:
            wait_until(lambda: sock.exists() or daemon.poll() is not None, timeout_s=60, what="a daemon that listens")
        instant_s = time.monotonic() + self.rng.uniform(0, 1.5)
        for fault in late:
            fault.daemon = daemon
            fault.begin()
        kills = int(self._kill(daemon, instant_s))
        is_behind = self._restored.is_behind
        kills += sum(fault.end() for fault in faults)
        self.kills += kills
        names = ", ".join(type(fault).__name__ + (" beside the daemon" if fault in late else "") for fault in faults)
        self._listen(kills, f"in cycle {number} with {names or 'no fault'}", is_behind=is_behind)

    def _kill(self, daemon: Process, instant_s: float) -> bool:
        """Kill the daemon then, unless it ends before; return whether it was killed. Who hangs in the disk is freed."""
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(max(0.0, instant_s - time.monotonic()))
        is_alive = daemon.poll() is None
        daemon.kill()
        self._frozen.thaw()
        daemon.wait()
        return is_alive

    def _load(self, beat: str, rng: random.Random) -> None:
        """Let jobs of *beat* run, one after the other, until it is calm."""
        while not self._calm.is_set():
            with self._gate.job():
                self._run_one(beat, rng)
            self._calm.wait(rng.uniform(0, 0.5))  # the faults shall have some of the CPU, too

    def _run_one(self, beat: str, rng: random.Random) -> None:
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
        unsure = self._met_the_disk(began_s, time.monotonic())
        self.runs[beat].append(Run(tag, code, status, status == -signal.SIGKILL, done, unsure))

    def _met_the_disk(self, began_s: float, ended_s: float) -> bool:
        """Whether the disk took nothing at some time between the two."""
        return any(fault.spans.meet(began_s, ended_s) for fault in (self._full, self._frozen))

    def _note_restored(self) -> None:
        """The store was put back, while nobody ran: what Aura hasn't heard by now may not be known there."""
        for run in (run for runs in self.runs.values() for run in runs):
            run.gone = True
            if not self._heard[run.tag]:
                self._missed.add(run.tag)
        self.withdrawn.clear()

    def _listen(self, kills: int, when: str, *, is_behind: bool = False) -> None:
        """Nobody sends now: take note of what Aura has heard, and of what it must not hear any more.

        *is_behind*: the store was put back to a state from before something was sent. What Aura had heard is held there.
        """
        for server in (self.site.server, self.other):
            for _ in range(20):  # what a killed process sent may still lie in the server's sockets
                server.run_on_the_loop(lambda: None)
        self._note_strangers()
        ended = {beat: list(runs) for beat, runs in self.runs.items()}
        heard = self._read_pings()
        unsure = {run.tag for runs in ended.values() for run in runs if run.unsure}
        for tag, times in (heard - self._heard).items():
            if times > kills + (tag in unsure):  # a wrapper sends from memory what the disk may take later
                self.problems.append(f"{tag}: told {times} times {when} and {kills} kills")
            if is_behind and self._heard[tag] and tag not in unsure and not tag.startswith(RENAMED):
                self.problems.append(f"{tag}: told again {when}, though it was told before the store was put back")
            if tag in self.withdrawn - self.asleep.may_send:
                self.problems.append(f"{tag}: told {when} after a later run had failed")
        self._heard = heard
        self._miss(ended, when)
        for runs in ended.values():
            failures = [at for at, run in enumerate(runs) if run.failed_for_sure]
            if failures:
                self.withdrawn |= {run.tag for run in runs[: failures[-1]] if run.tag not in heard}

    def _note_strangers(self) -> None:
        for tag, code, status, *span in self._stranger.runs[len(self.runs[OTHER]) :]:
            unsure = self._met_the_disk(*span)
            self.runs[OTHER].append(Run(tag, code, status, killed=False, done=True, unsure=unsure))

    def _read_pings(self) -> Counter[str]:
        """Return how often each tag was told; a ping at the wrong Aura is a problem."""
        ours = Counter(ping.body.strip() for ping in self.site.server.pings() if ping.accepted and ping.body)
        theirs = Counter(ping.body.strip() for ping in self.other.pings() if ping.accepted and ping.body)
        astray = {tag for tag in ours if tag.startswith(f"{OTHER}.")} | {
            tag for tag in theirs if not tag.startswith(f"{OTHER}.")
        }
        self.problems += [f"{tag}: told to the Aura of another account" for tag in sorted(astray - self._missed)]
        self._missed |= astray
        return ours + theirs

    def _miss(self, ended: Mapping[str, list[Run]], when: str) -> None:
        """Each accepted success that was not heard must be waiting.

        A later run of which nobody could store how it ended is a lost one: it withdraws what waits.
        """
        waiting = self._waiting_tags()
        for beat in _NEVER_KILLED:
            runs = ended[beat]
            lost = max((at for at, run in enumerate(runs) if run.unsure and not self._heard[run.tag]), default=0)
            for at, run in enumerate(runs):
                if not run.accepted or self._heard[run.tag] or run.tag in waiting or run.tag in self._missed:
                    continue
                self._missed.add(run.tag)
                if at >= lost:
                    self.problems.append(f"{run.tag}: accepted, never told, and gone {when}: {self._story(beat)}")

    def _waiting_tags(self) -> set[str]:
        """Return the tags of all that the store still has to send, wherever it is in there."""
        contents = [row[0] for row in self.site.rows("SELECT body FROM entries WHERE state = 'waiting'")]
        contents += [row[0] for row in self.site.rows("SELECT line FROM inbox")]
        spool = self.site.state / "spool"
        contents += [path.read_bytes() for path in spool.iterdir() if path.is_file()] if spool.exists() else []
        return {tag.decode() for content in contents if content for tag in _TAG.findall(content)}

    def _story(self, beat: str) -> str:
        """Return what the store says of the newest runs of *beat*."""
        query = (
            "SELECT CAST(body AS TEXT), epoch, started_boot_ns, state, reason, tries FROM entries"
            f" WHERE job = '{beat}' ORDER BY id DESC LIMIT 10"
        )
        return "; ".join(str(row) for row in self.site.rows(query))

    def _hold_against_the_log(self) -> None:
        said = self.site.log.read_bytes()
        if b"Traceback" in said or b"internal error" in said:
            self.problems.append(f"somebody met an error that nobody foresaw: {said.decode(errors='replace')}")
        aside = [path.name for path in self.site.state.rglob("*") if ".corrupt-" in path.name]
        if aside:
            self.problems.append(f"set aside as damaged: {aside}")
        for beat in _NEVER_KILLED:
            left = [run.tag for run in self.runs[beat] if run.accepted and not self._heard[run.tag]]
            self.problems += [f"{tag}: accepted and never told" for tag in left if tag not in self._missed]
        for beat in SURE:
            unsure = {run.tag for run in self.runs[beat] if run.unsure}
            order = [ping.body.strip() for ping in self.site.server.pings(beat)]
            firsts = [int(tag.partition(".")[2]) for tag in dict.fromkeys(order) if tag not in unsure | self._missed]
            if firsts != sorted(firsts):
                self.problems.append(f"{beat}: told out of order: {firsts}")
        for tag in self._last_of_bad():
            if not self._heard[tag]:
                self.problems.append(f"{tag}: accepted and never told: {self._story(tag.partition('.')[0])}")
        for run in (run for runs in self.runs.values() for run in runs):
            if self._heard[run.tag] and (run.code != 0 or not run.done):
                self.problems.append(f"told, though it is no success: {run}")
        self.problems += [f"a flush that woke too late sent {sent!r}" for sent in self.asleep.sent]

    def _last_of_bad(self) -> list[str]:
        """Return the tags of what must have been told in the end on heartbeats of which only the newest counts."""
        found = [
            tag
            for beat in (UNAVAILABLE, HANGING)
            for tag, *span in self._bad.accepted[beat][-1:]
            if not self._met_the_disk(*span) and span[1] > self._restored.restored_s
        ]
        last = self.runs[OTHER][-1:]
        return found + [run.tag for run in last if run.accepted and not run.gone]

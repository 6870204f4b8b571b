"""Faults for the chaos run. Each begins before a daemon starts or while it works, and ends after the daemon's kill.

A fault does something to processes, files or the embedded Aura. It judges nothing: the oracle is in ``chaos.py``.
"""

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.machine import tmpfs
from tests.waiting import wait_until

Process = subprocess.Popen[bytes]
NO_HOST, UNAVAILABLE, HANGING = BAD = ("bad-no-host", "bad-503", "bad-hanging")
RENAMED = "renamed"
_LONGEST_WAIT_S = 60.0
_WINDOW_S = (35.0, 120.0)  # a claimed ping may be sent for 30 s, and its lease ends after 90 s
_OTHER_BOOT = "00000000-0000-4000-8000-{:012x}\n"
_DISK = "64m"


def start(site: Site, *argv: str) -> Process:
    """Start one of the site's programs; its messages go into the site's log."""
    with site.log.open("ab") as log:
        return subprocess.Popen(
            argv,
            env=site.environment,
            cwd=site.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def kill_after(process: Process, seconds: float) -> bool:
    """Kill -9 in so long, unless it ends before that by itself; return whether it was killed."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def stop_for(process: Process, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after *seconds*, unless the process ends before that by a kill."""
    process.send_signal(signal.SIGSTOP)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGCONT)


class Fault:
    """Something that goes wrong in one cycle, with the probability *chance*. *late*: only beside a working daemon."""

    chance: ClassVar[float] = 0.2
    late: ClassVar[bool | None] = None  # None: before the daemon or beside it, at random

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.daemon: Process | None = None  # the one that works
        self.times = 0  # how often it came about

    def begin(self) -> None:
        """Begin, before the daemon's start or beside it."""
        raise NotImplementedError

    def end(self) -> int:
        """End it, with the daemon gone; return how many processes were killed for that."""
        return 0

    def close(self) -> None:
        """Leave nothing behind, after the last cycle."""


class StoppedDaemon(Fault):
    """The daemon is stopped for a moment and goes on, or is killed while it is stopped."""

    late = True

    def begin(self) -> None:
        assert self.daemon is not None
        self.times += 1
        if self.rng.random() < 0.3:
            self.daemon.send_signal(signal.SIGSTOP)
        else:
            stop_for(self.daemon, self.rng.uniform(0.0, 0.5))


class Flush(Fault):
    """A ``queue flush`` beside the daemon, stopped for a moment at times, and killed at last."""

    chance = 0.3
    _flush: Process | None = None

    def begin(self) -> None:
        self.times += 1
        self._flush = start(self.site, AURA_AGENT, "queue", "flush")
        if self.rng.random() < 0.5:
            with suppress(subprocess.TimeoutExpired):
                self._flush.wait(self.rng.uniform(0.2, 0.8))
            stop_for(self._flush, self.rng.uniform(0.0, 0.3))

    def end(self) -> int:
        assert self._flush is not None
        return int(kill_after(self._flush, self.rng.uniform(0.0, 0.5)))


class FrozenFlush(Fault):
    """A ``queue flush`` that is stopped for several cycles, until what it has claimed is too old to be sent.

    Woken before that it might rightly send what a failure has withdrawn meanwhile; so it is killed, or left asleep.
    """

    _flush: Process | None = None
    _until_s = 0.0
    _asleep = False

    def begin(self) -> None:
        if self._flush is None:
            self._flush = start(self.site, AURA_AGENT, "queue", "flush")
            with suppress(subprocess.TimeoutExpired):
                self._flush.wait(self.rng.uniform(0.3, 1.5))
            self._flush.send_signal(signal.SIGSTOP)
            self._until_s = time.monotonic() + self.rng.uniform(*_WINDOW_S)
            self._asleep = self._flush.poll() is None and not self._store_is_locked()
        elif time.monotonic() > self._until_s:
            self.times += 1
            self._asleep = False
            self._flush.send_signal(signal.SIGCONT)

    def end(self) -> int:
        if self._flush is None or self._asleep:
            return 0
        flush, self._flush = self._flush, None
        return int(kill_after(flush, 0.0))

    def close(self) -> None:
        self._asleep = False
        self.end()

    def _store_is_locked(self) -> bool:
        """Whether it was stopped within a transaction: then nobody else could write for two minutes."""
        with closing(sqlite3.connect(f"file:{self.site.state}/outbox.db?mode=rw", uri=True, timeout=1.0)) as store:
            try:
                store.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            store.rollback()
            return False


class LostBoots(Fault):
    """``boots`` is removed, empty, an older copy, or one of another host."""

    def begin(self) -> None:
        self.times += 1
        boots = self.site.state / "boots"
        kind = self.rng.choice(["removed", "empty", "older", "foreign"])
        if kind == "removed":
            boots.unlink(missing_ok=True)
            if self.rng.random() < 0.5:
                (self.site.state / "boot-clock").unlink(missing_ok=True)
            return
        before = boots.read_text("ascii") if boots.exists() else ""
        content = {
            "empty": "",
            "older": "".join(before.splitlines(keepends=True)[:-1]),
            "foreign": _OTHER_BOOT.format(self.rng.randrange(2**48)),
        }
        copy = self.site.state / "boots.copy"
        copy.write_text(content[kind], "ascii")
        copy.chmod(0o600)
        copy.replace(boots)


class BadUrls(Fault):
    """A success of a heartbeat whose ping URL has no host, answers 503, or hangs, among those of good ones."""

    chance = 0.4

    def __init__(self, site: Site, rng: random.Random) -> None:
        super().__init__(site, rng)
        self.accepted: dict[str, list[tuple[str, float, float]]] = {beat: [] for beat in BAD}  # tag, begin, end
        self._run: tuple[str, str, float, Process] | None = None

    def break_them(self) -> None:
        """Have the URLs fail from now on, for good; each has been pinged before."""
        self.site.server.set_fault("status", target="ping", heartbeat=UNAVAILABLE, status=503)
        self.site.server.set_fault("hang", target="ping", heartbeat=HANGING)
        with closing(sqlite3.connect(f"file:{self.site.state}/outbox.db?mode=rw", uri=True, timeout=30)) as store:
            changed = store.execute(
                "UPDATE heartbeats SET ping_url = 'https:///ping/key' WHERE id = ?",  # as an older version stored it
                (self.site.server.heartbeat(NO_HOST).id,),
            )
            store.commit()
            assert changed.rowcount == 1

    def begin(self) -> None:
        self.times += 1
        beat = self.rng.choice(BAD)
        tag = f"{beat}.{self.times}"
        self._run = beat, tag, time.monotonic(), start(self.site, AURA_RUN, "-j", beat, "--no-wait", "--", "echo", tag)

    def end(self) -> int:
        assert self._run is not None
        beat, tag, began_s, wrapper = self._run
        if wrapper.wait(_LONGEST_WAIT_S) == 0:
            self.accepted[beat].append((tag, began_s, time.monotonic()))
        return 0


class FullDisk(Fault):
    """The state directory's file system is full, but readable. *spans* are when, in monotonic seconds."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        super().__init__(site, rng)
        self.spans: list[tuple[float, float]] = []

    @property
    def _filler(self) -> Path:
        return self.site.state / "filler"

    def begin(self) -> None:
        self.times += 1
        self.spans.append((time.monotonic(), float("inf")))
        with self._filler.open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"0" * 4096)

    def was_met(self, began_s: float, ended_s: float) -> bool:
        """Whether the disk was full at some time between the two."""
        return any(since_s <= ended_s and began_s <= until_s for since_s, until_s in self.spans)

    def end(self) -> int:
        self._filler.unlink()
        self.spans[-1] = (self.spans[-1][0], time.monotonic())
        return 0


class RenamedHeartbeat(Fault):
    """A heartbeat gets another name, and a new one its old name. *ids* are those of all that bore it, oldest first.

    A run under a name that no listing has had yet makes the daemon list heartbeats, and learn of the change.
    """

    chance = 0.1
    _run: Process | None = None

    def __init__(self, site: Site, rng: random.Random) -> None:
        super().__init__(site, rng)
        self.ids = [self._create(RENAMED)]

    @property
    def bearers(self) -> list[str]:
        """The ids of those that a ping under the name may go to: the newest, once a listing has had it."""
        is_listed = not self.times or self.site.server.pings(f"new-{self.times}")
        return self.ids[-1:] if is_listed else self.ids

    def begin(self) -> None:
        self.times += 1
        self.site.server.update_heartbeat(self.ids[-1], name=f"{RENAMED}-before-{self.times}")
        self.ids.append(self._create(RENAMED))
        self._create(f"new-{self.times}")
        self._run = start(self.site, AURA_RUN, "-H", f"new-{self.times}", "--no-wait", "--", "true")

    def end(self) -> int:
        assert self._run is not None
        self._run.wait(_LONGEST_WAIT_S)
        return 0

    def _create(self, name: str) -> str:
        return self.site.server.create_heartbeat(name, expected_interval=86_400).id


@contextmanager
def disk_of_its_own(site: Site) -> Iterator[None]:
    """Put the state directory on a small file system while in the context, where the machine can do that."""
    site.state.mkdir(mode=0o700)
    if tmpfs():
        yield
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=700", "none", str(site.state)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        if site.daemon is not None:
            site.kill()
        unmount = ["umount", str(site.state)]
        wait_until(lambda: subprocess.run(unmount, capture_output=True, check=False).returncode == 0, what="unmounting")

"""Faults for the chaos run. Each begins before a daemon starts or while it works, and ends after the daemon's kill.

A fault does something to processes, files or the embedded Aura. It judges nothing: the oracle is in ``chaos.py``.
"""

import random
import signal
import sqlite3
import time
from contextlib import closing
from typing import ClassVar

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.e2e.sites import AURA_RUN, Site
from tests.faults.chaos_processes import Process, start, stop_for

NO_HOST, UNAVAILABLE, HANGING = BAD = ("bad-no-host", "bad-503", "bad-hanging")
RENAMED = "renamed"
_LONGEST_WAIT_S = 60.0
_OTHER_BOOT = "00000000-0000-4000-8000-{:012x}\n"


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

    def close(self) -> int:
        """Leave nothing behind, after the last cycle; return how many processes were killed for that."""
        return 0


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
        try:
            copy.write_text(content[kind], "ascii")
            copy.chmod(0o600)
            copy.replace(boots)
        except OSError:  # the disk is full
            copy.unlink(missing_ok=True)


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


class OtherAccount(Fault):
    """A run of another account: the same store and the same name of a heartbeat, at another Aura.

    It never asks the daemon, whose account is meant by what is reported to it. *runs* are over: its tag, how the job
    ended, how its wrapper did, and when it began and ended.
    """

    name = "other"
    chance = 0.3

    def __init__(self, site: Site, rng: random.Random, server: ThreadedDevServer, heartbeat: str) -> None:
        super().__init__(site, rng)
        self._heartbeat = heartbeat
        server.create_heartbeat(heartbeat, expected_interval=86_400)
        self.environment = site.environment | {
            "AURA_API_URL": server.base_url,
            "AURA_TOKEN": server.token,
            "AURA_SOCKET": str(site.home / "nobody.sock"),
        }
        self.runs: list[tuple[str, int, int, float, float]] = []
        self._run: tuple[str, int, float, Process] | None = None

    def introduce(self) -> None:
        """Have the store know the account and its heartbeat, while no daemon runs."""
        ended = self.site.run("-H", self._heartbeat, "--", "true", env=self.environment)
        assert ended.returncode == 0, ended.stderr

    def begin(self) -> None:
        self.times += 1
        tag, code = f"{self.name}.{self.times}", self.rng.choice([0, 0, 3])
        job = ("sh", "-c", f"echo {tag}; exit {code}")
        argv = (AURA_RUN, "-H", self._heartbeat, "--attach", "output", "--no-wait", "--", *job)
        self._run = tag, code, time.monotonic(), start(self.site, *argv, environment=self.environment)

    def end(self) -> int:
        assert self._run is not None
        tag, code, began_s, wrapper = self._run
        status = wrapper.wait(_LONGEST_WAIT_S)
        self.runs.append((tag, code, status, began_s, time.monotonic()))
        return 0

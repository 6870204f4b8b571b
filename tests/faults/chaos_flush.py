"""``queue flush`` beside the daemon of a chaos run: killed, stopped for a moment, or asleep until it is too late."""

import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing, suppress

from tests.e2e.sites import AURA_AGENT, Site
from tests.faults.chaos_faults import Fault
from tests.faults.chaos_processes import Process, kill_after, start, stop_for
from tests.waiting import wait_until

ASLEEP = ("asleep", "asleep-short")  # jobs whose ping is being sent meanwhile
_MAX_AGE_S = 12.0  # of the second
_DECIDED_S = 31.0  # what was decided longer ago must not be sent
_LEASE_S = 80.0  # nobody else takes what it holds
_CONNECTING_S = 20.0
_TRIES = 3
_SYN_SENT = "02"


class Flush(Fault):
    """A ``queue flush`` beside the daemon, of its account or another one; stopped at times, and killed at last."""

    chance = 0.3
    _flush: Process | None = None

    def __init__(self, site: Site, rng: random.Random, other: Mapping[str, str]) -> None:
        super().__init__(site, rng)
        self._other = other

    def begin(self) -> None:
        self.times += 1
        environment = self._other if self.rng.random() < 0.3 else self.site.environment
        self._flush = start(self.site, AURA_AGENT, "queue", "flush", environment=environment)
        if self.rng.random() < 0.5:
            with suppress(subprocess.TimeoutExpired):
                self._flush.wait(self.rng.uniform(0.2, 0.8))
            stop_for(self._flush, self.rng.uniform(0.0, 0.3))

    def end(self) -> int:
        assert self._flush is not None
        return int(kill_after(self._flush, self.rng.uniform(0.0, 0.5)))


class _Door:
    """A listener that lets nobody in, its backlog being full, until it is opened for one caller."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._listener.settimeout(_CONNECTING_S)
        self.port = int(self._listener.getsockname()[1])
        self._sockets = [self._listener, socket.create_connection(self._listener.getsockname())]
        self._caller: socket.socket | None = None

    def is_knocked_at(self) -> bool:
        """Whether somebody waits for an answer to a SYN, which the kernel will send again."""
        with open("/proc/net/tcp", encoding="ascii") as table:
            rows = [line.split() for line in table][1:]
        return any(row[2].endswith(f":{self.port:04X}") and row[3] == _SYN_SENT for row in rows)

    def open(self) -> None:
        """Let in who knocks."""
        self._sockets.append(self._listener.accept()[0])
        self._caller, _ = self._listener.accept()
        self._caller.settimeout(_CONNECTING_S)
        self._sockets.append(self._caller)

    def read(self) -> bytes:
        """Return what the caller says first; nothing if it leaves without a word."""
        assert self._caller is not None
        return self._caller.recv(100)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


class FrozenFlush(Fault):
    """A ``queue flush`` that is stopped while it connects, over several cycles, and wakes when that ping is false.

    By then a later run has failed, and the ping was decided too long ago or has expired; its lease still holds, so
    nobody else may send it either. *sent* is what came over the connection all the same. What else it was about to
    send, and was decided less than 30 s ago, it still may: *may_send* are the tags.
    """

    chance = 0.6
    late = False

    def __init__(self, site: Site, rng: random.Random) -> None:
        super().__init__(site, rng)
        self.sent: list[bytes] = []
        self.may_send: set[str] = set()
        self.kills = 0
        self._flush: Process | None = None
        self._door: _Door | None = None  # it sleeps before this
        self._wake_from_s = self._wake_until_s = 0.0
        self._job = ASLEEP[0]
        self._held: set[str] = set()

    @staticmethod
    def config() -> str:
        """Return the config of the jobs."""
        return f"[jobs.{ASLEEP[0]}]\n[jobs.{ASLEEP[1]}]\nmax_age = '{_MAX_AGE_S:g}s'\n"

    def begin(self) -> None:
        if self._flush is None:
            self._fall_asleep()
        elif time.monotonic() > self._wake_from_s:
            self._wake()

    def end(self) -> int:
        return 0 if self._door is not None else self._kill()

    def give_up(self) -> None:
        """Kill it in its sleep."""
        if self._door is not None:
            self._door.close()
            self._door = None
        self._kill()

    def close(self) -> int:
        """Have it wake once more, and be gone; on a busy machine it may need more than one try to wake at all."""
        before = self.kills
        for _ in range(_TRIES):
            if self._door is not None:
                wait_until(lambda: time.monotonic() > self._wake_from_s, _DECIDED_S + 5.0, "the end of its sleep")
                self._wake()
            self._kill()
            if self.times:
                return self.kills - before
            self._fall_asleep()
        self.give_up()
        return self.kills - before

    def _kill(self) -> int:
        flush, self._flush = self._flush, None
        killed = 0 if flush is None else int(kill_after(flush, 0.0))
        self.kills += killed
        return killed

    def _fall_asleep(self) -> None:
        self._job = self.rng.choice(ASLEEP)
        door = self._door = _Door()
        (self.site.home / "asleep.url").write_text(f"http://127.0.0.1:{door.port}/ping/asleep\n")
        if self._run("true") != 0:
            self.give_up()
            return
        decided_s = time.monotonic()
        flush = self._flush = start(self.site, AURA_AGENT, "queue", "flush")
        try:
            wait_until(door.is_knocked_at, _CONNECTING_S)
        except AssertionError:  # it has expired on a slow machine
            self.give_up()
            return
        flush.send_signal(signal.SIGSTOP)
        while self._store_is_locked():  # stopped within a transaction, it would let nobody write
            flush.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            flush.send_signal(signal.SIGSTOP)
        self._held = self._leased_to(flush)
        door.open()
        now_s = time.monotonic()
        self._wake_from_s = decided_s + _MAX_AGE_S if self._job == ASLEEP[1] else now_s + _DECIDED_S
        self._wake_until_s = decided_s + _LEASE_S

    def _wake(self) -> None:
        """Let a later run fail, and let it go on: it says nothing to who has let it in."""
        assert self._flush is not None
        assert self._door is not None
        if time.monotonic() > self._wake_until_s or self._run("false") != 1:
            self.give_up()
            return
        if self._job == ASLEEP[1]:
            self.may_send |= self._held
        self._flush.send_signal(signal.SIGCONT)
        if sent := self._door.read():
            self.sent.append(sent)
        self.times += 1
        self._door.close()
        self._door = None

    def _run(self, command: str) -> int:
        url = f"file:{self.site.home}/asleep.url"
        return self.site.run("-j", self._job, "--ping-url", url, "--no-wait", "--", command).returncode

    def _leased_to(self, flush: Process) -> set[str]:
        """Return the tags of what it has leased."""
        query = (
            "SELECT CAST(body AS TEXT) FROM entries JOIN streams ON lease_entry = entries.id"
            f" WHERE body IS NOT NULL AND lease_owner GLOB 'flush-{flush.pid}-*'"
        )
        return {body.strip() for (body,) in self.site.rows(query)}

    def _store_is_locked(self) -> bool:
        with closing(sqlite3.connect(f"file:{self.site.state}/outbox.db?mode=rw", uri=True, timeout=0.2)) as store:
            try:
                store.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            store.rollback()
            return False

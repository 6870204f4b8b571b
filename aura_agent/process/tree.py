"""A job's whole process tree: finding it, signalling it, waiting for its end.

A process belongs to the job if one of these holds:
- it descends from the job's root, by parents;
- the root has a group of its own (and so perhaps a session), and the process is in that: this finds orphans;
- it was in the tree the last time this object looked, or descends from such a one: this finds what is orphaned by
  our own first signal;
- the environment it was started with holds *marker*, and it is no older than the root: this finds daemons that
  forked twice into a session of their own, whoever is their parent now;
- *sole_job*: it is our child, no older than the root. Orphans of the job are, if we are its subreaper or PID 1.

Never part of it: ourselves, our ancestors, and with a group of its own whatever of ours is in our group. The rest of
our pipeline and cron's shell are no descendants of the job, and our own group is never signalled as one.

A pid is only a number: each signal goes through a pidfd whose process has been compared, by start time, with the one
that was found. Without a /proc nobody can be found: then the root's own group is all that is signalled. How to stop a
job (SIGTERM, a wait, SIGKILL) is the caller's business.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil

from aura_agent.process.age import started_s
from aura_agent.process.subreaper import become_subreaper, reap_adopted

__all__ = ["ProcessTree", "Signalled", "become_subreaper", "descendants", "reap_adopted", "signal_tree"]

_KILL_PASSES = 10  # SIGKILL is sent until nobody is left that has not had it; this bounds a fork bomb's say in that
_PASSES = 2  # a second look catches what was forked between the look and the signal
_ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_ASKS_TO_END = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
_LOOK_AGAIN_S = 0.05  # only where there are no pidfds
_START_TICK_S = 0.01  # proc_pid_stat(5), field starttime


@dataclass(frozen=True, slots=True)
class Signalled:
    """Who got the signal, and who could not be sent it (another user's, as with sudo)."""

    pids: tuple[int, ...]
    refused: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    """A process as one look at the process table found it."""

    process: psutil.Process
    parent: int
    group: int
    session: int
    status: str


class ProcessTree:
    """The tree under *root_pid*: our child. See the module for what belongs to it.

    Make it, and look or signal once, before the root is reaped: from then on its number, and with it the group's, is
    only sure while somebody seen before still holds it.
    own_group: the root leads a process group (or session) of its own. sole_job: we have no other children of its age;
    wrong for the daemon, whose jobs are all its children. marker: ``NAME=value``, as in the job's environment.
    """

    def __init__(self, root_pid: int, *, own_group: bool, sole_job: bool = False, marker: str | None = None) -> None:
        self.root_pid = root_pid
        self._sole_job = sole_job
        self._marker = None if marker is None else os.fsencode(marker)
        # A mistaken caller must not make us signal our own group.
        self._own_group = own_group and root_pid not in {os.getpgrp(), os.getsid(0)}
        self._apart_from_us = self._own_group
        self._known: set[psutil.Process] = set()
        self._root_started_s = 0.0
        self.is_blind = not os.path.exists("/proc/self/stat")
        if self.is_blind:
            return
        try:
            root = psutil.Process(root_pid)
            self._root_started_s = started_s(root_pid)
            self._known.add(root)
        except (psutil.NoSuchProcess, ProcessLookupError):
            self._own_group = False  # the number may be anybody's by now
            self._root_started_s = float("inf")

    def members(self) -> list[psutil.Process]:
        """Look, and return the living members, parents before their children. Zombies are not alive."""
        return [] if self.is_blind else [row.process for row in self._look()]

    def is_alive(self) -> bool:
        """Look whether anybody is left."""
        return self._group_exists() if self.is_blind else bool(self._look())

    def signal(self, signum: int) -> Signalled:
        """Signal every living member, and those that appear while that is done.

        A root with its own group gets the signal for the whole group at once, which no fork can slip past; what then
        appears in the group was started on purpose by a handler of the signal, and is left to clean up. SIGKILL is
        repeated until nobody is left. Stopped processes are woken up to hear that they are to end.
        """
        if self.is_blind:
            return self._signal_blindly(signum)
        done: set[psutil.Process] = set()
        refused: set[int] = set()
        kill = signum == signal.SIGKILL
        for number in range(_KILL_PASSES if kill else _PASSES):
            rows = [row for row in self._look() if row.process not in done]
            if number and self._own_group and not kill:
                rows = [row for row in rows if row.group != self.root_pid]
            if not rows:
                break
            by_group = not number and self._own_group and any(row.group == self.root_pid for row in rows)
            if by_group:
                _signal_group(self.root_pid, signum)
            for row in rows:
                done.add(row.process)
                has_it = by_group and row.group == self.root_pid
                if not _send(row, signum, has_it=has_it):
                    refused.add(row.process.pid)
        return Signalled(
            tuple(sorted(process.pid for process in done if process.pid not in refused)), tuple(sorted(refused))
        )

    def wait_gone(self, timeout_s: float) -> bool:
        """Block until no member is alive; False: some still are after *timeout_s*. Reaps nobody."""
        deadline = time.monotonic() + timeout_s
        while self.is_blind and self._group_exists():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(left_s, _LOOK_AGAIN_S))
        while members := self.members():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            with _pidfds(members) as pidfds:
                if pidfds is None:
                    time.sleep(min(left_s, _LOOK_AGAIN_S))
                    continue
                waiting = select.poll()
                for pidfd in pidfds:
                    waiting.register(pidfd, select.POLLIN)
                for _ in pidfds:
                    ended = waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
                    if not ended:
                        break
                    waiting.unregister(ended[0][0])
        return True

    async def gone(self, timeout_s: float) -> bool:
        """``wait_gone`` for an event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.is_blind and self._group_exists():
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(left_s, _LOOK_AGAIN_S))
        while members := self.members():
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            with _pidfds(members) as pidfds:
                if pidfds is None:
                    await asyncio.sleep(min(left_s, _LOOK_AGAIN_S))
                    continue
                for pidfd in pidfds:
                    ended = asyncio.Event()
                    loop.add_reader(pidfd, ended.set)
                    try:
                        async with asyncio.timeout_at(deadline):
                            await ended.wait()
                    except TimeoutError:
                        break
                    finally:
                        loop.remove_reader(pidfd)
        return True

    def _signal_blindly(self, signum: int) -> Signalled:
        if not self._group_exists():
            return Signalled(())
        _signal_group(self.root_pid, signum)
        if signum in _ASKS_TO_END:
            _signal_group(self.root_pid, signal.SIGCONT)  # what is stopped would not hear of it
        return Signalled((self.root_pid,))

    def _group_exists(self) -> bool:
        """Whether the root's own group has a process, ended ones that nobody has reaped included."""
        try:
            if self._own_group:
                os.killpg(self.root_pid, 0)
        except ProcessLookupError:
            self._own_group = False  # from here on the number may be anybody's
        except PermissionError:
            pass
        return self._own_group

    def _look(self) -> list[_Row]:
        table = _process_table()
        kept_apart = {os.getpid(), *_ancestors(table)}
        self._known = {process for process in self._known if _same(process, table)}
        if not any(self.root_pid in {table[process.pid].group, table[process.pid].session} for process in self._known):
            self._own_group = False  # nobody of ours holds the number any more: the group may be another's
        found: dict[int, _Row] = {}
        seeds = [process.pid for process in self._known]
        seeds += [pid for pid, row in table.items() if self._belongs(row)]
        children: dict[int, list[int]] = {}
        for pid, row in table.items():
            children.setdefault(row.parent, []).append(pid)
        while seeds:
            pid = seeds.pop(0)
            if pid in found:
                continue
            if pid not in kept_apart:
                found[pid] = table[pid]
            elif pid != os.getpid():
                continue  # an ancestor; we ourselves are only met here as the root: all that is below us
            seeds += children.get(pid, [])
        self._known.update(row.process for row in found.values())
        return [row for row in found.values() if row.status not in _ENDED]

    def _belongs(self, row: _Row) -> bool:
        if self._own_group and self.root_pid in {row.group, row.session}:
            return True
        adopted = self._sole_job and row.parent == os.getpid()
        if adopted and self._apart_from_us and row.group == os.getpgrp():
            return False  # beside us in our pipeline or script, and there before us: `x & exec aura-run …`
        if not adopted and not self._carries_marker(row.process.pid):
            return False
        try:
            return started_s(row.process.pid) > self._root_started_s - _START_TICK_S / 2
        except ProcessLookupError:
            return False

    def _carries_marker(self, pid: int) -> bool:
        if self._marker is None:
            return False
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:
                return self._marker in environment.read().split(b"\0")
        except OSError:
            return False


def descendants(pid: int) -> list[psutil.Process]:
    """Return the living descendants of *pid*, parents first, without itself. By parents only: no orphans."""
    return [process for process in ProcessTree(pid, own_group=False).members() if process.pid != pid]


def signal_tree(
    root_pid: int, signum: int, *, own_group: bool, sole_job: bool = False, marker: str | None = None
) -> Signalled:
    """Signal the tree under *root_pid* once; for a second signal to the same job keep a ProcessTree."""
    return ProcessTree(root_pid, own_group=own_group, sole_job=sole_job, marker=marker).signal(signum)


def _process_table() -> dict[int, _Row]:
    table = {}
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)  # start time first: if the number changes hands now, no signal is sent
            with process.oneshot():
                table[pid] = _Row(process, process.ppid(), os.getpgid(pid), os.getsid(pid), process.status())
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return table


def _ancestors(table: dict[int, _Row]) -> Iterator[int]:
    pid = os.getppid()
    while pid in table:
        yield pid
        pid = table[pid].parent


def _same(process: psutil.Process, table: dict[int, _Row]) -> bool:
    """Whether *process* is still there: psutil compares pid and start time."""
    row = table.get(process.pid)
    return row is not None and row.process == process


def _signal_group(group: int, signum: int) -> None:
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        pass  # who was refused shows when each member is looked at


def _send(row: _Row, signum: int, *, has_it: bool) -> bool:
    """Signal exactly the process that was found; False: not permitted. Gone is a normal outcome.

    has_it: the group's signal reached it; only look whether that was permitted, and wake it up if it is stopped.
    """
    try:
        pidfd = os.pidfd_open(row.process.pid)
    except ProcessLookupError:
        return True
    except OSError:
        return has_it or _send_by_pid(row.process, signum)
    try:
        if not row.process.is_running():
            return True
        signal.pidfd_send_signal(pidfd, 0 if has_it else signum)
        if row.status == psutil.STATUS_STOPPED and signum in _ASKS_TO_END:
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(pidfd)
    return True


def _send_by_pid(process: psutil.Process, signum: int) -> bool:
    """The same on a kernel before 5.3; psutil compares the start time right before."""
    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return True


@contextmanager
def _pidfds(processes: list[psutil.Process]) -> Iterator[list[int] | None]:
    """Hold a pidfd of each of *processes* that is still there; None where there are none to be had."""
    with ExitStack() as held:
        pidfds: list[int] = []
        complete = True
        for process in processes:
            try:
                pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            except OSError:
                complete = False  # a kernel before 5.3, or out of descriptors
                break
            held.callback(os.close, pidfd)
            if process.is_running():
                pidfds.append(pidfd)
        yield pidfds if complete else None

"""watch.process: whether something is alive.

A zombie is not alive. A pid from a pidfile whose process started after the pidfile was written has been given to
somebody else. A pattern or name never finds us, an aura-run, or a pgrep that looks for the same.
"""

import os
import pwd
import re
import stat
import time
from collections.abc import Iterator, Mapping

import psutil

from aura_agent.process.age import started_s
from aura_agent.watch.condition import Condition, shown

# A daemon writes its pidfile after it has started. Start times are kept in ticks since boot, 10 ms, and become wall
# time by a boot time in whole seconds (proc_stat(5), btime), so they may lie up to a second late; file systems stamp
# with the last timer tick, up to 10 ms early. The rest is reserve.
RECYCLED_SLACK_S = 2.0
MAX_PIDFILE_BYTES = 4096  # PostgreSQL's has eight lines; whatever is larger is another kind of file
_MAX_PID = 4194304  # PID_MAX_LIMIT, proc_sys_kernel(5)
_MAX_COMMAND_CHARS = 4096  # bounds what a regular expression has to work through
_NOT_ALIVE = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_LOOKERS = frozenset({"aura-run", "aura-agent", "pgrep", "pkill", "pidof", "grep", "egrep"})
_MAX_LISTED_PIDS = 20


def check_process(
    *,
    pidfile: str | None = None,
    pattern: str | None = None,
    name: str | None = None,
    user: str | None = None,
    previous: Condition | None = None,
) -> Condition:
    """Look for one living process that fits everything that is given.

    pidfile: its first line is the pid. pattern: regular expression, searched in the command line (its arguments joined
    by spaces, the first 4096 characters). name: the whole process name, as ``pgrep -x`` takes it. user: name or
    number of the effective user. previous: this probe's last answer; the very process that it found with the very
    same pidfile is trusted without comparing times again, so that a step of the wall clock can't age it.
    """
    if not os.path.exists("/proc/self/stat"):
        return Condition(False, "no process can be looked at: there is no /proc")
    if pidfile is None and pattern is None and name is None and user is None:
        return Condition(False, "nothing to look for: set pidfile, pattern or name")
    try:
        expression = re.compile(pattern) if pattern is not None else None
    except re.error as exc:
        return Condition(False, f"pattern {pattern!r} is not a regular expression: {exc}")
    uid = _uid(user) if user is not None else None
    if user is not None and uid is None:
        return Condition(False, f"user {user!r} does not exist on this host")
    if pidfile is not None:
        return _check_pidfile(pidfile, expression, name, uid, user, previous)
    return _check_all(expression, name, uid, user)


def _check_pidfile(
    pidfile: str,
    expression: re.Pattern[str] | None,
    name: str | None,
    uid: int | None,
    user: str | None,
    previous: Condition | None,
) -> Condition:
    where = shown(pidfile)
    try:
        content, written_ns, inode = _read_pidfile(pidfile)
        pid = _parse_pid(content)
    except OSError as exc:
        return Condition(False, f"pidfile {where}: {exc.strerror}")
    except ValueError as exc:
        return Condition(False, f"pidfile {where}: {exc}")
    try:
        process = psutil.Process(pid) if psutil.pid_exists(pid) else None
    except psutil.NoSuchProcess:
        process = None
    gone = Condition(False, f"process {pid} of pidfile {where} is not running", {"pid": pid})
    if process is None:
        return gone
    try:
        with process.oneshot():
            facts = _facts(process) | {"pidfile_mtime_ns": written_ns, "pidfile_inode": inode}
            if process.status() in _NOT_ALIVE:
                return Condition(False, f"process {pid} of pidfile {where} is a zombie: dead, not reaped", facts)
            began_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + started_s(pid)
            late_s = began_s - written_ns / 1e9
            if late_s > RECYCLED_SLACK_S and not _seen_before(previous, facts):
                text = f"process {pid} started {late_s:.0f} s after pidfile {where} was written: it is another one"
                return Condition(False, text, facts)
            mismatch = _mismatch(process, expression, name, uid, user)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return gone
    except psutil.AccessDenied:
        return Condition(False, f"process {pid} of pidfile {where} can't be looked at: permission denied", {"pid": pid})
    if mismatch:
        return Condition(False, f"process {pid} of pidfile {where} {mismatch}", facts)
    return Condition(True, f"process {pid} ({facts['name']}) is running", facts)


def _check_all(expression: re.Pattern[str] | None, name: str | None, uid: int | None, user: str | None) -> Condition:
    found: list[psutil.Process] = []
    zombies = 0
    for process in _others():
        try:
            with process.oneshot():
                if uid is not None and process.uids().effective != uid:
                    continue
                if process.status() in _NOT_ALIVE:
                    zombies += name is not None and process.name() == name
                elif not _mismatch(process, expression, name, uid, user) and not _is_looker(process):
                    found.append(process)
        except psutil.Error:
            continue
    sought = " and ".join(
        text
        for text in (
            f"name {name!r}" if name is not None else "",
            f"command line matching {expression.pattern!r}" if expression is not None else "",
            f"user {user!r}" if user is not None else "",
        )
        if text
    )
    if not found:
        also = f"; {zombies} zombie(s) of that name are dead, not reaped" if zombies else ""
        return Condition(False, f"no running process with {sought}{also}", {"count": 0, "zombies": zombies})
    facts: dict[str, object] = {}
    for process in found:
        try:
            facts = _facts(process)
            break
        except (psutil.Error, ProcessLookupError):
            continue
    pids = [process.pid for process in found]
    facts |= {"count": len(pids), "pids": pids[:_MAX_LISTED_PIDS]}
    return Condition(True, f"{len(pids)} running with {sought}, such as process {facts.get('pid', pids[0])}", facts)


def _others() -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        if pid != os.getpid():
            try:
                yield psutil.Process(pid)
            except psutil.NoSuchProcess:
                continue


def _mismatch(
    process: psutil.Process,
    expression: re.Pattern[str] | None,
    name: str | None,
    uid: int | None,
    user: str | None,
) -> str:
    """Return in what *process* is not the one sought, or nothing."""
    if uid is not None and process.uids().effective != uid:
        return f"is not {user}'s"
    if name is not None and process.name() != name:
        return f"is {shown(process.name())!r}, not {name!r}"
    if expression is not None and not expression.search(" ".join(process.cmdline())[:_MAX_COMMAND_CHARS]):
        return f"has a command line that doesn't match {expression.pattern!r}"
    return ""


def _is_looker(process: psutil.Process) -> bool:
    """Whether *process* bears the pattern only because it looks for it or wraps it."""
    if process.ppid() == os.getpid() and process.cmdline() == psutil.Process().cmdline():
        return True  # a child of ours between fork and exec
    arguments = [argument for argument in process.cmdline() if argument]
    if not arguments:
        return False
    program = os.path.basename(arguments[0])
    if program.startswith("python"):
        program = next((os.path.basename(word) for word in arguments[1:] if not word.startswith("-")), program)
    return program in _LOOKERS


def _facts(process: psutil.Process) -> dict[str, object]:
    return {
        "pid": process.pid,
        "name": shown(process.name()),
        "status": str(process.status()),
        # Since boot, in whole ticks: stable whatever the wall clock does, so that `previous` can be compared.
        "started_ticks": round(started_s(process.pid) * 100),
    }


def _seen_before(previous: Condition | None, facts: Mapping[str, object]) -> bool:
    return (
        previous is not None
        and previous.healthy
        and all(
            previous.facts.get(key) == facts[key]
            for key in ("pid", "started_ticks", "pidfile_mtime_ns", "pidfile_inode")
        )
    )


def _read_pidfile(path: str) -> tuple[bytes, int, int]:
    """Return content, time of writing (ns since the epoch) and inode. Raises OSError, ValueError."""
    pidfile = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO must not block us
    try:
        found = os.fstat(pidfile)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        content = os.read(pidfile, MAX_PIDFILE_BYTES + 1)
    finally:
        os.close(pidfile)
    if len(content) > MAX_PIDFILE_BYTES:
        raise ValueError(f"larger than {MAX_PIDFILE_BYTES} bytes: that is no pidfile")
    return content, found.st_mtime_ns, found.st_ino


def _parse_pid(content: bytes) -> int:
    """Return the pid in the first line. Raises ValueError with a text for the user."""
    first_line = content.partition(b"\n")[0].strip()
    if not first_line:
        raise ValueError("empty, or its first line is")
    if not first_line.isdigit() or len(first_line) > 10 or not 0 < int(first_line) <= _MAX_PID:
        raise ValueError("its first line is not a process id")
    return int(first_line)


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return int(user) if user.isdecimal() else None

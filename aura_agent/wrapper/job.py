"""The job's process: started as the shell would start it, waited for, and told what we are told.

Signals are blocked here and fetched with sigwaitinfo(2), which alone says who sent one: what a process sent us is
passed on, what the terminal sent the job has already, being in the same process group. Where the job has a group of
its own, what ends, stops or continues it goes to that whole group, as timeout(1) does it, the rest to the job alone.
The job itself starts with the mask and the dispositions that we were started with; Python's own ignoring of SIGPIPE
and SIGXFSZ is undone.

``_signal`` is the C module behind ``signal``, which would cost as much to import as half a Python start; and all of
this is one module, since each costs every job something, too.
"""

import errno
import os
from time import CLOCK_BOOTTIME, clock_gettime_ns, time_ns

from aura_agent.process.environment import without_secrets

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal

SIGALRM, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGTSTP, SIGWINCH = (
    _signal.SIGALRM,
    _signal.SIGCHLD,
    _signal.SIGCONT,
    _signal.SIGKILL,
    _signal.SIGSTOP,
    _signal.SIGTERM,
    _signal.SIGTSTP,
    _signal.SIGWINCH,
)
# SIGALRM too: `perl -e 'alarm 60; exec @ARGV' aura-run …` is a time-out around us.
_TERMINATING = frozenset((SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, SIGALRM))
# All that can be: a fault of our own ends us although its signal is blocked (force_sig_info_to_task in
# kernel/signal.c). SIGTTIN and SIGTTOU stop us beside the job as the terminal means it.
_FETCHED = frozenset(_signal.valid_signals()) - {SIGKILL, SIGSTOP, _signal.SIGTTIN, _signal.SIGTTOU}
_FROM_TERMINALS = frozenset((_signal.SIGINT, _signal.SIGQUIT, SIGTSTP, _signal.SIGHUP, SIGCONT, SIGWINCH))
_FOR_THE_GROUP = _TERMINATING | {SIGTSTP, SIGCONT}
TIMED_OUT = 124
_STALL_NS = 1_000_000_000  # a reader that has taken nothing for so long won't
_SENT_BY_A_PROCESS = (0, -1, -6)  # SI_USER, SI_QUEUE, SI_TKILL (sigaction(2)); the terminal's are SI_KERNEL
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # what PEP 538 puts into LC_CTYPE
_SHORT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_LONGEST_SLEEP_S = 86400.0  # beyond 292 years the kernel's time has no room


class NotStarted(Exception):  # it is the shell's way of speaking, not an error of ours
    """The command could not be started: *status* is 126 or 127, *text* what the shell would say."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class NoResources(NotStarted):
    """There was no memory, no process or no descriptor for the command."""


class Ended:
    """How one attempt ended: an exit code or a signal, and what that alone doesn't tell.

    ``timed_out``: we ended it; ``not_started``: there was no process; ``unmet``: an expectation of the config failed.
    """

    __slots__ = (
        "code",
        "ended_boot_ns",
        "ended_ns",
        "killed_by",
        "not_started",
        "started_boot_ns",
        "started_ns",
        "timed_out",
        "unmet",
    )

    def __init__(self, started: tuple[int, int]) -> None:
        self.started_boot_ns, self.started_ns = started
        self.ended_boot_ns, self.ended_ns = started
        self.code: int | None = None
        self.killed_by: int | None = None
        self.timed_out = self.not_started = self.unmet = False

    def take(self, status: int) -> None:
        """Note that the process has just ended with *status*, as waitpid(2) has it."""
        self.ended_boot_ns, self.ended_ns = now()
        if os.WIFSIGNALED(status):
            self.killed_by = os.WTERMSIG(status)
        else:
            self.code = os.WEXITSTATUS(status)

    @property
    def signal(self) -> int | None:
        """The signal that ended the job, unless that was our time-out."""
        return None if self.timed_out else self.killed_by

    @property
    def status(self) -> int:
        """The exit status that the caller gets, were it not for the signal."""
        if self.timed_out:
            return TIMED_OUT
        if self.killed_by is not None:
            return 128 + self.killed_by
        return 0 if self.code is None else self.code

    @property
    def failure(self) -> str:
        """The outcome's name, given that it is no success."""
        if self.timed_out:
            return "timed_out"
        if self.not_started:
            return "not_started"
        return "failed" if self.killed_by is None else "killed"


class Job:
    """One attempt's process."""

    def __init__(self, pid: int, started: tuple[int, int], *, own_group: bool) -> None:
        self.pid = pid
        self.own_group = own_group
        self.ended = Ended(started)
        self.stopped = False
        self._running = True

    def send(self, signum: int, *, to_group: bool = False) -> None:
        """Pass *signum* on unless the job is gone; *to_group*: to its whole group, if it has one of its own."""
        if self._running:
            try:
                (os.killpg if to_group and self.own_group else os.kill)(self.pid, signum)
            except (PermissionError, ProcessLookupError):
                pass  # sudo and its like belong to somebody else now; it isn't reaped yet, so the pid is its own

    def reap(self) -> bool:
        """Collect what has ended, adopted orphans too; True once the job itself has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return not self._running
            if pid == 0:
                return not self._running
            if pid == self.pid and not os.WIFSTOPPED(status):
                self._finish(status)
            elif pid == self.pid:
                self.stopped = True

    def await_end(self) -> None:
        """Wait for the job's end and nothing else. Raises ChildProcessError: it isn't ours, or known to have ended."""
        if self._running:
            self._finish(os.waitpid(self.pid, 0)[1])

    def _finish(self, status: int) -> None:
        self._running = False
        self.ended.take(status)


class Signals:
    """Our signals, blocked and fetched one by one; ``original`` is the mask that the job gets.

    Even one that we were told to ignore (nohup) arrives here once it is blocked: it is passed on, and ends nothing.
    """

    def __init__(self) -> None:
        self.original = _signal.pthread_sigmask(_signal.SIG_BLOCK, _FETCHED)
        self.sigchld_ignored = _signal.getsignal(SIGCHLD) == _signal.SIG_IGN
        _signal.signal(SIGCHLD, _signal.SIG_DFL)  # inherited as ignored, it would reap the job behind our back
        self.terminated_by: int | None = None
        self.hurried = False  # a signal wanted us gone when the job was over
        self._suspended = False
        self._fetched: _signal.struct_siginfo | None = None  # the last that was waited for with a deadline

    def wait(self, job: Job, deadline_boot_ns: int | None = None) -> bool:
        """Wait until *job* has ended; False if it still runs at the deadline. Forwards what is meant for it."""
        while not job.reap():
            if job.stopped and self._suspended:
                self._suspended = job.stopped = False
                os.kill(os.getpid(), SIGSTOP)  # the shell that waits for us sees the job stop
            info = self._next(deadline_boot_ns)
            if info is None:
                return job.reap()
            if info.si_signo != SIGCHLD:
                self._handle(info, job)
        return True

    def pause(self, seconds: float) -> bool:
        """Wait *seconds* beside no job, reaping orphans; False as soon as a terminating signal has come."""
        deadline_boot_ns = now()[0] + int(seconds * 1e9)
        while self.terminated_by is None and self.await_orphan(deadline_boot_ns):
            pass
        return self.terminated_by is None

    def await_orphan(self, deadline_boot_ns: int) -> bool:
        """Beside no job, wait for an orphan to end; False at the deadline, or once a terminating signal has come."""
        while (info := self._next(deadline_boot_ns, may_stop=True)) is not None:
            if info.si_signo == SIGCHLD:
                _reap_orphans()
                return True
            if self._note(info.si_signo):
                return False
        return False

    def see_out(self, is_done: "Callable[[], bool]", progress: "Callable[[], int]", *, bounded: bool) -> bool:
        """Once the job is over, wait for what threads still do, who tell their end by SIGCHLD; False: it is given up.

        That is what any signal does that would have ended a job; and if one has come already, or the wait is to be
        *bounded*, a second without *progress*.
        """
        while (late := _signal.sigtimedwait(_FETCHED, 0)) is not None:
            self._note(late.si_signo)  # it came while the job ran
        bounded = bounded or self.terminated_by is not None
        while not is_done():
            before = progress()
            info = self._next(now()[0] + _STALL_NS if bounded else None, may_stop=True)
            if info is None:
                if progress() == before:
                    return False
            elif info.si_signo in _lethal():
                self.terminated_by, self.hurried = info.si_signo, True
                return False
        return True

    def end_with(self, leave: "Callable[[], None]", *, within_s: float) -> None:
        """From here on any signal ends us through *leave*: the job is over and on record, only its ping is left.

        SIGALRM does so too, whatever we inherited: it is our own bound on the wait, *within_s* from now on. It comes
        again each second, since without memory a handler can't be called.
        """
        _signal.setitimer(_signal.ITIMER_REAL, within_s, 1.0)
        for signum in (*_lethal(), SIGALRM):
            _signal.signal(signum, lambda *_: leave())
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.original - {SIGALRM})

    def _next(self, deadline_boot_ns: int | None, *, may_stop: bool = False) -> "_signal.struct_siginfo | None":
        """Fetch a signal; None at the deadline. *may_stop*: meanwhile SIGTSTP does to us what it does to anybody."""
        if may_stop:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (SIGTSTP,))
            try:
                return self._fetch(_FETCHED - {SIGTSTP}, deadline_boot_ns)
            finally:
                _signal.pthread_sigmask(_signal.SIG_BLOCK, (SIGTSTP,))
        return self._fetch(_FETCHED, deadline_boot_ns)

    def _fetch(self, wanted: frozenset[int], deadline_boot_ns: int | None) -> "_signal.struct_siginfo | None":
        if deadline_boot_ns is None:
            return _signal.sigwaitinfo(wanted)
        while True:
            left_s = max(0.0, (deadline_boot_ns - now()[0]) / 1e9)
            sleep_s = min(left_s, _LONGEST_SLEEP_S)
            last_ns = now()[0] + int(sleep_s * 1e9)
            info = _signal.sigtimedwait(wanted, sleep_s)
            if info is not None and sleep_s and now()[0] >= last_ns and self._is_left_over(info, wanted):
                info = None
            if info is not None:
                self._fetched = info
            if info is not None or left_s <= _LONGEST_SLEEP_S:
                return info

    def _is_left_over(self, info: "_signal.struct_siginfo", wanted: frozenset[int]) -> bool:
        """Whether *info* is what lay on the stack: Python returns that as if it were a signal if we were stopped
        (SIGSTOP) and go on when the time is over (signal_sigtimedwait_impl in Modules/signalmodule.c).
        """
        return info.si_signo not in wanted or info.si_errno != 0 or info == self._fetched

    def _handle(self, info: "_signal.struct_siginfo", job: Job) -> None:
        signum = info.si_signo
        by_process = info.si_code in _SENT_BY_A_PROCESS
        if by_process and info.si_pid == os.getpid():
            return  # SIGPIPE and SIGXFSZ, for what we have written ourselves
        self._note(signum)
        if signum == SIGTSTP:
            self._suspended = True
        if signum == SIGCONT:
            job.stopped = self._suspended = False
        if by_process or job.own_group or signum not in _FROM_TERMINALS or _is_hang_up(signum):
            job.send(signum, to_group=not by_process or signum in _FOR_THE_GROUP)

    def _note(self, signum: int) -> bool:
        """Remember *signum* if it is a terminating one that we don't ignore; return whether it is."""
        terminates = signum in _TERMINATING and _signal.getsignal(signum) != _signal.SIG_IGN
        if terminates:
            self.terminated_by = signum
        return terminates


def _is_hang_up(signum: int) -> bool:
    """Whether the terminal told us and not the job: a hang-up reaches the leader of the session alone (__tty_hangup in
    drivers/tty/tty_io.c), which we are under ``ssh -t`` and in a terminal's window.
    """
    return signum in (_signal.SIGHUP, SIGCONT) and os.getsid(0) == os.getpid()


def _lethal() -> set[int]:
    """Return the signals that end a process which says nothing of them; without faults, and what we ignore."""
    spared = {SIGCHLD, SIGCONT, SIGTSTP, SIGWINCH, _signal.SIGURG}
    faults = {_signal.SIGABRT, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGSEGV, _signal.SIGTRAP}
    return {
        signum
        for signum in _FETCHED - spared - faults - {_signal.SIGSYS}
        if _signal.getsignal(signum) != _signal.SIG_IGN
    }


def _reap_orphans() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def let_ctrl_c_end_us() -> None:
    """Undo Python's own handler, which would end us with a traceback while there is no job yet."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def now() -> tuple[int, int]:
    """Return CLOCK_BOOTTIME and the wall clock, in nanoseconds."""
    return clock_gettime_ns(CLOCK_BOOTTIME), time_ns()


def start(
    command: list[str],
    signals: Signals,
    *,
    own_group: bool = False,
    outputs: tuple[int, int] | None = None,
    env: dict[str, str] | None = None,
    withheld: str = "",
) -> Job:
    """Start *command* and return its job; *outputs* are its stdout and stderr instead of ours.

    *env* is added to our environment, the variable *withheld* left out of it.

    Looks for the command in PATH as execvp(3) does, and runs a script without an interpreter line by /bin/sh as shells
    do. Raises NotStarted, NoResources.
    """
    variables = _callers_variables(withheld) | (env or {})
    problem: OSError | None = None
    for path in _places(command[0], variables):
        try:
            if "/" not in command[0] and _leads_nowhere(path):
                continue
            try:
                return _spawn(path, command, variables, signals, own_group=own_group, outputs=outputs)
            except OSError as refusal:
                if refusal.errno != errno.ENOEXEC:
                    raise
                _check_script(path)
                script = ["/bin/sh", path, *command[1:]]
                return _spawn("/bin/sh", script, variables, signals, own_group=own_group, outputs=outputs)
        except (FileNotFoundError, NotADirectoryError) as missing:
            problem = problem or missing
        except PermissionError as denied:
            problem = denied
        except OSError as other:
            if other.errno in _SHORT:
                raise NoResources(126, f"{command[0]}: {other.strerror}") from None
            problem = other
            break
        except ValueError:
            raise NotStarted(127, f"{command[0]!r}: not a command") from None
    raise _not_started(command[0], problem)


def become(command: list[str], signals: Signals, env: dict[str, str], withheld: str) -> None:
    """Execute *command* in our own place, as it would run without us. Returns if that is impossible, too."""
    try:
        variables = _callers_variables(withheld) | env
        for signum in (_signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(signum, _signal.SIG_DFL)
        if signals.sigchld_ignored:
            _signal.signal(SIGCHLD, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, signals.original)
        for path in _places(command[0], variables):
            try:
                os.execve(path, command, variables)
            except OSError as problem:
                if problem.errno == errno.ENOEXEC:
                    _check_script(path)
                    os.execve("/bin/sh", ["/bin/sh", path, *command[1:]], variables)
    except BaseException:  # noqa: BLE001, S110
        pass


def end_of_child(started: tuple[int, int]) -> Ended | None:
    """Wait for a job that was started although starting it raised; None: we have no child."""
    try:
        status = os.waitpid(-1, 0)[1]
    except ChildProcessError:
        return None
    ended = Ended(started)
    ended.take(status)
    return ended


def wait_whatever_happens(job: Job, signals: Signals) -> None:
    """Return once *job* has ended. Signals are passed on as long as there is memory for that."""
    over = False
    while not over:
        try:
            over = signals.wait(job)
        except BaseException:  # noqa: BLE001
            over = _await_end(job)


def _await_end(job: Job) -> bool:
    try:
        job.await_end()
    except ChildProcessError:
        return True
    except BaseException:  # noqa: BLE001
        return False
    return True


def _check_script(path: str) -> None:
    """Return if /bin/sh is to run *path*, which the kernel can't execute. Raises NotStarted, OSError."""
    from aura_agent.process.script import FORMAT_ERROR, is_script_file

    if not is_script_file(path):
        raise NotStarted(126, f"{path}: {FORMAT_ERROR}")


def in_foreground() -> bool:
    """Whether a terminal counts us as its foreground: Ctrl-C must then reach the job in our own group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def end_as(status: int, signum: int | None) -> None:
    """Leave as the job left: with its status, or by its signal (128 + n where we are PID 1 and can't)."""
    if signum is not None:
        _leave_no_core()
        if signum in _signal.valid_signals() - {SIGKILL, SIGSTOP}:
            _signal.signal(signum, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (signum,))
        os.kill(os.getpid(), signum)  # which process 1 survives (pid_namespaces(7))
    os._exit(status if signum is None else 128 + signum)


def _leave_no_core() -> None:
    """The core worth having is the job's. One byte: at zero a core that is piped to a program is written all the same
    (do_coredump in fs/coredump.c).
    """
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))
    except BaseException:  # noqa: BLE001, S110
        pass  # the caller sees the same end, whatever becomes of the core


def _spawn(
    path: str,
    command: list[str],
    variables: dict[str, str],
    signals: Signals,
    *,
    own_group: bool,
    outputs: tuple[int, int] | None,
) -> Job:
    started = now()
    if signals.sigchld_ignored:
        from aura_agent.wrapper.forked import spawn_ignoring_sigchld

        pid = spawn_ignoring_sigchld(
            path, command, variables, mask=signals.original, own_group=own_group, outputs=outputs
        )
        return Job(pid, started, own_group=own_group)
    pid = os.posix_spawn(
        path,
        command,
        variables,
        file_actions=[(os.POSIX_SPAWN_DUP2, source, 1 + place) for place, source in enumerate(outputs or ())],
        setsigmask=signals.original,
        setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),
        **({"setpgroup": 0} if own_group else {}),  # type: ignore[arg-type]  # absent is not the same as None here
    )
    return Job(pid, started, own_group=own_group)


def _callers_variables(withheld: str) -> dict[str, str]:
    """Return the environment that the job would have without us, but for the secrets; *withheld* holds one as well.

    In the C locale, cron's, Python sets LC_CTYPE for itself (PEP 538); what it was before is only known to the kernel.
    What has no name posix_spawn refuses.
    """
    variables = without_secrets(os.environ)
    variables.pop("", None)
    variables.pop(withheld, None)
    if variables.get("LC_CTYPE") in _COERCED and not _was_set(b"LC_CTYPE="):
        del variables["LC_CTYPE"]
    return variables


def _was_set(prefix: bytes) -> bool:
    """Whether we were started with a variable that begins like this; where /proc can't tell, yes."""
    try:
        file = os.open("/proc/self/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    given = b""
    try:
        while chunk := os.read(file, 1 << 14):
            given += chunk
    except (OSError, MemoryError):
        return True
    finally:
        os.close(file)
    return any(variable.startswith(prefix) for variable in given.split(b"\0"))


def _places(name: str, env: dict[str, str]) -> list[str]:
    if "/" in name:
        return [name]
    path = env.get("PATH", "/bin:/usr/bin")
    return [os.path.join(directory or ".", name) for directory in path.split(":")] if name else []


def _leads_nowhere(path: str) -> bool:
    """Whether *path* reaches no file: far cheaper than a process for every directory of PATH. Raises PermissionError.

    A shell looks on whatever is wrong with one of them: a loop of links, a file system that is gone.
    """
    try:
        os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return True
    return False


def _not_started(name: str, problem: OSError | None) -> NotStarted:
    if problem is None or isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        if "/" not in name:
            return NotStarted(127, f"{name}: command not found")
        if os.path.exists(name):
            return NotStarted(127, f"{name}: cannot execute: required file not found")
        return NotStarted(127, f"{name}: No such file or directory")
    if os.path.isdir(name):
        return NotStarted(126, f"{name}: Is a directory")
    return NotStarted(126, f"{name}: {problem.strerror}")

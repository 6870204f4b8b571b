"""A process that we started: its end, noticed through a pidfd, and what it used.

No polling and no thread per child: the event loop watches the pidfd, and wait4(2) then takes status and usage at
once. Only the child itself is waited for, never what it left behind. Nothing else in this process may reap it.
"""

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass

unreaped: set[int] = set()  # the pids of all children whose end has not been taken: nobody else may reap these

_BLOCK_BYTES = 512  # of ru_inblock and ru_oublock, whatever the device's are
_PEAK_RESERVE = 1.1  # the kernel sums resident pages over the processors only roughly (percpu_counter)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended, and what it and those of its children that it waited for used.

    Exactly one of *code* and *signal* is set; neither if somebody else reaped the child, so that nobody knows: never
    a success. max_rss_bytes is None where the kernel's figure is hardly larger than our own size: it counts the moment
    between fork and exec, so small jobs would all seem as large as the agent (setmax_mm_hiwater_rss in fs/exec.c).
    It is the largest process's, not the sum. I/O is what reached a block device (task_io_get_inblock in
    include/linux/task_io_accounting_ops.h).
    """

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    max_rss_bytes: int | None = None
    io_read_bytes: int = 0
    io_written_bytes: int = 0

    @property
    def shell_code(self) -> int | None:
        """The status as a shell would say it in ``$?``: 128 + n for signal n."""
        return self.code if self.signal is None else 128 + self.signal

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}" + (" (core dumped)" if self.core_dumped else "")
        return "exit status unknown" if self.code is None else f"exit status {self.code}"


class Child:
    """A started process. Call ``wait()`` and ``exited()`` from one event loop only, as often as you like.

    stdout and stderr are the read ends of its pipes, or None. They are the caller's: a Pump takes and closes them,
    and so may outlast the child where a grandchild holds the other end.
    """

    __slots__ = ("_exited", "_own_peak_bytes", "_pidfd", "_popen", "_status", "pid", "stderr", "stdout")

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        *,
        pidfd: int | None,
        stdout: int | None = None,
        stderr: int | None = None,
        own_peak_bytes: int = 0,
    ) -> None:
        self.pid = popen.pid
        unreaped.add(popen.pid)
        self.stdout = stdout
        self.stderr = stderr
        # Kept and told the status: a Popen dropped before that is reaped by the next Popen to be made.
        self._popen = popen
        self._pidfd = pidfd
        self._own_peak_bytes = own_peak_bytes
        self._status: ExitStatus | None = None
        self._exited: asyncio.Future[ExitStatus] | None = None

    @property
    def pidfd(self) -> int | None:
        """Readable once the child has ended; None after the end has been taken, and on kernels before 5.3."""
        return self._pidfd

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, once ``wait()`` has seen that."""
        return self._status

    def exited(self) -> asyncio.Future[ExitStatus]:
        """Return what will hold how the child itself ended, for ``asyncio.wait``: not to be cancelled or awaited."""
        if self._exited is None:
            self._exited = self._watch(asyncio.get_running_loop())
        return self._exited

    async def wait(self) -> ExitStatus:
        """Return how the child itself ended; a cancelled wait loses nothing. Raises nothing of its own."""
        return self._status if self._status is not None else await asyncio.shield(self.exited())

    def send_signal(self, signum: int) -> bool:
        """Signal the child alone. False: it had ended before, or isn't ours to signal any more (setuid)."""
        if self._status is not None:
            return False
        try:
            if self._pidfd is None:
                os.kill(self.pid, signum)  # not reaped yet, so the number is still its own
            else:
                signal.pidfd_send_signal(self._pidfd, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[ExitStatus]:
        exited: asyncio.Future[ExitStatus] = loop.create_future()

        def reap(*_: object) -> None:
            if self._pidfd is not None:
                loop.remove_reader(self._pidfd)
            self._status = self._reap()
            if not exited.done():
                exited.set_result(self._status)

        if self._pidfd is None:
            loop.run_in_executor(None, _until_ended, self.pid).add_done_callback(reap)
        else:
            loop.add_reader(self._pidfd, reap)
        return exited

    def _reap(self) -> ExitStatus:
        try:
            _, wait_status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:
            status = ExitStatus()
        else:
            code = os.waitstatus_to_exitcode(wait_status)
            peak_bytes = usage.ru_maxrss * 1024  # getrusage(2): kilobytes
            status = ExitStatus(
                code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                core_dumped=os.WCOREDUMP(wait_status),
                cpu_user_s=usage.ru_utime,
                cpu_system_s=usage.ru_stime,
                max_rss_bytes=peak_bytes if peak_bytes > self._own_peak_bytes * _PEAK_RESERVE else None,
                io_read_bytes=usage.ru_inblock * _BLOCK_BYTES,
                io_written_bytes=usage.ru_oublock * _BLOCK_BYTES,
            )
        unreaped.discard(self.pid)
        self._popen.returncode = -status.signal if status.signal is not None else (status.code or 0)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return status


def _until_ended(pid: int) -> None:
    """Block until *pid* has ended, and leave it to be reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"

"""What a child does to itself between fork and exec, beyond what subprocess can: its priority and its limits, while it
is still root, then the change to its account, and as that the change to its directory.

Subprocess would change the directory first, as root: a job could begin where its user may not go, and read there.

It runs in the fork of a process with threads, so it makes system calls and nothing else: all it needs is looked up
before. What fails comes back over a pipe, since subprocess tells no more than that something did.
"""

import errno
import os
import resource
from collections.abc import Callable, Mapping
from typing import Any

from aura_agent.process.account import Account
from aura_agent.process.kernel import join_new_session_keyring

# By the names of the config.
LIMITS = {
    "address_space": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "file_size": resource.RLIMIT_FSIZE,
    "locked_memory": resource.RLIMIT_MEMLOCK,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "stack": resource.RLIMIT_STACK,
}


class Preparation:
    """Subprocess's ``preexec_fn``. Make it before the fork, ask ``failure`` if that raised, and ``close`` it."""

    def __init__(self, nice: int | None, limits: Mapping[str, int], switch: Account | None, cwd: str) -> None:
        """*switch*: the account to change to, None to stay. Raises OSError: no pipe."""
        self._steps: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = []
        if nice is not None:
            self._steps.append((f"set nice = {nice}", os.setpriority, (os.PRIO_PROCESS, 0, nice)))
        for name, value in limits.items():
            self._steps.append((f"set limits.{name} = {value}", resource.setrlimit, (LIMITS[name], (value, value))))
        if switch is not None:
            who = f"become user {switch.name}"
            self._steps.append((who, os.setgroups, (list(switch.groups),)))
            self._steps.append((who, os.setregid, (switch.gid, switch.gid)))
            self._steps.append((who, os.setreuid, (switch.uid, switch.uid)))
            self._steps.append((who, join_new_session_keyring, ()))
        as_whom = f" as user {switch.name}" if switch is not None else ""
        self._steps.append((f"enter the working directory {cwd}{as_whom}", os.chdir, (cwd,)))
        self._read_end, self._write_end = os.pipe()

    def __call__(self) -> None:
        for number, (_, function, arguments) in enumerate(self._steps):
            try:
                function(*arguments)
            except (OSError, ValueError) as problem:  # ValueError: setrlimit's word for EPERM
                number_of_error = problem.errno if isinstance(problem, OSError) and problem.errno else errno.EPERM
                os.write(self._write_end, bytes((number, number_of_error)))
                raise

    def failure(self) -> tuple[str, int] | None:
        """Return what could not be done and the error's number; None: it was something else."""
        os.set_blocking(self._read_end, False)
        try:
            number, number_of_error = os.read(self._read_end, 2)
        except (BlockingIOError, ValueError):
            return None
        return f"can't {self._steps[number][0]}: {os.strerror(number_of_error)}", number_of_error

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)

"""A job's start where our caller ignores SIGCHLD. Loaded only then.

The job is to ignore it too, and we, who wait for the job, must not. posix_spawn(3) can make a signal default in the
child, but not ignored: that takes code of ours between fork and exec.
"""

import signal
from collections.abc import Iterable
from subprocess import Popen


def spawn_ignoring_sigchld(
    path: str,
    command: list[str],
    variables: dict[str, str],
    *,
    mask: Iterable[int],
    own_group: bool,
    outputs: tuple[int, int] | None,
) -> int:
    """Start *command* from the file *path* with the signals of *mask* blocked, and return its pid. Raises OSError."""

    def be_as_the_caller() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    stdout, stderr = (None, None) if outputs is None else outputs
    process = Popen(
        command,
        executable=path,
        env=variables,
        stdout=stdout,
        stderr=stderr,
        close_fds=False,
        preexec_fn=be_as_the_caller,  # noqa: PLW1509  # nothing in it waits for what a thread could hold
        process_group=0 if own_group else None,
    )
    process.returncode = 0  # or its end as an object would take the job's status from under us
    return process.pid

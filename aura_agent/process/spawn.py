"""Starting a job for the daemon: as cron would, in a session of its own, with nothing of ours but what it is given.

The child gets stdin from /dev/null, no descriptor beyond 0 to 2, default SIGPIPE and SIGXFSZ, and exactly the
environment of its spec. Whatever keeps it from starting is a SpawnFailed. Looking up an account asks the name
service, and starting waits for the exec: both block, briefly as a rule; neither needs the event loop's thread.
"""

import errno
import os
import resource
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aura_agent.process.account import DEFAULT_PATH, DEFAULT_SHELL, Account, resolve_account
from aura_agent.process.child import Child
from aura_agent.process.failure import NOT_FOUND, SpawnFailed
from aura_agent.process.file_rights import file_rights_of
from aura_agent.process.prepare import Preparation
from aura_agent.process.script import FORMAT_ERROR, is_script_file

__all__ = ["Child", "Output", "SpawnFailed", "SpawnSpec", "spawn"]

Output = Literal["pipe", "stdout", "inherit", "null"]  # stdout: where that goes, for stderr alone


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnSpec:
    """What to start. Either *argv*, or *shell_text* for ``SHELL -c``.

    env is complete (see job_environment); its PATH finds the program. account None: as we are. cwd None: the
    account's home where there is one, else ``/``. umask, nice None: ours. limits: by the names of prepare.LIMITS, each
    soft and hard; for the rest ours.
    """

    env: Mapping[str, str]
    argv: tuple[str, ...] = ()
    shell_text: str | None = None
    shell: str = DEFAULT_SHELL
    cwd: str | None = None
    account: Account | None = None
    umask: int | None = None
    nice: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    stdout: Output = "pipe"
    stderr: Output = "pipe"


def spawn(spec: SpawnSpec) -> Child:
    """Start what *spec* says and return it as soon as the program runs. Raises SpawnFailed: it doesn't."""
    argv = spec.argv if spec.shell_text is None else (spec.shell, "-c", spec.shell_text)
    if not argv or not argv[0]:
        raise SpawnFailed("the command is empty: write the program to run", exit_code=NOT_FOUND)
    cwd = spec.cwd if spec.cwd is not None else _default_cwd(spec.account)
    ours: list[int] = []
    theirs: list[int] = []
    try:
        read_out, write_out = _output(spec.stdout, ours, theirs)
        read_err, write_err = _output(spec.stderr, ours, theirs)
        popen = _start(argv, spec, cwd, write_out, write_err)
    except BaseException:
        for read_end in ours:
            os.close(read_end)
        raise
    finally:
        for write_end in theirs:
            os.close(write_end)
    own_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        pidfd = os.pidfd_open(popen.pid)
    except OSError:
        pidfd = None  # a kernel before 5.3, or out of descriptors: Child waits in a thread instead
    return Child(popen, pidfd=pidfd, stdout=read_out, stderr=read_err, own_peak_bytes=own_peak_bytes)


def _output(output: Output, ours: list[int], theirs: list[int]) -> tuple[int | None, int | None]:
    """Return our end and the child's end (None: as ours is); each end of a pipe is also put into its list."""
    if output == "inherit":
        return None, None
    if output == "null":
        return None, subprocess.DEVNULL
    if output == "stdout":
        return None, subprocess.STDOUT
    try:
        read_end, write_end = os.pipe()
    except OSError as exc:
        raise SpawnFailed(f"no pipe for the job's output: {exc.strerror}", error_number=exc.errno) from exc
    ours.append(read_end)
    theirs.append(write_end)
    return read_end, write_end


def _start(
    argv: tuple[str, ...], spec: SpawnSpec, cwd: str, stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    """Try each file that *argv*[0] may mean, in the order and with the rules of execvp(3)."""
    refused: SpawnFailed | None = None
    for path in _candidates(argv[0], spec.env, cwd):
        try:
            return _execute(argv, path, spec, cwd, stdout, stderr)
        except SpawnFailed as exc:
            if exc.error_number == errno.EACCES and "/" not in argv[0]:
                refused = refused or exc  # execvp(3): a forbidden file doesn't end the search along PATH
            elif exc.exit_code != NOT_FOUND:
                raise
    if refused is not None:
        raise refused
    if "/" in argv[0]:
        raise SpawnFailed(f"{argv[0]}: not found", exit_code=NOT_FOUND, error_number=errno.ENOENT)
    search_path = os.pathsep.join(os.get_exec_path(dict(spec.env)))
    hint = "" if search_path == DEFAULT_PATH else "; write its full path, or correct PATH"
    raise SpawnFailed(f"{argv[0]}: not found in {search_path}{hint}", exit_code=NOT_FOUND, error_number=errno.ENOENT)


def _candidates(program: str, env: Mapping[str, str], cwd: str) -> Iterator[str]:
    if "/" in program:
        yield program
        return
    for directory in os.get_exec_path(dict(env)):
        yield directory + "/" + program if directory.startswith("/") else os.path.join(cwd, directory, program)


def _execute(
    argv: tuple[str, ...], path: str, spec: SpawnSpec, cwd: str, stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    with file_rights_of(spec.account):
        _look_at(path, cwd, is_sought="/" not in argv[0])
    try:
        try:
            return _popen(argv, path, spec, cwd, stdout, stderr)
        except OSError as exc:
            if exc.errno != errno.ENOEXEC:
                raise
            with file_rights_of(spec.account):
                is_script = is_script_file(os.path.join(cwd, path))
            if not is_script:
                raise SpawnFailed(f"{path}: {FORMAT_ERROR}", error_number=exc.errno) from exc
            # execvp(3): a script without a first line that names its interpreter is /bin/sh's.
            return _popen(("/bin/sh", path, *argv[1:]), "/bin/sh", spec, cwd, stdout, stderr)
    except OSError as exc:
        raise _translate(exc, path, spec.account, cwd) from exc
    except (ValueError, subprocess.SubprocessError) as exc:
        raise SpawnFailed(f"{path}: an argument or environment variable is not possible: {exc}") from exc


def _look_at(path: str, cwd: str, *, is_sought: bool) -> None:
    """Raise SpawnFailed if *path* is nothing to execute; *is_sought*: it may be, in a directory of PATH.

    Looked at first: a fork for every directory of PATH would cost more than the job.
    """
    try:
        mode = os.stat(os.path.join(cwd, path)).st_mode
    except OSError as exc:
        # Along PATH a shell looks on whatever is wrong with a directory: a loop of links, a file system that is gone.
        absent = exc.errno in {errno.ENOENT, errno.ENOTDIR} or (is_sought and exc.errno != errno.EACCES)
        if absent and os.path.isdir(cwd):
            raise SpawnFailed(f"{path}: not found", exit_code=NOT_FOUND, error_number=exc.errno) from exc
        return  # let the kernel say it
    except ValueError as exc:
        raise SpawnFailed(f"{path!r} is not a possible path: {exc}", exit_code=NOT_FOUND) from exc
    if stat.S_ISDIR(mode):
        raise SpawnFailed(f"{path}: is a directory", error_number=errno.EACCES)


def _popen(
    argv: tuple[str, ...], path: str, spec: SpawnSpec, cwd: str, stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    switch = spec.account if spec.account is not None and spec.account.switch else None
    if switch is None and spec.nice is None and not spec.limits:
        return _fork(argv, path, spec, stdout, stderr, {"cwd": cwd})
    preparation = Preparation(spec.nice, spec.limits, switch, cwd)
    try:
        return _fork(argv, path, spec, stdout, stderr, {"preexec_fn": preparation})
    except subprocess.SubprocessError as exc:
        failure = preparation.failure()
        if failure is None:
            raise
        text, number = failure
        hint = "the agent must run as root for that" if number == errno.EPERM else "correct it"
        raise SpawnFailed(f"{text}: {hint}", error_number=number) from exc
    finally:
        preparation.close()


def _fork(
    argv: tuple[str, ...],
    path: str,
    spec: SpawnSpec,
    stdout: int | None,
    stderr: int | None,
    options: Mapping[str, Any],
) -> subprocess.Popen[bytes]:
    nothing = _empty_input()
    try:
        return subprocess.Popen(
            argv,
            executable=path,
            env=dict(spec.env),
            stdin=nothing,
            stdout=stdout,
            stderr=stderr,
            umask=-1 if spec.umask is None else spec.umask,
            start_new_session=True,
            restore_signals=True,
            close_fds=True,
            **options,
        )
    finally:
        os.close(nothing)


def _empty_input() -> int:
    """Open what is at its end from the start: /dev/null, or a pipe that nobody writes to where there is none."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        reading, writing = os.pipe()
        os.close(writing)
        return reading


def _translate(exc: OSError, path: str, account: Account | None, cwd: str) -> SpawnFailed:
    """Say what failed: subprocess names *cwd* if it can't be entered, nothing if there is no fork, else the program."""
    as_whom = f" for user {account.name}" if account is not None and account.switch else ""
    text: str
    if exc.filename == cwd:
        text = f"can't enter the working directory {cwd}: {exc.strerror}"
    elif exc.filename is None:
        text = f"can't start a process: {exc.strerror}"
    elif exc.errno == errno.ENOENT:
        text = f"{path}: its interpreter {_interpreter(os.path.join(cwd, path), account)}does not exist"
    elif exc.errno == errno.EACCES:
        text = f"{path}: permission denied{as_whom}; is it (and its interpreter) executable?"
    else:
        text = f"{path}: {exc.strerror}"
    return SpawnFailed(text, error_number=exc.errno)


def _interpreter(path: str, account: Account | None) -> str:
    """Return what the first line of *path* names, quoted and with a space, or nothing."""
    try:
        with file_rights_of(account), open(path, "rb") as script:
            first_line = script.read(256).partition(b"\n")[0]
    except OSError:
        return ""
    if not first_line.startswith(b"#!"):
        return ""
    return ascii(first_line[2:].lstrip().decode("utf-8", "replace").split(" ")[0]) + " "


def _default_cwd(account: Account | None) -> str:
    home = (account or resolve_account()).home
    with file_rights_of(account):
        return home if os.path.isdir(f"{home}/.") else "/"  # the dot: whether it may be entered

"""Read and replace one file below a root, or one user's crontab.

A file is replaced as a whole, by one of the same owner, mode and extended attributes. Its directory is opened without
following links, after the links of its path have been resolved within the root. A crontab goes through crontab(1),
which tells cron.
"""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aura_agent.discover.below import below
from aura_agent.discover.host import by_crontab, own_name, read_own_crontab, read_text, read_user_crontab
from aura_agent.errors import AuraError

_TIMEOUT_S = 30.0
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def content(path: str, owner: str | None, root: str) -> str | None:
    """Return what a file holds now; None if there is none. *owner*: whose crontab. Raises AuraError, OSError."""
    read = read_user_crontab if owner is not None and by_crontab(root) else read_text
    try:
        return read(below(root, path))
    except FileNotFoundError:
        return None
    except PermissionError:
        if owner != own_name() or not by_crontab(root):
            raise
        return read_own_crontab() or None


def put(path: str, text: str, owner: str | None, root: str, mode: int) -> None:
    """Make *text* the content of a file or a crontab; a new file gets *mode*. Raises AuraError, OSError."""
    if owner is None or not by_crontab(root):
        _replace(root, path, text, mode)
        return
    before = content(path, owner, root)
    _give_to_crontab(text, owner)
    if content(path, owner, root) != text:
        if before is not None:
            _give_to_crontab(before, owner)
        raise AuraError("crontab stored something else than it was given; the former table is back")


def remove(path: str, root: str) -> None:
    """Remove a file, and the directory that was made for a drop-in if it is empty then. Raises AuraError, OSError."""
    real = below(root, path)
    with open_directory(root, os.path.dirname(real)) as directory:
        os.unlink(os.path.basename(real), dir_fd=directory)
        _sync(directory)
    if os.path.dirname(real).endswith(".service.d"):
        with open_directory(root, os.path.dirname(os.path.dirname(real))) as directory, suppress(OSError):
            os.rmdir(os.path.basename(os.path.dirname(real)), dir_fd=directory)


def to_bytes(text: str) -> bytes:
    """Return the bytes that a file's text stands for."""
    return text.encode("utf-8", "surrogateescape")


def why(problem: Exception) -> str:
    """Return why a file couldn't be written, for people."""
    if isinstance(problem, subprocess.TimeoutExpired):
        return f"crontab(1) hasn't answered for {_TIMEOUT_S:.0f} s"
    if not isinstance(problem, OSError):
        return str(problem)
    if problem.errno == errno.EPERM:
        return f"{problem.strerror}: the file or its directory may be immutable (lsattr shows an i)"
    return problem.strerror or str(problem)


def _give_to_crontab(text: str, owner: str) -> None:
    user = ["-u", owner] if os.geteuid() == 0 else []
    done = subprocess.run(
        ["crontab", *user, "-"], input=to_bytes(text), capture_output=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise AuraError(f"crontab refuses it: {'; '.join(lines)}")


def _replace(root: str, path: str, text: str, mode: int) -> None:
    """Replace a file as a whole, or make it. Its directory is made if need be. Raises AuraError, OSError."""
    parent, name = os.path.split(below(root, path))
    # Cron passes over names that begin with a dot, whichever cron it is.
    new = f".{name}.{os.urandom(6).hex()}"
    with open_directory(root, parent, make=True) as directory:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(new, flags, 0o600, dir_fd=directory)
        try:
            _write(file, text, directory, name, mode)
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(new, dir_fd=directory)
            raise
        _sync(directory)


def _write(file: int, text: str, directory: int, name: str, mode: int) -> None:
    """Write *text* to an open new file, and give it what the file *name* in *directory* has, or else *mode*."""
    with open(file, "wb") as writer:
        writer.write(to_bytes(text))
        writer.flush()
        was = None
        with suppress(FileNotFoundError):
            was = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        if was is None:
            os.fchmod(file, mode)
        else:
            try:
                _copy_attributes(was, file)
            finally:
                os.close(was)
        os.fsync(file)


def _copy_attributes(old: int, new: int) -> None:
    was = os.fstat(old)
    os.fchown(new, was.st_uid, was.st_gid)
    os.fchmod(new, was.st_mode & 0o777)  # no table runs as its owner
    with suppress(OSError):  # a file system without them
        for name in os.listxattr(old):
            if name == "security.capability":
                continue  # rights of a program, which a table isn't
            with suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))


@contextmanager
def open_directory(root: str, real: str, *, make: bool = False, last_mode: int = 0o755) -> Iterator[int]:
    """Open a directory below *root*, whose path has no links: one that appears meanwhile isn't followed.

    *make*: with what is missing on the way to it, and *last_mode* if it is missing itself. Raises AuraError: as root
    we write to no directory that others can change; OSError.
    """
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _refuse_others(at, root)
        *way, last = os.path.relpath(real, os.path.abspath(root)).split("/")
        for part in (*way, last):
            made = make and make_in(at, part)
            # One that may be passed through, and not be listed, as /home of some hosts, can be opened only so.
            flags = _DIRECTORY if made or part is last else _DIRECTORY | os.O_PATH
            inner = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = inner
            if made:
                os.fchmod(at, last_mode if part is last else 0o755)  # whatever the umask
            _refuse_others(at, real)
        yield at
    finally:
        os.close(at)


def _refuse_others(directory: int, path: str) -> None:
    """Raise AuraError if we are root and others can change *directory*; in one with the sticky bit, only their own."""
    if os.geteuid() != 0:
        return
    found = os.fstat(directory)
    if found.st_uid != 0 or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        raise AuraError(f"{path}: others can change this directory or one above it: root writes nothing there")


def make_in(directory: int, name: str) -> bool:
    """Make a directory in *directory* that we can open, whatever the umask; return whether it wasn't there."""
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return False
    if os.geteuid() != 0:  # a strict umask shuts us out
        os.chmod(name, 0o700, dir_fd=directory)
    return True


def _sync(directory: int) -> None:
    """Sync a directory in which a file was replaced: done is done, whatever the disk says now."""
    with suppress(OSError):
        os.fsync(directory)

"""Directories and files that only their owner uses, with the right mode whatever the umask is.

A process has one umask, and the jobs inherit it: nothing here sets it. What we made gets its mode by
chmod(2); what was there before is left as it is. Builtins only: ``aura-run`` imports this beside the job.
"""

import os
from fcntl import LOCK_EX, LOCK_NB, flock
from time import monotonic, sleep

_OWNER = 0o700
_PATIENCE_S = 1.0  # our locks are held for a moment only
_PAUSE_S = 0.005


def make_directory(path: str, mode: int = 0o700) -> bool:
    """Create one directory with exactly *mode*; return whether it was missing. Raises OSError."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    _set_mode(path, 0o777, mode)
    return True


def make_parents(path: str, mode: int | None = None) -> None:
    """Create *path* and what is missing above it. Raises OSError.

    *mode*: exactly that; None: 0755 as far as the umask lets others in, and always usable for the owner.
    """
    if not path or not _make_new(path, 0o755 if mode is None else mode, mode):
        return
    if mode is None:
        _set_mode(path, _OWNER, _OWNER)
    else:
        _set_mode(path, 0o777, mode)


def _make_new(path: str, bits: int, mode: int | None) -> bool:
    """Create *path* and what is missing above it; return whether it was missing. Raises OSError."""
    try:
        try:
            os.mkdir(path, bits)
        except FileNotFoundError:
            parent = os.path.dirname(path.rstrip("/"))
            if parent == path:
                raise
            make_parents(parent, mode)
            os.mkdir(path, bits)  # once: below a dangling link, in /proc or in a removed directory it fails again
    except FileExistsError:
        return False
    return True


def open_private(path: str, flags: int) -> int:
    """Open the file at *path*, created with mode 0600 if it is missing; no link is followed. Raises OSError."""
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    found = os.fstat(file)
    if found.st_mode & 0o600 != 0o600 and found.st_uid == os.geteuid():
        try:
            os.fchmod(file, found.st_mode & 0o7777 | 0o600)
        except OSError:
            os.close(file)
            raise
    return file


def lock(file: int, patience_s: float = _PATIENCE_S) -> None:
    """Lock the open *file* for us alone. Raises TimeoutError: others keep it for longer than *patience_s*.

    Who holds it may be stopped, or wait for a disk that hangs.
    """
    deadline_s = monotonic() + patience_s
    while True:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if monotonic() >= deadline_s:
                raise TimeoutError(110, "another process keeps it locked") from None
            sleep(_PAUSE_S)
        else:
            return


def explained(problem: OSError, path: str) -> OSError:
    """Return *problem* with the way out as its text, if a directory of ours on the way to *path* shuts us out."""
    if problem.errno not in (1, 13):  # EPERM, EACCES
        return problem
    place = ""
    for part in path.split("/"):
        place += part + "/"
        try:
            found = os.stat(place)
        except OSError:
            return problem
        if reason := unusable(place.rstrip("/"), found):
            return PermissionError(13, reason, path)
    return problem


def unusable(path: str, found: os.stat_result) -> str:
    """Return what to do about our own directory *path* if its mode shuts us out; else an empty text."""
    mode = found.st_mode & 0o7777
    if found.st_mode & 0o170000 != 0o040000 or found.st_uid != os.geteuid() or mode & _OWNER == _OWNER:
        return ""
    return f"the mode {mode:04o} of {path} shuts its owner out: run chmod u+rwx {path}"


def _set_mode(path: str, mask: int, mode: int) -> None:
    """Set the bits *mask* of the mode of a directory that we have just made to *mode*, if the umask took some."""
    found = os.lstat(path).st_mode
    if found & 0o170000 != 0o040000:
        raise NotADirectoryError(20, "not a directory", path)
    if found & mask != mode:
        os.chmod(path, found & 0o7777 & ~mask | mode)

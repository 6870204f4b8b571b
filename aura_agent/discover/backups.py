"""Where a write of ``discover`` keeps what was there before: a directory for each write, in one that only we can reach.

All of it is reached by directory descriptors: who owns a directory above it can't put a link or a file of his own in
its place. A set that isn't ours alone is not followed: what it says would be done with our rights.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aura_agent.discover.below import below
from aura_agent.discover.file_content import make_in, open_directory, to_bytes
from aura_agent.errors import AuraError

MANIFEST = "manifest.json"
_UNDONE = "undone.json"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class BackupSet:
    """One set, called *path* in messages, whose directory is open as *directory*. Its files have plain names."""

    def __init__(self, path: str, directory: int) -> None:
        self.path = path
        self._directory = directory

    def write(self, name: str, text: str) -> None:
        """Write a file as a whole, 0600, and sync it. Raises OSError."""
        new = f"{_plain(name)}.new"
        with open(os.open(new, _NEW, 0o600, dir_fd=self._directory), "wb") as file:
            file.write(to_bytes(text))
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def read(self, name: str) -> str:
        """Return what a file holds. Raises AuraError: that is no name of one; OSError."""
        with open(os.open(_plain(name), _OLD, dir_fd=self._directory), "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")

    def names(self) -> list[str]:
        return os.listdir(self._directory)

    def sync(self) -> None:
        os.fsync(self._directory)

    def mark_as_undone(self) -> None:
        """From now on there is nothing to undo in it. Raises OSError."""
        os.rename(MANIFEST, _UNDONE, src_dir_fd=self._directory, dst_dir_fd=self._directory)


@contextmanager
def new_set(root: str, backups: str, stamp: str) -> Iterator[BackupSet]:
    """Make the set *stamp* in the directory *backups* of the host below *root*. Raises AuraError, OSError."""
    with open_directory(root, below(root, backups), make=True, last_mode=0o700) as all_sets:
        _check(all_sets, shown(root, backups))
        if not make_in(all_sets, stamp):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), stamp)
        with _opened(all_sets, stamp) as directory:
            os.fchmod(directory, 0o700)  # whatever the umask
            yield BackupSet(shown(root, backups, stamp), directory)
            os.fsync(all_sets)


@contextmanager
def newest_set(root: str, backups: str) -> Iterator[BackupSet]:
    """Open the newest set that hasn't been undone. Raises AuraError: there is none, or it isn't ours; OSError."""
    with ExitStack() as stack:
        try:
            all_sets = stack.enter_context(open_directory(root, below(root, backups)))
        except FileNotFoundError:
            stamps = []
        else:
            _check(all_sets, shown(root, backups))
            stamps = [stamp for stamp in os.listdir(all_sets) if _holds_manifest(all_sets, stamp)]
        if not stamps:
            raise AuraError(f"nothing to undo: there is no backup in {shown(root, backups)}")
        directory = stack.enter_context(_opened(all_sets, max(stamps)))
        path = shown(root, backups, max(stamps))
        _check(directory, path)
        yield BackupSet(path, directory)


def shown(root: str, *inside: str) -> str:
    """Return where a path of the host below *root* is, for people."""
    return os.path.join(root, *(part.lstrip("/") for part in inside))


@contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _holds_manifest(all_sets: int, stamp: str) -> bool:
    try:
        os.stat(os.path.join(stamp, MANIFEST), dir_fd=all_sets, follow_symlinks=False)
    except OSError:
        return False
    return True


def _check(directory: int, path: str) -> None:
    """Raise AuraError unless the directory is ours alone."""
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise AuraError(f"{path}: not ours alone, so it is not followed: make it mode 0700 and yours, or remove it")


def _plain(name: str) -> str:
    if not name or "/" in name or name.startswith("."):
        raise AuraError(f"{name!r} is no name of a file of a backup")
    return name

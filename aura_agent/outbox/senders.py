"""Who of the processes that may hold leases still lives: each has a file in ``senders``, locked as long as it does.

So what a killed one was sending is taken over by the next who looks, and not only when the lease has run out: that is
left for one that hangs. A daemon that has runs going on holds such a file, too: once it is gone, they are lost.
Called inside the store's write transactions, which keep a file from being judged unlocked before its owner has locked
it.
"""

import os
from collections.abc import Iterable
from fcntl import LOCK_NB, LOCK_SH, flock

from aura_agent.private_files import lock
from aura_agent.report import spool

_DIRECTORY = "senders"


class Senders:
    """The senders of the store in *directory*; *owner* is our own name among them. Methods raise OSError."""

    def __init__(self, directory: str | None, owner: str, *, observes: bool = False) -> None:
        """*observes*: only look who lives, and leave no trace."""
        self._directory = directory
        self._observes = observes
        self._owner = owner
        self._ours: int | None = None

    def join(self) -> str:
        """Be seen to live, from here to ``leave`` or our end; return under what name."""
        if self._directory is None or self._observes or self._ours is not None:
            return self._owner
        self._ours = spool.open_new(self._directory, _DIRECTORY, self._owner)
        lock(self._ours)
        return self._owner

    def gone(self) -> list[str]:
        """Return those who left no other sign than their file: their process has ended."""
        if self._directory is None:
            return []
        try:
            names = os.listdir(os.path.join(self._directory, _DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in names if name != self._owner and not self._lives(name)]

    def is_gone(self, name: str) -> bool:
        """Whether the process of that name, which had joined, has ended: in order, or not."""
        return name != self._owner and (not os.path.lexists(self._path(name)) or not self._lives(name))

    def forget(self, names: Iterable[str]) -> None:
        """Their leases have been taken from them."""
        for name in () if self._observes else names:
            spool.remove(self._path(name))

    def leave(self) -> None:
        if self._ours is not None:
            self.forget([self._owner])
            os.close(self._ours)
            self._ours = None

    def _lives(self, name: str) -> bool:
        try:
            file = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return True  # it has left in order; of what can't be looked at, nothing is concluded
        try:
            flock(file, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def _path(self, name: str) -> str:
        return os.path.join(self._directory or "", _DIRECTORY, name)

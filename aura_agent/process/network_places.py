"""Whether a path may hang: it lies on a file system whose server, somewhere else, may not answer.

Told from the kernel's list of mounts, so that the path itself isn't looked at. A link that leads there isn't seen.
"""

import os
import select

# By the types of proc_pid_mountinfo(5); what a program serves (fuse) may hang like a network.
_TYPES = frozenset(
    {
        "9p",
        "afs",
        "autofs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse",
        "gfs2",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
    }
)


class NetworkPlaces:
    """Where they are mounted now, for our mount namespace; read anew when the kernel says that it has changed."""

    def __init__(self, table: str = "/proc/self/mountinfo") -> None:
        self._mounts: list[tuple[str, bool]] = []
        self._poll = select.poll()
        try:
            self._file: int | None = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None  # nothing is known: nothing is thought to hang
            return
        self._poll.register(self._file, select.POLLERR | select.POLLPRI)
        self._read()

    def exist(self) -> bool:
        """Whether there is any now."""
        if self._file is None:
            return False
        if self._poll.poll(0):
            self._read()
        return bool(self._mounts)

    def holds(self, path: str) -> bool:
        """Whether the absolute *path* lies on one, by what ``exist`` last read."""
        return next((may_hang for mount, may_hang in self._mounts if _is_within(path, mount)), False)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> None:
        assert self._file is not None
        os.lseek(self._file, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._file, 1 << 16):
            parts.append(part)
        mounts = parse(os.fsdecode(b"".join(parts)))
        at = dict(mounts)  # of two at one place the later: it covers the other
        self._mounts = sorted(at.items(), key=lambda mount: -len(mount[0])) if any(at.values()) else []


def parse(table: str) -> list[tuple[str, bool]]:
    """Return each mount point and whether it may hang, from the text of a mountinfo file."""
    mounts = []
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) > 4:
            mounts.append((_unescaped(fields[4]), kind in _TYPES or kind.startswith("fuse.")))
    return mounts


def _unescaped(path: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def _is_within(path: str, mount: str) -> bool:
    return mount in ("/", path) or path.startswith(mount + "/")

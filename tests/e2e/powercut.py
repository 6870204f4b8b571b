"""A power cut for one file system: what nobody synced is gone afterwards. Root, ext4 on a loop device."""

import fcntl
import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.waiting import wait_until

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSHING_THE_JOURNAL = 2


class PowerCut:
    """An empty file system at ``path`` that can be cut off and mounted again as the disk had it."""

    def __init__(self, directory: Path, size_mib: int = 64) -> None:
        self._image = directory / "disk.ext4"
        self.path = Path(tempfile.mkdtemp(dir=directory))
        with self._image.open("wb") as image:
            image.truncate(size_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)

    def mount(self) -> None:
        # As long as somebody has the old mount's loop device, mount(8) would take that, dead file system and all.
        wait_until(lambda: not subprocess.run(["losetup", "-j", self._image], capture_output=True, check=True).stdout)
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", self._image, self.path], check=True)

    def cut(self) -> None:
        """Power is gone: the file system takes nothing more, and forgets what it had not written."""
        self.fail()
        self.unmount()

    def fail(self) -> None:
        """From now on, whoever reads or writes gets EIO."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_JOURNAL))
        finally:
            os.close(directory)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)

    def turn_read_only(self) -> None:
        """Let the kernel find an error, and refuse all writing with EROFS (ext4(5), errors=remount-ro)."""
        loop = subprocess.run(["losetup", "-j", self._image], capture_output=True, check=True, text=True).stdout
        device = Path(loop.partition(":")[0]).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *problem: object) -> None:
        subprocess.run(["umount", "-l", self.path], check=False)

"""Faults of the store's disk for the chaos run, and a disk of its own to have them on."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.sites import Site
from tests.faults.chaos_faults import Fault
from tests.faults.chaos_processes import Gate
from tests.machine import loop_devices, tmpfs
from tests.waiting import wait_until

_DISK_MIB = 64


class _Spans:
    """When a fault was there, in monotonic seconds."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def begin(self) -> None:
        self._spans.append((time.monotonic(), float("inf")))

    def end(self) -> None:
        self._spans[-1] = (self._spans[-1][0], time.monotonic())

    def meet(self, began_s: float, ended_s: float) -> bool:
        """Whether it was there at some time between the two."""
        return any(since_s <= ended_s and began_s <= until_s for since_s, until_s in self._spans)


class DiskFault(Fault):
    """Something that keeps the disk from taking a report."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        super().__init__(site, rng)
        self.spans = _Spans()


class FullDisk(DiskFault):
    """The state directory's file system is full, but readable."""

    @property
    def _filler(self) -> Path:
        return self.site.state / "filler"

    def begin(self) -> None:
        self.times += 1
        self.spans.begin()
        with self._filler.open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while filler.write(b"0" * size) == size:
                        pass

    def end(self) -> int:
        self._filler.unlink()
        self.spans.end()
        return 0


class FrozenDisk(DiskFault):
    """The state directory's file system hangs whoever writes, for a moment or until the daemon's kill.

    Whoever hangs there ends only when the disk goes on: this fault begins last and ends first.
    """

    late = True
    _is_frozen = False

    def begin(self) -> None:
        self.times += 1
        self.spans.begin()
        self._freeze("--freeze")
        self._is_frozen = True
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0.1, 3.0))
            self.thaw()

    def thaw(self) -> None:
        if self._is_frozen:
            self._is_frozen = False
            self._freeze("--unfreeze")
            self.spans.end()

    def close(self) -> int:
        self.thaw()
        return 0

    def _freeze(self, how: str) -> None:
        subprocess.run(["fsfreeze", how, str(self.site.state)], check=True)


class RestoredStore(Fault):
    """A copy of the state directory is put in its place, some cycles after it was made, while nobody runs.

    *is_restored*: in this cycle; *is_behind*: and something was sent, or contradicted, since the copy was made. If
    nothing was, it is no more than a restart: what was under way at the copy may have arrived, waits in it, and is sent
    again as after any kill. *before* is called ahead of that, *after* once it is done.
    """

    chance = 0.15
    late = False
    is_restored = False
    is_behind = False
    restored_s = 0.0  # the last time

    def __init__(
        self, site: Site, rng: random.Random, gate: Gate, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        super().__init__(site, rng)
        self._gate = gate
        self._before = before
        self._after = after
        self._copy = site.home / "copy"
        self._copied_at: list[tuple[int]] = []

    def begin(self) -> None:
        with self._gate.shut():
            if not self._copy.exists():
                shutil.copytree(self.site.state, self._copy)
                self._copied_at = self._number()
                return
            self._before()
            self.is_behind = self._number() != self._copied_at
            for path in self.site.state.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(self._copy, self.site.state, dirs_exist_ok=True)
            shutil.rmtree(self._copy)
            self.times += 1
            self.is_restored, self.restored_s = True, time.monotonic()
            self._after()

    def end(self) -> int:
        self.is_restored = self.is_behind = False
        return 0

    def _number(self) -> list[tuple[int]]:
        """Return what grows in the store with all that is sent, and with what contradicts it."""
        return self.site.rows("SELECT number FROM generation")


@contextmanager
def disk_of_its_own(site: Site) -> Iterator[str]:
    """Put the state directory on a small file system while in the context; yield its kind.

    ``ext4`` can be filled and frozen, ``tmpfs`` filled; empty where the machine can mount neither.
    """
    site.state.mkdir(mode=0o700)
    if not loop_devices():
        image = site.home / "disk.ext4"
        with image.open("wb") as file:
            file.truncate(_DISK_MIB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
        kind, mount = "ext4", ["mount", "-o", "loop", str(image), str(site.state)]
    elif not tmpfs():
        kind, mount = "tmpfs", ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "none", str(site.state)]
    else:
        yield ""
        return
    subprocess.run(mount, check=True)
    try:
        site.state.chmod(0o700)
        shutil.rmtree(site.state / "lost+found", ignore_errors=True)
        yield kind
    finally:
        if site.daemon is not None:
            site.kill()
        unmount = ["umount", str(site.state)]
        wait_until(lambda: subprocess.run(unmount, capture_output=True, check=False).returncode == 0, what="unmounting")

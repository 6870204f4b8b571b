"""What a test needs of the machine, asked of the machine itself: ``pytestmark = needs(ROOT, MOUNTS)``.

A test whose needs aren't met is skipped with one line that says what is missing: ``LACKS``. Where ``AURA_TEST_DEMAND=1``
is set, as in CI on a whole machine, that is a failure instead (``tests/conftest.py``).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from aura_agent.report.places import SYSTEM_CONFIG

LACKS = "this machine lacks: "
Need = Callable[[], str]
"""Returns what is missing, nothing if all is there."""


def needs(*wanted: Need) -> pytest.MarkDecorator:
    """Skip where one of *wanted* is missing; the reason names the first."""
    missing = next((reason for need in wanted if (reason := need())), "")
    return pytest.mark.skipif(bool(missing), reason=f"{LACKS}{missing}")


def root() -> str:
    return "" if os.geteuid() == 0 else "root's rights"


@cache
def mounts() -> str:
    """A mount namespace of its own with a bind mount in it: containers often forbid both."""
    if root():
        return root()
    with tempfile.TemporaryDirectory() as directory:
        return _tried(["unshare", "--mount", "mount", "--bind", directory, directory], "mounts in an own namespace")


@cache
def tmpfs() -> str:
    """A file system in memory, mounted where all may see it."""
    if root():
        return root()
    with tempfile.TemporaryDirectory() as directory:
        missing = _tried(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory], "the right to mount a tmpfs")
        if not missing:
            subprocess.run(["umount", directory], check=True)
    return missing


@cache
def loop_devices() -> str:
    """ext4 in a file, mounted by a loop device."""
    if root() or shutil.which("mkfs.ext4") is None:
        return root() or "mkfs.ext4"
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "image")
        with image.open("wb") as file:
            file.truncate(4 << 20)
        missing = _tried(["mkfs.ext4", "-q", "-F", str(image)], "mkfs.ext4")
        missing = missing or _tried(["mount", "-o", "loop", str(image), directory], "loop devices")
        if not missing:
            subprocess.run(["umount", "-l", directory], check=True)
    return missing


@cache
def own_boot_id() -> str:
    """A file in place of the kernel's boot id, in a mount namespace."""
    if mounts():
        return mounts()
    with tempfile.NamedTemporaryFile() as file:
        return _tried(
            ["unshare", "--mount", "mount", "--bind", file.name, "/proc/sys/kernel/random/boot_id"],
            "the right to mount over /proc/sys",
        )


@cache
def pid_namespaces() -> str:
    if root():
        return root()
    return _tried(["unshare", "--pid", "--fork", "--mount-proc", "true"], "pid namespaces")


@cache
def proc_mounts() -> str:
    """A /proc of another kind: containers hide parts of theirs, and then may mount no other."""
    if root():
        return root()
    return _tried(["unshare", "--mount", "mount", "-t", "proc", "-o", "subset=pid", "proc", "/proc"], "mounts of /proc")


@cache
def time_namespaces() -> str:
    if root():
        return root()
    return _tried(["unshare", "--time", "--boottime", "1000", "--fork", "true"], "time namespaces")


@cache
def net_namespaces() -> str:
    """A network namespace whose loopback ip(8) brings up."""
    if root():
        return root()
    if shutil.which("ip") is None:
        return "ip (package iproute2)"
    return _tried(["unshare", "--net", "ip", "link", "set", "lo", "up"], "network namespaces")


@cache
def a_disk() -> str:
    """Below /var/tmp, and not only memory: what is written there is counted as traffic."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/var/tmp"], capture_output=True, text=True, check=False).stdout
    return "a disk below /var/tmp" if kind.strip() in ("tmpfs", "ramfs", "") else ""


def curl() -> str:
    return "" if shutil.which("curl") else "curl"


def no_system_config() -> str:
    """``make test`` hides the host's config, if it may (tests/without-host-config.sh)."""
    return "" if not os.path.exists(SYSTEM_CONFIG) else f"a way to hide {SYSTEM_CONFIG}, which no test may read"


def _tried(command: list[str], what: str) -> str:
    """Return *what* if *command* can't be carried out."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return what
    return "" if done.returncode == 0 else what

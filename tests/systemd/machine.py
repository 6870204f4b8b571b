"""A throw-away machine with a booted systemd, in a container of its own: what a test does to it is gone afterwards.

Needs root, systemd-nspawn and the root file system that ``setup.sh`` makes; the host's own init may be anything. The
machine has a private network with nothing but loopback, and control groups of its own, which nspawn leaves to us.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/tmp") / "aura-agent-test"
_CGROUPS = Path("/sys/fs/cgroup")
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1), "Signals"
_BOOT_S = 60.0


class Machine:
    """A machine that is up. Paths given to its methods are paths inside it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def try_run(self, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run *argv* inside, as root and with an environment as after a login."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-p", "-n", "-C", "--"]
        path = "PATH=/opt/aura-agent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "-i", path, "LANG=C.UTF-8", "HOME=/root"]
        return subprocess.run([*enter, *clean, *argv], capture_output=True, text=True, timeout=timeout_s, check=False)

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        """Return what *argv* prints inside; it must end well."""
        done = self.try_run(*argv, timeout_s=timeout_s)
        assert done.returncode == 0, (
            f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}\n{self.journal()}"
        )
        return done.stdout

    def path(self, inside: str) -> Path:
        """Return *inside* as this side sees it; links in it are not followed as the machine would."""
        return Path(f"/proc/{self._leader}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def journal(self, *options: str) -> str:
        return self.try_run("journalctl", "--no-pager", "-o", "cat", *options).stdout

    def show(self, unit: str, key: str) -> str:
        """Return one property of *unit*."""
        return self.run("systemctl", "show", "--value", "-p", key, unit).strip()


@contextmanager
def booted(root: Path, workdir: Path) -> Iterator[Machine]:
    """Boot *root*, leaving it as it is, and power off afterwards."""
    name = f"aura-{os.getpid()}-{os.urandom(3).hex()}"
    groups = [parent / name for parent in _hierarchies()]
    log = workdir / "boot.log"
    try:
        for group in groups:
            group.mkdir()
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        nspawn = (
            f"exec systemd-nspawn -D {root} --volatile=overlay --boot --register=no --keep-unit"
            f" --machine={name} --private-network --console=pipe"
        )
        with (
            log.open("wb") as output,
            subprocess.Popen(["sh", "-c", join + nspawn], stdin=subprocess.DEVNULL, stdout=output, stderr=output) as up,
        ):
            try:
                leader = _wait_for_leader(up, log)
                machine = Machine(leader)
                wait_until(lambda: _is_up(machine), _BOOT_S, f"the machine is up, see {log}")
                yield machine
                os.kill(leader, _POWER_OFF)
                up.wait(_BOOT_S)
            finally:
                up.kill()  # and with it, as its parent-death signal says, the machine
    finally:
        for group in groups:
            _remove_group(group)


def _hierarchies() -> list[Path]:
    """Return where systemd keeps its control groups: one place, or two with cgroup v1 beside v2."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in (_CGROUPS / "systemd", _CGROUPS / "unified") if path.is_dir()]


def _wait_for_leader(nspawn: subprocess.Popen[bytes], log: Path) -> int:
    """Return the pid of the machine's init."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    found: list[int] = []

    def look() -> bool:
        assert nspawn.poll() is None, f"systemd-nspawn ended: {log.read_text(errors='replace')[-2000:]}"
        # nspawn's first child sets the machine up and goes; the one that stays is pid 1 inside.
        found[:] = [int(pid) for pid in children.read_text().split() if _is_init(int(pid))]
        return bool(found)

    wait_until(look, _BOOT_S, f"systemd-nspawn starts an init, see {log}")
    return found[0]


def _is_init(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return re.search(r"^NSpid:.*\t1$", status, re.MULTILINE) is not None and "Name:\tsystemd\n" in status


def _is_up(machine: Machine) -> bool:
    return machine.try_run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}


def _remove_group(group: Path) -> None:
    if not group.exists():
        return

    def gone() -> bool:
        try:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
        except OSError:  # EBUSY while its last processes end
            return False
        return True

    wait_until(gone, 10.0, f"{group} is empty")

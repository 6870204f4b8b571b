"""podman with storage of its own, so that it neither finds nor leaves anything in the user's. Needs root."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/tmp") / "aura-agent-test"
REPO = Path(__file__).resolve().parents[2]
# As a cluster with the "restricted" policy runs a container.
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=50")
_CONF = Path(__file__).with_name("containers.conf")


class Podman:
    """Every container it starts has a name that begins with *prefix*, and goes with ``clean_up``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._started: list[str] = []

    def call(self, *args: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        # runc, because crun refuses cgroup v1 beside v2.
        storage = [f"--root={CACHE}/podman", f"--runroot={CACHE}/podman-run", "--runtime=runc", "--log-level=error"]
        return subprocess.run(
            ["podman", *storage, *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, "CONTAINERS_CONF": str(_CONF)},
        )

    def build(self, tag: str, *args: str, context: Path = REPO) -> None:
        """Build an image without a network; pip finds the wheels that setup.sh has downloaded."""
        pip_conf = _CONF.with_name("pip.conf")
        mounts = [f"--volume={(CACHE / 'wheels').resolve()}:/wheels:ro", f"--volume={pip_conf}:/etc/pip.conf:ro"]
        built = self.call("build", "-q", "--network=none", "--pull=never", *mounts, "-t", tag, *args, str(context))
        assert built.returncode == 0, built.stdout + built.stderr

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        return self.call("run", "--rm", "--no-healthcheck", *_default_network(options), *options, image, *command)

    def start(self, name: str, image: str, *command: str, options: Sequence[str] = ()) -> "Container":
        """Start a container and leave it running."""
        full = f"{self._prefix}-{name}"
        self._started.append(full)
        flags = ["--detach", f"--name={full}", "--no-healthcheck", *_default_network(options)]
        started = self.call("run", *flags, *options, image, *command)
        assert started.returncode == 0, started.stderr
        return Container(self, full)

    def clean_up(self) -> None:
        for name in reversed(self._started):
            self.call("rm", "--force", "--volumes", "--time=0", name)
        self._started.clear()


class Container:
    """A container that was started."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self.name = name

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._podman.call("exec", self.name, *command)

    def output(self) -> str:
        done = self._podman.call("logs", self.name)
        return done.stdout + done.stderr

    def send(self, signal_name: str) -> None:
        assert self._podman.call("kill", f"--signal={signal_name}", self.name).returncode == 0

    def wait(self) -> int:
        """Return the exit status; it must end by itself."""
        done = self._podman.call("wait", self.name, timeout_s=60.0)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def inspect(self) -> dict[str, Any]:
        (facts,) = json.loads(self._podman.call("inspect", self.name).stdout)
        return dict(facts)

    def wait_for_output(self, text: str) -> None:
        wait_until(lambda: text in self.output(), what=f"{self.name} prints {text!r}")


def _default_network(options: Sequence[str]) -> list[str]:
    return [] if any(option.startswith("--network") for option in options) else ["--network=none"]

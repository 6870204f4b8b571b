"""Copies of hosts: crontabs, run-parts' directories and units below a directory, as ``--root`` takes them."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli.running import Ran, aura_agent

CONFIG = '[api]\ntoken_file = "/etc/aura-agent/token"\n'
DISCOVERED = "/etc/aura-agent/conf.d/discovered.toml"
_CRONS = {
    "debian": ("/usr/sbin/cron", "INSECURE MODE (mode 0600 expected)"),
    "cronie": ("/usr/sbin/crond", "CRON_TZ"),
    "suse": ("/usr/sbin/cron", "CRON_TZ\0/var/spool/cron/tabs\0"),
    "dcron": ("/usr/sbin/crond", "dillon's cron daemon"),
}


@dataclass
class Copy:
    """A copy of a host that has Debian's cron, unless ``cron`` gives it another."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.root)}
        self.write("/etc/aura-agent/config.toml", CONFIG)
        self.cron("debian")

    def cron(self, name: str) -> None:
        """Give the host this cron, and no other. Programs are known by strings that they hold."""
        for program in ("cron", "crond"):
            self.path(f"/usr/sbin/{program}").unlink(missing_ok=True)
        if name == "busybox":
            self.path("/usr/sbin").mkdir(parents=True, exist_ok=True)
            self.path("/usr/sbin/crond").symlink_to("/bin/busybox")
        elif name:
            self.write(*_CRONS[name])

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> Path:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(text))
        path.chmod(mode)
        return path

    def timer(self, name: str, timer: str, service: str) -> None:
        """Install a timer that is wanted, and its service."""
        self.write(f"/usr/lib/systemd/system/{name}.timer", f"[Timer]\n{timer}\n")
        self.write(f"/usr/lib/systemd/system/{name}.service", f"[Service]\n{service}\n")
        wants = self.path("/etc/systemd/system/timers.target.wants")
        wants.mkdir(parents=True, exist_ok=True)
        (wants / f"{name}.timer").symlink_to(f"/usr/lib/systemd/system/{name}.timer")

    def read(self, inside: str) -> str:
        return os.fsdecode(self.path(inside).read_bytes())

    def discover(self, *arguments: str) -> Ran:
        return aura_agent("discover", "--root", str(self.root), *arguments, environment=self.environment)

    def told(self, *arguments: str) -> dict[str, Any]:
        """Return what the command says as JSON; it must end well."""
        ran = self.discover(*arguments, "--json")
        assert (ran.status, ran.stderr) == (0, "")
        answer: dict[str, Any] = json.loads(ran.stdout.encode())  # it is UTF-8, whatever the files are
        return answer

    def reasons(self) -> dict[str, str]:
        """Return what is left alone, and why."""
        return {item["where"]: item["reason"] for item in self.told()["left_alone"]}

    def files(self) -> dict[str, bytes]:
        """Return what is in all files but the backups."""
        return {
            str(path): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "/var/backups/" not in str(path)
        }

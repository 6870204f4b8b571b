"""Running the installed aura-run as a user would, with a store and a socket of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from aura_agent.report import spool, wire

AURA_RUN = str(Path(sys.executable).parent / "aura-run")
QUEUE = ("--no-wait", "-H", "beat")  # whatever happens is found in the spool


@dataclass
class Host:
    """A host of its own: a directory for state, a socket that nobody listens on, and what lies in the spool."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "AURA_STATE_DIR": str(self.state),
            "AURA_SOCKET": str(self.home / "agent.sock"),
            **self.extra,
        }

    def start(self, *arguments: str, **options: object) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        settings = {"env": self.environment, "cwd": self.home} | pipes | options
        return subprocess.Popen([AURA_RUN, *arguments], **settings)  # type: ignore[call-overload,no-any-return]

    def run(self, *arguments: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
        settings = {"env": self.environment, "cwd": self.home, "capture_output": True, "timeout": 60} | options
        return subprocess.run([AURA_RUN, *arguments], check=False, **settings)  # type: ignore[call-overload,no-any-return]

    def reports(self) -> list[dict[str, str]]:
        """Return the fields of what lies in the spool, oldest start first."""
        records = [spool.read(path, 0) for path in spool.waiting(str(self.state))]
        fields = [wire.decode(record)[1] for record in records if record]
        return sorted(fields, key=lambda report: int(report["start_boot_ns"]))

    def report(self) -> dict[str, str]:
        (report,) = self.reports()
        return report


def state(pid: int) -> str:
    """Return the letter of proc_pid_stat(5) for what *pid* does; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pending(pid: int) -> int:
    """Return the set of signals that wait for *pid*, as the kernel has it."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)

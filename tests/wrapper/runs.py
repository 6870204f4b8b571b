"""Running the installed aura-run as a user would, with a store and a socket of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from aura_agent.report import spool, wire

AURA_RUN = str(Path(sys.executable).parent / "aura-run")


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

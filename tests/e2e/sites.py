"""A site of its own for a test: an embedded Aura, a config, a daemon and aura-runs as their users start them."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.waiting import wait_until

BIN = Path(sys.executable).parent
AURA_RUN, AURA_AGENT = str(BIN / "aura-run"), str(BIN / "aura-agent")


@dataclass
class Site:
    """One host and the Aura that it reports to. The daemon runs only between ``start`` and ``stop`` or ``kill``."""

    home: Path
    server: ThreadedDevServer
    daemon: "subprocess.Popen[bytes] | None" = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    @property
    def log(self) -> Path:
        return self.home / "daemon.log"

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.home), "TMPDIR": str(self.home), "AURA_CONFIG": str(self.config)}
        return {"PATH": os.environ["PATH"], "PYTHONTZPATH": "", **own, **self.extra}

    def configure(self, jobs: str = "", agent: str = "", top: str = "") -> None:
        """Write the config: where everything of this site is, and *jobs*."""
        token = self.home / "token"
        token.write_text(self.server.token + "\n")
        token.chmod(0o600)
        self.config.write_text(
            f'[api]\nbase_url = "{self.server.base_url}"\ntoken_file = "{token}"\n'
            f'[agent]\nstate_dir = "{self.state}"\nsocket = "{self.home}/run/agent.sock"\n'
            f'stop_grace = "5s"\nflush_timeout = "5s"\n{agent}\n{top}\n{jobs}\n'
        )

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        began = len(self.events("agent.started"))
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [AURA_AGENT, "run"], env=self.environment, cwd=self.home, stderr=log, stdin=subprocess.DEVNULL
            )
        daemon = self.daemon
        wait_until(
            lambda: len(self.events("agent.started")) > began or daemon.poll() is not None,
            what="a daemon that is ready",
        )
        assert daemon.poll() is None, self.log.read_text()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End the daemon and return its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(signum)
        status = self.daemon.wait(timeout=60)
        self.daemon = None
        return status

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def run(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run aura-run."""
        settings: dict[str, Any] = {"env": self.environment, "cwd": self.home, "capture_output": True, "timeout": 60}
        settings |= options
        return subprocess.run([AURA_RUN, *arguments], check=False, **settings)

    def agent(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run an aura-agent command."""
        settings: dict[str, Any] = {"env": self.environment, "cwd": self.home, "capture_output": True} | options
        return subprocess.run([AURA_AGENT, *arguments], check=False, timeout=120, text=True, **settings)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the daemon's log events called *name*."""
        if not self.log.exists():
            return []
        lines = self.log.read_bytes().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
        return [event for event in events if event["event"] == name]

    def queue(self, *flags: str) -> list[dict[str, Any]]:
        """Return what ``queue list --json`` says."""
        listed = self.agent("queue", "list", "--json", *flags)
        assert listed.returncode == 0, listed.stderr
        rows: list[dict[str, Any]] = json.loads(listed.stdout)
        return rows

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the store, read beside whoever uses it."""
        connection = sqlite3.connect(f"file:{self.state}/outbox.db?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def waiting(self) -> int:
        """Return how many pings wait, those in inbox and spool included."""
        if not (self.state / "outbox.db").exists():
            return len(list((self.state / "spool").glob("*.report")))
        ((count,),) = self.rows(
            "SELECT (SELECT count(*) FROM entries WHERE state = 'waiting') + (SELECT count(*) FROM inbox)"
        )
        return int(count) + len(list((self.state / "spool").glob("*.report")))

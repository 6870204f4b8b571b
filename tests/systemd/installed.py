"""aura-agent.service in the machine: its config, its drop-ins, and what can be asked of it."""

import json
from typing import Any

from tests.systemd.aura import TOKEN, Aura
from tests.systemd.machine import Machine
from tests.waiting import wait_until

UNIT = "aura-agent.service"
HEARTBEATS = ["nightly", "mail", "long", "reported", "guarded"]
CREDENTIAL = "/etc/credstore/aura-token"
_CONFIG = "/etc/aura-agent/config.toml"
_DROP_INS = f"/etc/systemd/system/{UNIT}.d"
_NEVER = 'schedule = "0 0 1 1 *"\n'  # these run when they are triggered

JOBS = f"""
[jobs.nightly]
command = ["/usr/bin/true"]
{_NEVER}
[jobs.mail]
user = "backup-user"
shell = "id -un > ~/who; cat /proc/self/status > ~/status; readlink /proc/self/ns/mnt > ~/namespace"
{_NEVER}
[jobs.long]
command = ["/usr/bin/sleep", "86399"]
{_NEVER}
[jobs.reported]
"""


class Installed:
    """The installed unit of one test."""

    def __init__(self, machine: Machine, aura: Aura) -> None:
        self.machine = machine
        self._aura = aura
        self.configure()
        machine.path("/etc/credstore").mkdir(mode=0o700, exist_ok=True)
        machine.write(CREDENTIAL, TOKEN + "\n", 0o600)
        # Two seconds of a restart's delay are two seconds of the test's.
        self.drop_in("quick", "[Service]\nRestartSec=100ms\n")

    def configure(self, jobs: str = JOBS, agent: str = "") -> None:
        """Write the config, for the embedded Aura."""
        api = f'[api]\nbase_url = "{self._aura.base_url}"\n'
        text = f'{api}[agent]\nreporters = ["backup-user"]\nstop_grace = "1s"\nflush_timeout = "1s"\n{agent}{jobs}'
        self.machine.write(_CONFIG, text, 0o600)

    def drop_in(self, name: str, text: str) -> None:
        self.machine.write(f"{_DROP_INS}/{name}.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", UNIT)

    def status(self) -> dict[str, Any]:
        """Return what the running daemon says of itself."""
        state: dict[str, Any] = json.loads(self.machine.run("aura-agent", "status", "--json"))
        return state

    def main_pid(self) -> int:
        return int(self.machine.show(UNIT, "MainPID"))

    def state(self) -> str:
        return self.machine.show(UNIT, "ActiveState")

    def trigger(self, job: str) -> None:
        self.machine.run("aura-agent", "trigger", job)

    def wait_for_outcome(self, job: str, outcome: str) -> None:
        wait_until(lambda: self._last(job) == outcome, what=f"{job} is {outcome}")

    def wait_restarted(self, old_pid: int) -> None:
        """Wait until systemd has the unit up again with another main process."""
        wait_until(lambda: self.main_pid() not in (0, old_pid) and self.state() == "active", 40.0, "restarted")

    def remove(self) -> None:
        """Stop it and leave nothing of it but the program and the unit file."""
        self.machine.run("systemctl", "stop", UNIT)
        self.machine.try_run("systemctl", "reset-failed", UNIT)
        self.machine.run(
            *("rm", "-rf", _DROP_INS, CREDENTIAL, "/var/lib/aura-agent", "/run/aura-agent", "/etc/aura-agent"),
            *("/home/backup-user/.local", "/home/stranger/.local"),
        )
        self.machine.run("systemctl", "daemon-reload")

    def _last(self, job: str) -> str | None:
        for row in self.status()["jobs"]:
            if row["name"] == job and row["last"] is not None:
                return str(row["last"]["outcome"])
        return None

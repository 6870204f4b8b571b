"""An embedded Aura inside the machine: its own unit, its own tokens, and what it has received."""

import json
from typing import Any

from tests.systemd.machine import Machine
from tests.waiting import wait_until

TOKEN = "aura_test_3f9c1d7be2504a68"
_SEED = "/run/aura-seed.toml"
_ANNOUNCED = "/run/aura-announced.json"
_CALL = """
import sys, urllib.request
method, url, token, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request(url, data=body.encode() or None, method=method, headers=headers)
print(urllib.request.urlopen(request, timeout=10).read().decode() or "null")
"""


class Aura:
    """Runs as ``aura.service`` until the machine goes. Knows TOKEN, and the heartbeats that it was started with."""

    def __init__(self, machine: Machine, heartbeats: list[str]) -> None:
        self._machine = machine
        seed = f'[[tokens]]\ntoken = "{TOKEN}"\n'
        seed += "".join(f'[[heartbeats]]\nname = "{name}"\nexpected_interval = "1d"\n' for name in heartbeats)
        machine.write(_SEED, seed)
        machine.run(
            *("systemd-run", "--quiet", "--unit=aura", f"--property=StandardOutput=file:{_ANNOUNCED}"),
            *("/opt/aura-agent/bin/aura-agent", "dev-server", "--json", "--no-rate-limit", "--seed", _SEED),
        )
        announced = machine.path(_ANNOUNCED)
        wait_until(lambda: announced.exists() and announced.read_text().endswith("\n"), what="the embedded Aura is up")
        self.base_url: str = json.loads(announced.read_text())["base_url"]

    def pings(self, heartbeat: str) -> int:
        """Return how many pings of *heartbeat* have counted."""
        answer = self._call("GET", f"/pings?heartbeat={heartbeat}")
        return sum(1 for ping in answer["data"] if ping["accepted"])

    def refuse_pings(self) -> None:
        """Answer pings with 503 until ``recover``."""
        self._call("POST", "/faults", {"kind": "status", "target": "ping", "status": 503})

    def forget(self) -> None:
        """As if nothing had come in yet; all well."""
        self.recover()
        self._call("DELETE", "/received")

    def recover(self) -> None:
        self._call("DELETE", "/faults")

    def _call(self, method: str, path: str, body: dict[str, object] | None = None) -> Any:
        scheme, _, rest = self.base_url.partition("://")
        url = f"{scheme}://{rest.partition('/')[0]}/_dev{path}"
        text = "" if body is None else json.dumps(body)
        return json.loads(self._machine.run("/opt/aura-agent/bin/python", "-c", _CALL, method, url, TOKEN, text))

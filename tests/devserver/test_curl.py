"""The examples of the reference, run by sh and curl as they stand there but for host and ids."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from tests.devserver.clocks import StillClock
from tests.machine import curl, needs

_HOST = "https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1"

_LIST_MONITORS = r"""
curl -s \
  -H "Authorization: Bearer $AURA_TOKEN" \
  https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1/monitors
"""
_CREATE_MONITOR = r"""
curl -s -X POST \
  -H "Authorization: Bearer $AURA_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "api.example.com",
    "url": "https://api.example.com/health",
    "check_interval": 60
  }' \
  https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1/monitors
"""
_RESOLVE_INCIDENT = r"""
curl -s -X POST \
  -H "Authorization: Bearer $AURA_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{ "resolution_notes": "Restart fixed it" }' \
  https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1/incidents/INCIDENT_ID/resolve
"""
_PING_URL = r"""
curl -s \
  -H "Authorization: Bearer $AURA_TOKEN" \
  https://vijdplkdpkvdtybzjtgq.supabase.co/functions/v1/api-v1/heartbeats/HEARTBEAT_ID/ping-url
"""

pytestmark = needs(curl)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def aura(clock: StillClock) -> Iterator[ThreadedDevServer]:
    # Nobody probes the host of the example.
    with ThreadedDevServer(clock=clock, probe_monitors=False) as server:
        yield server


def run(aura: ThreadedDevServer, example: str, **ids: str) -> Any:
    """Run *example* and return the JSON that it prints."""
    command = example.replace(_HOST, aura.base_url)
    for placeholder, value in ids.items():
        command = command.replace(placeholder, value)
    environment = {**os.environ, "AURA_TOKEN": aura.token, "no_proxy": "*"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_monitors_are_created_and_listed(aura: ThreadedDevServer) -> None:
    """The created one is what the list has."""
    created = run(aura, _CREATE_MONITOR)

    assert (created["name"], created["url"]) == ("api.example.com", "https://api.example.com/health")
    assert (created["check_interval"], created["status"]) == (60, "pending")
    assert run(aura, _LIST_MONITORS) == {"data": [created], "next_cursor": None}


def test_an_incident_is_resolved(aura: ThreadedDevServer, clock: StillClock) -> None:
    """With the example's notes."""
    httpx.post(aura.create_heartbeat("backup", 60, 0).ping_url, trust_env=False)
    clock.advance(61)
    [incident] = aura.incidents()

    resolved = run(aura, _RESOLVE_INCIDENT, INCIDENT_ID=incident.id)

    assert (resolved["id"], resolved["status"]) == (incident.id, "resolved")
    assert resolved["resolution_notes"] == "Restart fixed it"


def test_the_ping_url_that_it_gets_takes_pings(aura: ThreadedDevServer) -> None:
    """A POST to the `url` value counts."""
    heartbeat = aura.create_heartbeat("backup")

    url = run(aura, _PING_URL, HEARTBEAT_ID=heartbeat.id)["url"]

    assert httpx.post(url, trust_env=False).is_success
    assert aura.status("backup").status == "up"

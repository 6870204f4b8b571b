"""The embedded Aura in a thread."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from aura_agent.devserver.threaded import ThreadedDevServer
from aura_agent.errors import StoreError


def test_a_synchronous_caller_has_the_same_methods() -> None:
    """Create, ping, look, make trouble, from the test's own thread."""
    with ThreadedDevServer() as aura, httpx.Client(trust_env=False) as http:
        heartbeat = aura.create_heartbeat("backup", 60, 0)
        assert http.post(heartbeat.ping_url, content="hello").is_success
        assert [ping.body for ping in aura.pings("backup")] == ["hello"]
        assert aura.status("backup").status == "up"
        aura.set_fault("status", status=503, times=1)
        assert http.post(heartbeat.ping_url).status_code == 503
        aura.refuse()
        with pytest.raises(httpx.ConnectError):
            http.post(heartbeat.ping_url)
        aura.accept()
        assert http.post(heartbeat.ping_url).is_success
        assert [request.status for request in aura.requests()] == [200, 503, 200]
        assert aura.incidents() == []
        with pytest.raises(LookupError):
            aura.heartbeat("unknown")


def test_a_synchronous_caller_can_do_what_the_api_cannot() -> None:
    """Users, teams, plans, monitors: as on the server itself."""
    with ThreadedDevServer(probe_monitors=False) as aura, httpx.Client(trust_env=False) as http:
        token = aura.create_token("write", role="member", teams=["ops"])
        http.headers["Authorization"] = f"Bearer {token}"
        monitor = aura.create_monitor("web", "https://example.com/", team="ops")
        one = f"{aura.base_url}/monitors/{monitor.id}"
        assert http.patch(one, json={"name": "site"}).json()["team_id"] == aura.create_team("ops") == monitor.team_id
        aura.set_teams(token, [])
        assert http.patch(one, json={"name": "web"}).status_code == 403
        aura.set_plan(max_monitors=1)
        assert http.post(f"{aura.base_url}/monitors", json={"name": "x", "url": "http://x/"}).status_code == 409
        aura.revoke_token(token)
        assert http.get(one).status_code == 401
        assert (aura.monitor("site").status, aura.checks("site")) == ("pending", [])
        with pytest.raises(LookupError):
            aura.set_role(token, "viewer")


def test_many_threads_may_call_it() -> None:
    """Each call is done on the server's loop, one after the other."""
    with ThreadedDevServer() as aura, ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: aura.create_heartbeat(f"job-{number}"), range(200)))

        assert len({heartbeat.id for heartbeat in created}) == 200
        assert all(aura.heartbeat(heartbeat.id) == heartbeat for heartbeat in created)


def test_a_start_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    """The error comes to the caller, and stopping is still allowed."""
    aura = ThreadedDevServer(db=str(tmp_path))
    with pytest.raises(StoreError):
        aura.start()

    aura.stop()

    assert not aura._thread.is_alive()

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

"""What the host lacks while the daemon starts: it costs what depends on it alone, and is used once it is there."""

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.sites import Site
from tests.waiting import wait_until

TICK = '[jobs.tick]\nheartbeat = "beat"\nevery = "1s"\ncommand = ["true"]\n'


def _missing(token: Path) -> None:
    token.unlink()


def _empty(token: Path) -> None:
    token.write_text("")


def _directory(token: Path) -> None:
    token.unlink()
    token.mkdir()


def _succeeded(site: Site) -> bool:
    return bool(site.rows("SELECT 1 FROM runs WHERE outcome = 'succeeded'"))


@pytest.mark.parametrize("spoil", [_missing, _empty, _directory])
def test_without_its_token_the_daemon_runs_its_jobs(site: Site, spoil: Callable[[Path], None]) -> None:
    """Status says what is wrong with which file; once it holds the token the ping arrives, without a restart."""
    site.server.create_heartbeat("beat")
    site.configure(TICK)
    token = site.home / "token"
    text = token.read_text()
    spoil(token)

    site.start()
    wait_until(lambda: _succeeded(site), what="a run")
    status = site.agent("status")
    assert status.returncode == 0
    assert "no API token: api.token_file: " in status.stdout
    assert str(token) in status.stdout
    assert site.server.pings() == []

    if token.is_dir():
        token.rmdir()
    token.write_text(text)
    token.chmod(0o600)
    wait_until(lambda: site.server.pings("beat"), what="a ping")
    assert "no API token" not in site.agent("status").stdout


def test_a_daemon_whose_token_is_missing_sends_to_urls_that_it_knows(site: Site) -> None:
    """A cached ping URL needs no token."""
    site.server.create_heartbeat("beat")
    site.configure(TICK)
    site.start()
    wait_until(lambda: site.server.pings("beat"), what="a first ping")
    site.stop()
    site.server.clear_received()
    (site.home / "token").unlink()

    site.start()

    wait_until(lambda: site.server.pings("beat"), what="a ping")


def test_a_port_that_is_taken_costs_the_status_page_alone(site: Site) -> None:
    """Status names the address; the page is served once its port is free."""
    site.server.create_heartbeat("beat")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        site.configure(TICK, top=f'[status]\nlisten = "127.0.0.1:{port}"\n')
        site.start()
        wait_until(lambda: site.server.pings("beat"), what="a ping")
        said = site.agent("status").stdout
        assert f"the status page can't listen on 127.0.0.1:{port}: Address already in use" in said

    wait_until(lambda: site.events("status.listening"), what="the page")
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok"
    assert "can't listen" not in site.agent("status").stdout

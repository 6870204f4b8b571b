"""HTTP's environment is broken: the daemon, aura-run and the commands work on, and name what they leave out."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.api.raw_server import answer, serving
from tests.e2e.sites import Site
from tests.faults.certificates import Authority
from tests.waiting import until, wait_until

_TICK = '[jobs.tick]\nevery = "1s"\ncommand = ["true"]\n'
_BROKEN = {
    "HTTPS_PROXY": "http://user:hunter2@proxy:port",
    "all_proxy": "socks5://user:hunter2@proxy",
    "NO_PROXY": "fd00::/8,fd00::/200,ok.example",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "SSL_CERT_DIR": "/nonexistent/certs",
    "SSLKEYLOGFILE": "/nonexistent/keys",
}
_LEFT_OUT = {
    "HTTPS_PROXY": "http://[redacted]@proxy:port",
    "all_proxy": "socks5://[redacted]@proxy",
    "NO_PROXY": "fd00::/200",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "SSL_CERT_DIR": "/nonexistent/certs",
    "SSLKEYLOGFILE": "/nonexistent/keys",
}


def _names_each_once(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert "hunter2" not in text
    for variable, entry in _LEFT_OUT.items():
        assert len([line for line in lines if f"{variable}: {entry!r} is left out" in line]) == 1, (variable, text)


def test_daemon_works_on_in_an_environment_that_is_all_wrong(site: Site) -> None:
    """Its jobs run and ping, watches too; each entry that is left out is one warning, in log and status."""
    site.server.create_heartbeat("tick")
    site.configure(_TICK)
    site.extra |= _BROKEN
    site.start()
    wait_until(lambda: len(site.server.pings("tick")) >= 2)
    state = json.loads(site.agent("status", "--json").stdout)

    _names_each_once([event["reason"] for event in site.events("http.setting_ignored")])
    _names_each_once(state["warnings"])
    assert site.agent("reload").returncode == 0
    assert site.stop() == 0
    assert "hunter2" not in site.log.read_text()


@pytest.mark.parametrize("variable", _BROKEN)
def test_aura_run_delivers_whatever_one_variable_says(site: Site, variable: str) -> None:
    """Without a daemon, to loopback."""
    site.server.create_heartbeat("backup")
    site.extra |= {"AURA_STATE_DIR": str(site.state), variable: _BROKEN[variable]}

    done = site.run("-H", "backup", "--", "true")

    assert done.returncode == 0
    assert len(site.server.pings("backup")) == 1
    assert b"hunter2" not in done.stderr


def test_commands_name_what_they_leave_out_and_do_their_work(site: Site) -> None:
    """One that asks Aura, and one that asks the daemon, which no proxy may see."""
    site.server.create_heartbeat("backup")
    site.extra |= _BROKEN
    listed = site.agent("api", "heartbeats", "list", "--json")

    _names_each_once(listed.stderr.splitlines())
    assert [heartbeat["name"] for heartbeat in json.loads(listed.stdout)] == ["backup"]
    site.extra = {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    site.start()
    status = site.agent("status")
    assert (status.returncode, status.stderr) == (0, "")


@pytest.mark.anyio
async def test_certificate_that_is_trusted_later_is_trusted_without_a_restart(site: Site, tmp_path: Path) -> None:
    """The ping waits with the reason, and goes out once the CA's file is there: no state of HTTP is for good."""
    (tmp_path / "ca").mkdir()
    authority = Authority.create(tmp_path / "ca")
    bundle = tmp_path / "bundle.pem"
    async with serving(answer(200), tls=authority.server("localhost")) as server:
        url = tmp_path / "url"
        url.write_text(f"https://localhost:{server.port}/ping/key\n")
        site.extra |= {"SSL_CERT_FILE": str(bundle), "AURA_SOCKET": f"{site.home}/run/agent.sock"}
        await asyncio.to_thread(site.start)
        await asyncio.to_thread(site.run, "--ping-url", f"file:{url}", "--", "true")
        await until(lambda: site.events("ping.postponed"))
        assert "unknown issuer" in site.events("ping.postponed")[0]["reason"]
        bundle.write_text((authority.home / "ca.pem").read_text())
        await until(lambda: server.requests)
    await asyncio.to_thread(site.stop)

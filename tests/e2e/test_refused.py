"""Commands that Aura refuses with 429: each waits, says so on stderr once per wait, and does its work."""

import json

import pytest

from tests.e2e.sites import Site

_JOB = '[jobs.backup]\nevery = "1h"\ncommand = ["true"]\n'


@pytest.mark.parametrize(
    "command",
    [
        ("api", "heartbeats", "list", "--json"),
        ("api", "heartbeats", "create", "--name", "other", "--expected-interval", "1h", "--grace-period", "5m"),
        ("sync",),
        ("check", "--online"),
        ("ping", "backup"),
    ],
    ids=" ".join,
)
def test_command_waits_as_long_as_a_429_asks(site: Site, command: tuple[str, ...]) -> None:
    site.server.create_heartbeat("backup", 3600, 600)
    site.configure(_JOB)
    site.server.set_fault("status", target="api", status=429, retry_after=1, times=1)

    done = site.agent(*command)

    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("aura-agent: waiting 1")]) == 1


def test_ping_by_hand_waits_when_the_ping_url_refuses(site: Site) -> None:
    site.server.create_heartbeat("backup")
    site.server.set_fault("status", target="ping", status=429, retry_after=1, times=1)

    done = site.agent("ping", "backup")

    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("aura-agent: waiting 1s: HTTP 429")
    assert [ping.accepted for ping in site.server.pings("backup")] == [False, True]


@pytest.mark.parametrize(
    ("target", "command"),
    [("api", ("api", "heartbeats", "list")), ("api", ("ping", "backup")), ("ping", ("ping", "backup"))],
    ids=["api", "ping: its URL", "ping: the ping"],
)
def test_command_that_would_wait_too_long_says_when_to_try_again(
    site: Site, target: str, command: tuple[str, ...]
) -> None:
    site.server.create_heartbeat("backup")
    site.server.set_fault("status", target=target, status=429, retry_after=300)  # type: ignore[arg-type]

    done = site.agent(*command)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "try again in 5m" in line


def test_json_output_stays_json_while_a_command_waits(site: Site) -> None:
    """What is said of the wait goes to stderr alone."""
    site.server.create_heartbeat("backup")
    site.server.set_fault("status", target="api", status=429, retry_after=1, times=1)

    done = site.agent("api", "heartbeats", "list", "--json")

    assert [heartbeat["name"] for heartbeat in json.loads(done.stdout)] == ["backup"]

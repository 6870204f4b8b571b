"""What commands say where something isn't as expected: the case is named, and what to do."""

import json
import os
import signal
import socket
import subprocess

import pytest

from aura_agent.cli.daemon import ask_daemon
from tests.e2e.sites import AURA_AGENT, Site
from tests.machine import needs, root

_JOB = '[jobs.tick]\nevery = "1h"\ncommand = ["true"]\n'


def why(site: Site, *command: str) -> str:
    """Return what the command says of a daemon that doesn't answer: one line."""
    asked = site.agent(*(command or ("status",)))
    assert (asked.returncode, asked.stdout) == (1, "")
    (line,) = asked.stderr.splitlines()
    return line


def test_a_daemon_that_never_ran_is_not_running(site: Site) -> None:
    assert "is not running; start it with aura-agent run, or name its config with -c" in why(site)


def test_a_daemon_that_was_stopped_is_said_to_be_stopped(site: Site) -> None:
    """For each command that asks it; also where a command had loaded HTTP before."""
    site.configure(_JOB)
    site.start()
    assert site.agent("status").returncode == 0
    assert site.stop() == 0

    for command in (["status"], ["pause", "tick"], ["reload"]):
        assert "the daemon was stopped; start it with aura-agent run" in why(site, *command)


def test_a_daemon_that_was_killed_is_said_to_have_crashed(site: Site) -> None:
    site.start()
    site.kill()

    assert "the daemon crashed or was killed; see its log" in why(site)


def test_a_daemon_that_accepts_nothing_hangs(site: Site) -> None:
    """The socket's queue is full, and nobody empties it."""
    (site.home / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as first:
        stuck.bind(f"{site.home}/run/control.sock")
        stuck.listen(0)
        first.connect(f"{site.home}/run/control.sock")

        assert "the daemon hangs" in why(site)


def test_a_stopped_process_hangs(site: Site) -> None:
    """Its kernel accepts for it; no answer comes."""
    site.start()
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGSTOP)
    try:
        assert "hangs: no answer in 10 s" in why(site)
    finally:
        site.daemon.send_signal(signal.SIGCONT)


@pytest.mark.root
@needs(root)
def test_who_may_not_ask_is_told_so(site: Site) -> None:
    site.start()
    for directory in (site.home, *site.home.parents[:2]):
        os.chmod(directory, 0o755)

    assert "permission denied; only the daemon's user and root may ask it" in as_nobody(site)


def as_nobody(site: Site) -> str:
    """Return what another user is told; in a fork, since he may not be able to read this checkout."""
    import httpx  # noqa: F401

    import aura_agent.api.transport  # noqa: F401  # before the rights to read it are gone

    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.environ["AURA_SOCKET"] = f"{site.home}/run/agent.sock"
            os.environ.pop("AURA_CONFIG", None)
            ask_daemon(None, "GET", "/status")
        except BaseException as problem:  # noqa: BLE001
            os.write(start, str(problem).encode())
        finally:
            os._exit(0)
    os.close(start)
    os.waitpid(child, 0)
    with os.fdopen(end) as said:
        return said.read()


def test_next_says_that_a_job_is_paused(site: Site) -> None:
    """Read from the store: with the daemon, without it, and as JSON on stderr."""
    site.configure(_JOB)
    site.start()
    assert "paused" not in site.agent("next", "tick").stdout
    assert site.agent("pause", "tick").returncode == 0
    said = "tick is paused: these runs are skipped until `aura-agent resume tick`"
    assert said in site.agent("next", "tick").stdout
    site.stop()

    asked = site.agent("next", "tick", "--json")

    assert len(json.loads(asked.stdout)) == 5
    assert asked.stderr == f"{said}\n"


@pytest.mark.parametrize("group", [[], ["queue"], ["api"], ["api", "heartbeats"], ["api", "monitors"]], ids=" ".join)
def test_a_group_alone_prints_its_help(site: Site, group: list[str]) -> None:
    """On stdout, with status 0, as with --help."""
    alone = site.agent(*group)

    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == site.agent(*group, "--help").stdout


@pytest.mark.parametrize("key", ["socket", "state_dir"])
def test_a_daemon_without_rights_says_what_to_set(site: Site, key: str) -> None:
    """One line that names the key. Nobody may create anything in /sys, not even root."""
    lines = site.config.read_text().splitlines()
    lines = [f'{key} = "/sys/aura-agent-test/x"' if line.startswith(f"{key} =") else line for line in lines]
    site.config.write_text("\n".join(lines))
    with subprocess.Popen([AURA_AGENT, "run"], env=site.environment, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            line = next(line for line in daemon.stderr if "/sys/aura-agent-test" in line)
        finally:
            daemon.kill()

    assert f"set [agent] {key} to a " in line
    assert "or run as root" in line


def test_a_daemon_without_jobs_says_so_at_start_and_in_status(site: Site) -> None:
    """Until a reload brings some."""
    site.start()
    (event,) = site.events("config.without_jobs")
    assert event["reason"].startswith(f"the config {site.config} has no jobs; the daemon schedules nothing")
    assert f"note: {event['reason']}" in site.agent("status").stdout.splitlines()

    site.configure(_JOB)
    assert site.agent("reload").returncode == 0
    assert "note:" not in site.agent("status").stdout

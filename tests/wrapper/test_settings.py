"""What a job of the config demands is known before its run counts as a success, whoever was slow or absent."""

import os
import signal
import socket
import subprocess
import time

import pytest

from aura_agent.report import wire
from aura_agent.report.places import UNJUDGED_SUFFIX
from aura_agent.report.spool import waiting
from tests.e2e.sites import AURA_RUN, Site
from tests.e2e.storm import is_waiting
from tests.waiting import wait_until

_JOB = """
[jobs.backup]
heartbeat = "beat"
schedule = "@yearly"
command = ["sh", "-c", "{script}"]
success_codes = [0, 3]
expect.file = {{ path = "{home}/made" }}
"""
_MAKES = "read x; echo > made"
_MAKES_NOTHING = "read x; true"
_EXITS_3 = "read x; echo > made; exit 3"


@pytest.fixture(params=[(_MAKES, 0, 1), (_MAKES_NOTHING, 0, 0), (_EXITS_3, 3, 1)], ids=["met", "unmet", "code"])
def case(request: pytest.FixtureRequest, site: Site) -> tuple[str, int, int]:
    """A script, its exit status, and how many pings it deserves."""
    script, status, pings = request.param
    site.server.create_heartbeat("beat")
    site.configure(_JOB.format(script=script, home=site.home))
    return script, status, pings


def _environment(site: Site) -> dict[str, str]:
    """Return that of an aura-run which doesn't see the config: in a container, or as another user."""
    environment = site.environment | {
        "AURA_SOCKET": f"{site.home}/run/agent.sock",
        "AURA_STATE_DIR": f"{site.home}/own",
    }
    del environment["AURA_CONFIG"]
    return environment


def _start(site: Site, script: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [AURA_RUN, "--", "sh", "-c", script],
        env=environment,
        cwd=site.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _outcomes(site: Site) -> list[str]:
    wait_until(lambda: site.rows("SELECT 1 FROM runs"), what="a run on record")
    return [outcome for (outcome,) in site.rows("SELECT outcome FROM runs")]


def test_daemon_that_comes_up_during_the_job_is_asked_at_its_end(site: Site, case: tuple[str, int, int]) -> None:
    """There was neither socket nor config when the job began."""
    script, status, pings = case
    run = _start(site, script, _environment(site))
    wait_until(lambda: is_waiting(run.pid), what="an aura-run that waits")
    site.start()
    run.communicate(b"\n", timeout=60)

    assert run.returncode == status
    assert _outcomes(site) == ["succeeded" if pings else "failed"]
    wait_until(lambda: len(site.server.pings("beat")) == pings)


def test_daemon_that_was_slow_at_the_start_is_asked_at_the_end(site: Site, case: tuple[str, int, int]) -> None:
    """It didn't answer within a second."""
    script, status, pings = case
    site.start()
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGSTOP)
    run = _start(site, script, _environment(site))
    wait_until(lambda: is_waiting(run.pid), what="an aura-run that waits")
    site.daemon.send_signal(signal.SIGCONT)
    run.communicate(b"\n", timeout=60)

    assert run.returncode == status
    assert _outcomes(site) == ["succeeded" if pings else "failed"]
    wait_until(lambda: len(site.server.pings("beat")) == pings)


def test_success_under_a_broken_config_waits_for_a_daemon_to_judge_it(site: Site, case: tuple[str, int, int]) -> None:
    """Nothing is sent, and one line says why; the next aura-run that finds a daemon hands the report over."""
    script, status, pings = case
    good = site.config.read_text()
    site.config.write_text("[jobs")
    own = {"AURA_STATE_DIR": f"{site.home}/own", "AURA_TOKEN": site.server.token, "AURA_API_URL": site.server.base_url}
    run = _start(site, script, site.environment | own)
    _, err = run.communicate(b"\n", timeout=60)
    unjudged = waiting(f"{site.home}/own", UNJUDGED_SUFFIX)
    site.config.write_text(good)
    site.start()
    site.run("-H", "other", "--", "true", env=_environment(site))

    assert run.returncode == status
    assert site.server.pings("beat") == [] or unjudged
    assert len(unjudged) == (status == 0)
    assert (b"no ping before a daemon knows its settings" in err) == (status == 0)
    assert waiting(f"{site.home}/own", UNJUDGED_SUFFIX) == []
    if status == 0:
        wait_until(lambda: len(site.server.pings("beat")) == pings)


def test_job_that_cannot_be_read_counts_as_no_success(site: Site) -> None:
    """-j names it, -H a heartbeat, and the config is broken: what the job expects isn't known."""
    site.server.create_heartbeat("beat")
    site.config.write_text("[jobs")
    own = {"AURA_STATE_DIR": f"{site.home}/own", "AURA_TOKEN": site.server.token, "AURA_API_URL": site.server.base_url}

    ended = site.run("-j", "backup", "-H", "beat", "--", "true", env=site.environment | own)

    assert ended.returncode == 0
    assert site.server.pings("beat") == []


@pytest.mark.parametrize("made", [True, False])
def test_success_of_an_older_wrapper_is_judged_by_the_daemon(site: Site, made: bool) -> None:
    """It introduces a job's command, and its report doesn't say that the settings were known."""
    site.server.create_heartbeat("beat")
    site.configure(_JOB.format(script="true", home=site.home))
    site.start()
    boot_ns, run_id = str(time.clock_gettime_ns(7)), os.urandom(16).hex()
    if made:
        (site.home / "made").touch()
    start = {"run": run_id, "start_boot_ns": boot_ns, "start_ns": str(time.time_ns() - 10**9)}
    start |= {"job": "sh", "ref": "heartbeat:beat", "argv": "sh\0-c\0true"}
    end = {key: value for key, value in start.items() if key != "argv"}
    end |= {"end_boot_ns": boot_ns, "end_ns": str(time.time_ns()), "outcome": "succeeded", "code": "0"}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{site.home}/run/agent.sock")
        connection.sendall(wire.encode("start", start) + wire.encode("run", end))
        with connection.makefile("rb") as answers:
            said = [wire.decode(answers.readline())[0] for _ in range(2)]

    assert said == ["job", "ok"]
    assert _outcomes(site) == ["succeeded" if made else "failed"]


def test_job_that_only_the_daemon_can_read_is_judged_there(site: Site) -> None:
    """-j names it, and the config that the wrapper sees is broken: the daemon knows what the job expects."""
    site.server.create_heartbeat("beat")
    site.configure('[jobs.backup]\nheartbeat = "beat"\n')
    site.extra |= {"AURA_SOCKET": f"{site.home}/run/agent.sock", "AURA_STATE_DIR": str(site.state)}
    site.start()
    site.config.write_text("[jobs")

    ended = site.run("-j", "backup", "-H", "beat", "--", "true")

    assert ended.returncode == 0
    wait_until(lambda: len(site.server.pings("beat")) == 1, what="the ping")

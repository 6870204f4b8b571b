"""A config that somebody has broken on disk, while the daemon runs on with the former one."""

import json

import pytest

from tests.e2e.sites import Site
from tests.waiting import wait_until

JOBS = '[jobs.tick]\nheartbeat = "beat"\nevery = "1h"\ncommand = ["true"]\n'
BREAKAGES = {
    "a misspelt key": '[jobs.bad]\nevery = "1s"\ncomand = ["true"]\n',
    "a value that is missing": '[jobs.bad]\nevery =\ncommand = ["true"]\n',
    "quotes that don't end": '[jobs.bad]\nevery = "1s\ncommand = ["true"]\n',
    "a schedule that is none": '[jobs.bad]\nschedule = "61 * * * *"\ncommand = ["true"]\n',
    "a section of the API that is wrong": "[status]\nlisten = 3\n",
}


def break_config(site: Site, breakage: str) -> None:
    site.config.write_text(site.config.read_text() + BREAKAGES[breakage])


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_commands_that_look_work_and_warn(site: Site, breakage: str) -> None:
    """history, queue and next read what they need; one line on stderr names the first problem."""
    site.server.create_heartbeat("beat")
    site.configure(JOBS, agent="reload_on_change = false")
    site.start()
    assert site.run("-H", "beat", "--", "true").returncode == 0
    wait_until(lambda: site.rows("SELECT 1 FROM runs"), what="the run")
    break_config(site, breakage)

    for command in (["history", "tick"], ["queue", "list", "--all"], ["queue", "show", "1"], ["next", "tick"]):
        asked = site.agent(*command, "--json")
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)
        (line,) = asked.stderr.splitlines()
        assert line.startswith(f"aura-agent: warning: the config has errors: {site.config}:")

    status = site.agent("status")
    assert status.returncode == 0
    assert "tick" in status.stdout
    # A wrong expression takes the rules to be seen, which are too slow for status.
    assert len(status.stderr.splitlines()) == (breakage != "a schedule that is none")
    assert site.agent("pause", "tick").returncode == 0


@pytest.mark.parametrize("breakage", ["a misspelt key", "a value that is missing"])
def test_the_broken_job_itself_has_no_next_time(site: Site, breakage: str) -> None:
    """Whatever of it can be read: exit 1, with the place."""
    site.configure(JOBS)
    break_config(site, breakage)

    asked = site.agent("next", "bad")

    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"{site.config}:" in asked.stderr


@pytest.mark.parametrize("command", [["queue", "flush"], ["ping", "beat"], ["sync"], ["run"]], ids=" ".join)
def test_commands_that_act_on_the_config_still_refuse(site: Site, command: list[str]) -> None:
    site.configure(JOBS)
    break_config(site, "a value that is missing")

    assert site.agent(*command).returncode == (78 if command == ["run"] else 1)


def test_a_config_that_others_can_write_is_not_followed(site: Site) -> None:
    """The daemon refuses to start with it and to reload it; under aura-run the command runs, and a line says why."""
    site.server.create_heartbeat("beat")
    site.configure(JOBS)
    site.extra["AURA_STATE_DIR"] = str(site.state)  # which the config can't say now
    site.config.chmod(0o666)

    started = site.agent("run")
    ran = site.run("-H", "beat", "--", "true")

    assert started.returncode == 78
    assert started.stderr.startswith(f"aura-agent: {site.config}: everybody can write to it")
    assert ran.returncode == 0
    assert f"{site.config}: everybody can write to it".encode() in ran.stderr

    site.config.chmod(0o600)
    site.start()
    site.config.chmod(0o622)
    reloaded = site.agent("reload")
    assert reloaded.returncode == 1
    assert f"{site.config}: " in reloaded.stderr
    site.config.chmod(0o600)
    assert "tick" in site.agent("status").stdout


@pytest.mark.parametrize("line", ["state_dir = 3", 'state_dir = "/x', "stat_dir = '/x'"])
def test_where_the_store_is_not_known_nothing_is_opened(site: Site, line: str) -> None:
    """Another store's history would be worse than none."""
    site.config.write_text(f"[agent]\n{line}\n{JOBS}")

    asked = site.agent("history")

    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"{site.config}:2" in asked.stderr

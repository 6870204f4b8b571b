"""What every command of aura-agent has in common: help with an example, one line for an error, never a traceback."""

import json
import os
import termios
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.sites import Site

COMMANDS = (
    ["run"],
    ["check"],
    ["status"],
    ["next"],
    ["history"],
    ["trigger"],
    ["pause"],
    ["resume"],
    ["reload"],
    ["queue"],
    ["queue", "list"],
    ["queue", "show"],
    ["queue", "flush"],
    ["queue", "drop"],
    ["ping"],
    ["api"],
    ["sync"],
    ["discover"],
    ["dev-server"],
    ["demo"],
)
_EX_CONFIG = 78
_WITHOUT_OUTPUT = (["run"], ["queue"], ["api"])


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help_with_an_example(site: Site, command: list[str]) -> None:
    """Exit 0, and an example that begins as the command does; --json where something is printed."""
    asked = site.agent(*command, "--help")

    assert (asked.returncode, asked.stderr) == (0, "")
    example = asked.stdout.partition("Example")[2]
    assert " ".join(["aura-agent", *command]) in " ".join(example.split())
    if command and command not in _WITHOUT_OUTPUT:
        assert "--json" in asked.stdout


def test_help_lists_exactly_these_commands(site: Site) -> None:
    """A new command is added to the tables here, and with that to the tests of this file."""
    listed = site.agent("--help").stdout.partition("Commands:")[2]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and not line.startswith("   ")]

    assert set(names) == {command[0] for command in COMMANDS}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["statsu"], "did you mean 'status'?"),
        (["queue", "lst"], "lst"),
        (["--frobnicate"], "--frobnicate"),
        (["trigger"], "JOB"),
        (["queue", "show", "first"], "first"),
        (["queue", "show", "9" * 30], "range"),
        (["queue", "flush", "--heartbeat", ""], "--heartbeat is empty"),
        (["queue", "drop"], "--all"),
        (["queue", "drop", "1", "--all"], "--all"),
        (["ping"], "HEARTBEAT"),
        (["ping", ""], "HEARTBEAT is empty"),
        (["ping", "https://aura.example/ping/x"], "URL"),
        (["history", "-n", "none"], "none"),
        *[([*command, "--frobnicate"], "--frobnicate") for command in COMMANDS],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_status_2(site: Site, arguments: list[str], hint: str) -> None:
    """It names what is wrong and where help is; nothing is done."""
    asked = site.agent(*arguments)

    assert (asked.returncode, asked.stdout) == (2, "")
    assert len(asked.stderr.splitlines()) == 1, asked.stderr
    assert asked.stderr.startswith("aura-agent: ")
    assert hint in asked.stderr
    assert "--help" in asked.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["check"],
        ["next", "tick"],
        ["queue", "flush"],
        ["queue", "drop", "--all", "--yes"],
        ["ping", "beat"],
        ["api", "heartbeats", "list"],
        ["sync"],
        ["discover"],
    ],
    ids=" ".join,
)
def test_a_broken_config_is_lines_with_places(site: Site, arguments: list[str]) -> None:
    """File, line and key of everything that is wrong; status 1, and EX_CONFIG from the daemon."""
    site.config.write_text('[jobs.tick]\nevery = "1s"\ncomand = ["true"]\n')

    asked = site.agent(*arguments)

    assert asked.returncode == (_EX_CONFIG if arguments == ["run"] else 1)
    assert "Traceback" not in asked.stderr
    assert f"{site.config}:3" in asked.stderr + asked.stdout
    assert "comand" in asked.stderr + asked.stdout


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["trigger", "tick"], ["pause", "tick"], ["resume", "tick"], ["reload"]],
    ids=" ".join,
)
@pytest.mark.parametrize("broken", [False, True], ids=["", "broken config"])
def test_without_a_daemon_the_line_says_where_it_was_sought(site: Site, arguments: list[str], broken: bool) -> None:
    """The socket of this config, and what to do; also if the rest of the config is broken by now."""
    if broken:
        site.config.write_text(site.config.read_text() + '[jobs.tick]\ncomand = ["true"]\n')

    asked = site.agent(*arguments)

    assert (asked.returncode, asked.stdout) == (1, "")
    assert len(asked.stderr.splitlines()) == 1
    assert f"no daemon answers at {site.home}/run/control.sock" in asked.stderr


@pytest.mark.parametrize(
    "arguments", [["status"], ["next", "x"], ["history"], ["queue", "list"], ["check"], ["sync"], ["run"]]
)
def test_a_config_that_is_not_there_is_named(site: Site, arguments: list[str]) -> None:
    """A named file that doesn't exist is never taken for an empty config."""
    asked = site.agent(*arguments, "-c", f"{site.home}/nowhere.toml")

    assert asked.returncode == (_EX_CONFIG if arguments == ["run"] else 1)
    assert "Traceback" not in asked.stderr
    assert "nowhere.toml" in asked.stderr + asked.stdout


def test_next_without_any_config_says_so(site: Site) -> None:
    """Not that the job is misspelt."""
    site.extra["AURA_CONFIG"] = ""
    needs_none = site.agent("next", "backup")

    assert (needs_none.returncode, needs_none.stdout) == (1, "")
    assert needs_none.stderr.startswith("aura-agent: there is no config: write /etc/aura-agent/config.toml")


def test_next_prints_an_array_of_instants_and_reasons(site: Site) -> None:
    """RFC 3339 with an offset, strictly rising, each with its reason."""
    site.configure('[jobs.tick]\nschedule = "*/5 * * * *"\ntimezone = "Europe/Berlin"\ncommand = ["true"]\n')

    asked = site.agent("next", "tick", "-n", "4", "--json")

    rows = json.loads(asked.stdout)
    assert [sorted(row) for row in rows] == [["at", "reason"]] * 4
    instants = [datetime.fromisoformat(row["at"]) for row in rows]
    assert all(instant.tzinfo is not None for instant in instants)
    assert instants == sorted(set(instants))
    assert all(row["reason"] for row in rows)


def test_what_acts_on_the_daemon_answers_in_json_too(site: Site) -> None:
    """One object each, with what was done."""
    site.configure('[jobs.tick]\nschedule = "@yearly"\ncommand = ["true"]\n')
    site.start()
    said = {
        verb: json.loads(site.agent(verb, *names, "--json").stdout)
        for verb, *names in (["pause", "tick"], ["resume", "tick"], ["reload"], ["trigger", "tick"], ["status"])
    }

    assert said["pause"] == {"job": "tick", "paused": True}
    assert said["resume"] == {"job": "tick", "paused": False}
    assert said["reload"] == {"jobs": 1, "needs_restart": []}
    assert len(said["trigger"]["run"]) == 32
    assert [job["name"] for job in said["status"]["jobs"]] == ["tick"]


def test_a_reload_says_what_only_a_restart_changes(site: Site) -> None:
    """The pace stays as it is; whoever set another one is told so."""
    site.start()
    site.configure(agent="max_rate = 7")

    reloaded = site.agent("reload")

    assert reloaded.returncode == 0
    assert "only a restart changes agent.max_rate" in reloaded.stdout
    assert "agent.max_rate" in site.agent("status").stdout


@pytest.mark.parametrize("columns", ["40", "80"])
def test_status_of_many_jobs_shows_each_on_a_narrow_terminal(site: Site, columns: str) -> None:
    """Piped, each job is one line whatever the width is."""
    names = [f"a-job-with-a-rather-long-name-{number}" for number in range(60)]
    site.configure("".join(f'[jobs.{name}]\nschedule = "@yearly"\ncommand = ["true"]\n' for name in names))
    site.extra["COLUMNS"] = columns
    site.start()

    lines = site.agent("status").stdout.splitlines()

    assert [line.split()[0] for line in lines if line.lstrip().startswith("a-job")] == names


def test_on_a_narrow_terminal_nothing_is_cut_off(site: Site) -> None:
    """Fifty columns: a few lines per job instead of a table of shreds."""
    site.configure('[jobs.tick]\nheartbeat = "nightly-backup-of-it-all"\nschedule = "@yearly"\ncommand = ["true"]\n')
    site.start()
    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, (24, 50))

    site.agent("status", capture_output=False, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # EIO: how a terminal says end of file
    os.close(ours)

    assert b"heartbeat: nightly-backup-of-it-all" in shown
    assert "…".encode() not in shown


def _fails(site: Site) -> str:
    """Start a daemon that can't, and return the line that it leaves."""
    ended = site.agent("run")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_run_names_a_state_directory_that_is_none(site: Site) -> None:
    """A file where the directory should be is named."""
    site.state.write_text("")

    assert str(site.state) in _fails(site)


def test_run_names_a_socket_path_that_is_too_long(site: Site) -> None:
    """unix(7) allows 107 characters."""
    site.extra["AURA_SOCKET"] = f"{site.home}/{'d' * 120}/agent.sock"

    line = _fails(site)

    assert "can't listen on" in line
    assert "too long" in line


def test_the_sockets_let_in_whom_they_should(site: Site) -> None:
    """Anybody may try to report; only the daemon's user and root may control it."""
    site.start()

    modes = {name: Path(site.home / "run" / name).stat().st_mode & 0o777 for name in ("agent.sock", "control.sock")}
    assert modes == {"agent.sock": 0o666, "control.sock": 0o600}
    assert (site.home / "run").stat().st_mode & 0o777 == 0o755

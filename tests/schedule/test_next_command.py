"""``aura-agent next`` as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
[jobs.nightly]
heartbeat = "nightly"
schedule = ["30 2 * * *", "@reboot"]
timezone = "Europe/Berlin"
command = ["true"]

[jobs.quarterly]
heartbeat = "quarterly"
every = "15m"
timezone = "UTC"
command = ["true"]

[jobs.rare]
every = "3650d"
enabled = false
command = ["true"]

[jobs.boot]
heartbeat = "boot"
schedule = "@reboot"
timezone = "UTC"
command = ["true"]
"""


def aura(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the command as installed, with a config and nothing else of the environment."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", "from aura_agent.cli.main import main; main()", "next", *arguments, "-c", str(config)],
        env={"PATH": os.environ["PATH"], "PYTHONTZPATH": "", "HOME": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_json_gives_instants_and_reasons_through_the_spring_night(tmp_path: Path) -> None:
    """The night of the jump is told as such; each instant is RFC 3339 with its offset."""
    done = aura(tmp_path, "nightly", "-n", "2", "--at", "2027-03-27T12:00", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {
            "at": "2027-03-28T03:00:00+02:00",
            "reason": "right after the jump, because 02:30 doesn't exist that day (clocks go from 02:00 to 03:00)",
        },
        {"at": "2027-03-29T02:30:00+02:00", "reason": 'matches "30 2 * * *"'},
    ]


def test_the_table_gives_local_times(tmp_path: Path) -> None:
    """People read the wall clock of the job's zone, how long it is until then, and why."""
    done = aura(tmp_path, "nightly", "-n", "1", "--at", "2026-10-25T01:30:00+02:00")

    assert done.returncode == 0, done.stderr
    assert "Europe/Berlin time" in done.stdout
    assert "Sun 2026-10-25 02:30:00 CEST" in done.stdout
    assert "1h" in done.stdout
    assert "first of two passes of 02:30 (clocks go back): a fixed time runs once" in done.stdout
    assert "nightly also runs once at each boot of the host" in done.stdout


def test_an_interval_is_on_its_grid(tmp_path: Path) -> None:
    """Every 15 minutes from the epoch, five of them by default."""
    done = aura(tmp_path, "quarterly", "--at", "2026-05-01T12:07Z", "--json")

    assert [row["at"][11:16] for row in json.loads(done.stdout)] == ["12:15", "12:30", "12:45", "13:00", "13:15"]


def test_a_job_of_the_boot_has_no_instants(tmp_path: Path) -> None:
    """An empty array for programs, a sentence for people."""
    assert json.loads(aura(tmp_path, "boot", "--json").stdout) == []
    assert "no fire time but the boot" in aura(tmp_path, "boot").stdout


def test_a_job_that_is_switched_off_says_so(tmp_path: Path) -> None:
    """Its times are shown all the same, and programs still get an array."""
    assert "rare has enabled = false" in aura(tmp_path, "rare").stdout
    assert len(json.loads(aura(tmp_path, "rare", "--json").stdout)) == 5


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nightyl"], 1, 'no job "nightyl" in the config; did you mean "nightly"?'),
        (["nightly", "--at", "noon"], 2, '--at "noon" is not a time; write one such as 2027-03-28T02:30:00+01:00'),
        (["nightly", "--at", "9999-12-31"], 2, '--at "9999-12-31" is too far away; write a year from 1900 to 9000'),
        (["nightly", "--at", "0001-01-02"], 2, '--at "0001-01-02" is too far away; write a year from 1900 to 9000'),
        (["rare", "-n", "1000"], 1, "every: no fire time before the calendar ends"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    """No traceback, nothing on stdout, and the nearest name."""
    done = aura(tmp_path, *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"aura-agent: {message}\n"

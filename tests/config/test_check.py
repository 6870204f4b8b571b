"""``aura-agent check`` as a person or a pipeline calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema

from tests.config.test_example import EXAMPLE


def aura_agent(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return subprocess.run(
        [sys.executable, "-c", "from aura_agent.cli.main import main; main()", *arguments],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_right_config_is_ok(tmp_path: Path) -> None:
    """One line on stdout, nothing else."""
    config = tmp_path / "config.toml"
    config.write_text('[jobs.a]\nevery = "1h"\ncommand = ["x"]\n')

    done = aura_agent("check", "-c", str(config), AURA_TOKEN="t")

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok: 1 job\n", "")


def test_warnings_leave_it_ok() -> None:
    """They go to stderr, where they don't get in a script's way."""
    done = aura_agent("check", AURA_CONFIG=str(EXAMPLE), AURA_TOKEN_FILE="/no/such/token")

    assert (done.returncode, done.stdout) == (0, "ok: 4 jobs\n")
    assert done.stderr == "warning: AURA_TOKEN_FILE: can't read /no/such/token: No such file or directory\n"


def test_a_wrong_config_tells_all_and_exits_1(tmp_path: Path) -> None:
    """Each problem is a line on stderr; no traceback, and nothing on stdout."""
    config = tmp_path / "config.toml"
    config.write_text("[jobs.a]\nevery = 60\nshel = 'x'\n")

    done = aura_agent("check", "-c", str(config))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f'aura-agent: {config}:2: jobs.a.every: 60 has no unit; write "60s", "60m" or "60h"',
        f'aura-agent: {config}:3: jobs.a.shel: unknown key; did you mean "shell"?',
    ]


def test_the_same_as_json(tmp_path: Path) -> None:
    """For pipelines: one object, whatever happens."""
    config = tmp_path / "config.toml"
    config.write_text("[jobs.a]\nevery = 60\nshell = 'x'\n")

    wrong, missing = aura_agent("check", "--json", "-c", str(config)), aura_agent("check", "--json", "-c", "/no/such")

    assert (wrong.returncode, missing.returncode) == (1, 1)
    assert json.loads(wrong.stdout) == {
        "ok": False,
        "files": [str(config)],
        "jobs": None,
        "problems": [
            {
                "file": str(config),
                "line": 2,
                "key": "jobs.a.every",
                "message": '60 has no unit; write "60s", "60m" or "60h"',
            }
        ],
        "warnings": [],
    }
    assert json.loads(missing.stdout)["problems"][0]["message"] == "no such file; correct -c"
    config.write_text("")
    right = aura_agent("check", "--json", "-c", str(config), AURA_TOKEN="t")
    assert json.loads(right.stdout) == {"ok": True, "files": [str(config)], "jobs": 0, "problems": [], "warnings": []}


def test_the_schema_is_printed() -> None:
    """It needs no config, and is a valid schema."""
    done = aura_agent("check", "--schema", AURA_CONFIG="/no/such")

    assert done.returncode == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(done.stdout))


def test_the_help_has_an_example() -> None:
    """And tells what the exit status means."""
    done = aura_agent("check", "--help")

    assert done.returncode == 0
    assert "aura-agent check -c ./config.toml --json" in done.stdout
    assert "exit 0 if it is right, 1 with everything that is wrong" in done.stdout


def test_reading_without_rules_does_not_load_the_scheduler(tmp_path: Path) -> None:
    """aura-run reads the config beside a running job, and has no use for cron expressions."""
    config = tmp_path / "config.toml"
    config.write_text("[jobs.a]\nschedule = 'not cron'\nshell = 'x'\n")
    program = (
        "import sys; from aura_agent.config.load import load_config; from aura_agent.config import settings, lend;"
        f"print(load_config({str(config)!r}, check_rules=False).jobs['a'].schedule);"
        "print([name for name in ('croniter', 'aura_agent.schedule', 'httpx', 'click') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout.splitlines(), done.stderr) == (["not cron", "[]"], "")

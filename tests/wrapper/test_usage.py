"""aura-run's command line: what it takes, what it refuses, and where people are told."""

import re
import subprocess
from pathlib import Path

import pytest

from aura_agent.wrapper import options
from tests.wrapper.runs import Host

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], b"no command"),
        (["--"], b"no command"),
        (["--bogus", "--", "touch", "ran"], b"--bogus"),
        (["--timeout", "ten", "--", "touch", "ran"], b"--timeout"),
        (["--retries", "-1", "--", "touch", "ran"], b"--retries"),
        (["--success-codes", "0,300", "--", "touch", "ran"], b"--success-codes"),
        (["--success-codes", "9" * 5000, "--", "touch", "ran"], b"--success-codes"),
        (["--timeout", "0s", "--", "touch", "ran"], b"--timeout"),
        (["--timeout", "9" * 400 + "d", "--", "touch", "ran"], b"--timeout"),
        (["--retries", "9" * 5000, "--", "touch", "ran"], b"--retries"),
        (["--tail-bytes", "9" * 400 + "TB", "--", "touch", "ran"], b"--tail-bytes"),
        (["--attach", "all", "--", "touch", "ran"], b"--attach"),
        (["--ping-url", "https://aura.example/ping/x", "--", "touch", "ran"], b"file:"),
        (["-H", "https://aura.example/ping/x", "--", "touch", "ran"], b"takes an id or a name"),
        (["-H", "a", "--ping-url", "file:x", "--", "touch", "ran"], b"not both"),
        (["-H"], b"needs a value"),
        (["--no-wait=1", "--", "touch", "ran"], b"--no-wait takes no value"),
    ],
)
def test_wrong_usage_runs_nothing(host: Host, arguments: list[str], word: bytes) -> None:
    """125, one line that says what, and the command was not started."""
    ended = host.run(*arguments)

    assert ended.returncode == 125
    assert word in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (host.home / "ran").exists()


def test_url_as_the_variable_for_a_name_is_shown_nowhere(host: Host) -> None:
    """It is a secret, and no name: the job runs, and one line says where a URL belongs."""
    host.extra["AURA_HEARTBEAT"] = "https://aura.example/ping/5ecret"

    ended = host.run("--no-wait", "--", "touch", "ran")

    assert (ended.returncode, (host.home / "ran").exists()) == (0, True)
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("aura-run: AURA_HEARTBEAT: a URL: put it into AURA_PING_URL")
    assert host.reports() == []
    assert not any(b"5ecret" in path.read_bytes() for path in host.home.rglob("*") if path.is_file())


def test_options_may_be_written_in_each_usual_way(host: Host) -> None:
    """-H x, -Hx, --heartbeat x and --heartbeat=x are the same."""
    for words in (["-H", "x"], ["-Hx"], ["--heartbeat", "x"], ["--heartbeat=x"]):
        assert host.run("--no-wait", *words, "--", "true").returncode == 0

    assert [report["ref"] for report in host.reports()] == ["heartbeat:x"] * 4


def test_help_fits_on_one_screen(host: Host) -> None:
    """A terminal of 24 lines and 80 columns, prompt included: on stdout, with an example."""
    ended = host.run("--help")

    lines = ended.stdout.decode().splitlines()
    assert ended.returncode == 0
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert "aura-run -H" in ended.stdout.decode()


def _options() -> list[str]:
    """Return every option in its long form."""
    return sorted({*filter(re.compile("--").match, {**options.WITH_VALUE, **options.FLAGS}), "--help", "--version"})


@pytest.mark.parametrize("option", _options())
def test_every_option_is_told_wherever_one_would_look(host: Host, option: str) -> None:
    """In --help, in the man page, and in the completion of each shell."""
    manual = (_ROOT / "docs/man/aura-run.1").read_text().replace("\\-", "-")
    shells = [(_ROOT / "completion" / name).read_text() for name in ("aura-run.bash", "_aura-run")]
    fish = (_ROOT / "completion/aura-run.fish").read_text().replace("-l ", "--")

    for text in (host.run("--help").stdout.decode(), manual, fish, *shells):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), text[:60]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("aura-run --qu", {"--quiet"}),
        ("aura-run -q --attach s", {"summary"}),
        ("aura-run -q --attach = s", {"summary"}),  # as bash splits --attach=s
        ("aura-run -c plai", {"plain.toml"}),
        ("aura-run -H x -- ./back", {"./backup.sh"}),
        ("aura-run -H x ./back", {"./backup.sh"}),
        ("aura-run -q -- ./backup.sh pla", {"plain.toml"}),
        ("aura-run -H --qu", set()),
    ],
)
def test_bash_completes_options_and_the_command(host: Host, line: str, completed: set[str]) -> None:
    """What may come next on the line, and nothing else."""
    (host.home / "plain.toml").touch()
    (host.home / "backup.sh").touch(mode=0o755)
    script = (
        f"source {_ROOT}/completion/aura-run.bash; read -ra COMP_WORDS; COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
        ' _aura_run; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    said = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=host.home, input=line, capture_output=True, text=True, check=True
    )

    assert {word for word in said.stdout.split("\n") if word} == completed
    assert said.stderr == ""

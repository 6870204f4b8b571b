"""Crontab examples in help texts and docs: cron finds every program that they name, whatever its PATH."""

import re
from pathlib import Path

import pytest

from aura_agent.wrapper.options import USAGE

ROOT = Path(__file__).parents[1]
SHOWN = (
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "config.example.toml")),
    *sorted(
        path
        for directory in ("aura_agent", "bin", "completion", "deploy", "docs", "systemd")
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".svg")
    ),
)
# Time fields, perhaps a user's name, then a command: in a line of its own, of a diff, or within a sentence.
_FIELD = r"(?:\*|\d[\d,-]*)(?:/\d+)?"
_TIMES = rf"(?:^|[\s`+-]){_FIELD}(?:[ \t]+{_FIELD}){{4}}|(?:^[\s+-]*|`)@(?:daily|hourly|weekly|monthly)"
_EXAMPLE = re.compile(rf"(?:{_TIMES})[ \t]+(.+)")
_AURA_RUN = re.compile(r"(?:^|(?<=[\s'\"`]))\S*aura-run(?=\s)")
_USER = re.compile(r"(?:root|[a-z][\w-]*)[ \t]+(?=/)")


def examples(text: str) -> list[str]:
    """Return the commands of the crontab lines in *text*; a roff page's escapes are taken off."""
    lines = text.replace("\\-", "-").split("\n")
    found = (match[1] for line in lines if (match := _EXAMPLE.search(line)) is not None)
    return [command for command in found if re.match(r"[/\w.-]+(?:[ \t]|$)", command)]


def not_absolute(text: str) -> list[str]:
    """Return the examples whose program, or whose aura-run, cron would have to look for."""
    return [
        command
        for command in examples(text)
        if not _USER.sub("", command, count=1).startswith("/")
        or not all(word.startswith("/") for word in _AURA_RUN.findall(command))
    ]


def test_crontab_examples_name_programs_by_absolute_path() -> None:
    """Debian's cron has PATH=/usr/bin:/bin."""
    wrong = {str(path.relative_to(ROOT)): not_absolute(path.read_text(errors="replace")) for path in SHOWN}

    assert {path: commands for path, commands in wrong.items() if commands} == {}


def test_the_known_crontab_examples_are_seen() -> None:
    """Else the test above would hold nothing to anything."""
    assert examples(USAGE) == ["/usr/local/bin/aura-run -H backup -- /srv/backup.sh --full"]
    assert len(examples((ROOT / "README.md").read_text())) == 1
    assert len(examples((ROOT / "docs/discover.md").read_text())) == 4
    assert len(examples((ROOT / "docs/man/aura-run.1").read_text())) == 1


@pytest.mark.parametrize(
    "line",
    [
        "  0 3 * * *  aura-run -H nightly-backup -- /usr/local/bin/backup.sh --full",
        "+5 4 * * *  root  aura-run -H x -- /x",
        "write `*/5 * * * * aura-run -- /x` there",
        "@daily  backup.sh",
        "0 3 * * *  /bin/sh -c 'aura-run -- /x'",
        "0 3 * * *  root  dump > /srv/dump.sql",
    ],
)
def test_an_example_that_cron_cannot_find_is_noticed(line: str) -> None:
    """In each of the forms in which examples are written."""
    assert len(not_absolute(f"text\n{line}\n")) == 1

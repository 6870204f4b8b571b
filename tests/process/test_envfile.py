"""Files of environment variables: what they may hold, and what is refused without showing a value."""

import os
from pathlib import Path

import pytest

from aura_agent.process.envfile import parse_env_file, read_env_file


def test_lines_are_read_as_systemd_and_docker_both_read_them() -> None:
    """Comments, blanks, quotes, an equals sign in the value, the last of two, lines from Windows; no expansion."""
    text = "# a comment\n; another\n\nA=1\n B = two words \nC='# kept '\nD=\"x=y\"\nE=\r\nF=$A `id` \\n\nA=2\nG='\"'\n"

    assert parse_env_file(text) == {
        "A": "2",
        "B": "two words",
        "C": "# kept ",
        "D": "x=y",
        "E": "",
        "F": "$A `id` \\n",
        "G": '"',
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [("A=1\nexport B=hunter2\n", "2"), ("hunter2", "1"), ("A='hunter2", "1"), ("=hunter2", "1"), ("A=hunter2\0", "1")],
)
def test_what_cannot_be_read_is_named_by_its_line_alone(tmp_path: Path, text: str, where: str) -> None:
    """A guess could run the job with the wrong settings; a message with the value could show a password."""
    path = tmp_path / "env"
    path.write_text(text)

    with pytest.raises(ValueError, match=rf"env_file {path}:{where}: ") as caught:
        read_env_file(str(path))

    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, a FIFO that nobody writes to, larger than any environment: one line each, and no waiting."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, why in (("none", "No such file"), (".", "directory"), ("fifo", "not a regular"), ("large", "larger")):
        with pytest.raises(ValueError, match=why):
            read_env_file(str(tmp_path / name))


def test_bytes_that_are_no_text_reach_the_job_as_they_are(tmp_path: Path) -> None:
    """An environment is bytes."""
    (tmp_path / "env").write_bytes(b"A=\xff\n")

    assert os.fsencode(read_env_file(str(tmp_path / "env"))["A"]) == b"\xff"

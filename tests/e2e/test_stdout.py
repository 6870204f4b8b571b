"""Whatever stdout is, a command prints what it can, and an error is one line."""

import json
import subprocess

import pytest

from tests.e2e.sites import Site

_NAME = "nächtlich \N{SNOWMAN} \N{PILE OF POO}"


@pytest.fixture
def noted(site: Site) -> Site:
    """A site with a run of a heartbeat that ASCII can't name."""
    site.configure()
    assert site.run("-H", _NAME, "--no-wait", "--", "true").returncode == 0
    return site


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", [["history"], ["queue", "list"]], ids=" ".join)
def test_names_beyond_stdouts_encoding_are_printed(noted: Site, encoding: str, command: list[str]) -> None:
    """A locale such as de_DE.ISO-8859-1 lacks most characters, and those of the tables' lines."""
    noted.extra["PYTHONIOENCODING"] = encoding

    shown, as_json = (noted.agent(*command, *flags, encoding=encoding) for flags in ([], ["--json"]))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert _NAME.encode(encoding, "backslashreplace").decode(encoding) in shown.stdout
    assert [row["heartbeat"] for row in json.loads(as_json.stdout)] == [_NAME]


@pytest.mark.parametrize("command", [["--help"], ["history"], ["history", "--json"], ["check"]], ids=" ".join)
def test_stdout_on_a_full_disk_is_one_line(noted: Site, command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        run = noted.agent(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)

    assert (run.returncode, run.stderr) == (1, "aura-agent: standard output: No space left on device\n")

"""Name servers that are slow, silent or broken, and IPv6 that leads nowhere: in namespaces of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import mounts, needs, net_namespaces

pytestmark = [pytest.mark.root, needs(net_namespaces, mounts)]


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("slow", {"200 None"}),
        ("silent", {"None dns", "None connect_timeout"}),
        ("broken", {"None dns"}),
        ("ipv6 black hole", {"200 None"}),
    ],
)
def test_a_ping_where_names_are_in_trouble(tmp_path: Path, scenario: str, told: set[str]) -> None:
    """A late answer is waited for, none is an error to try again, and an address that is a black hole is passed by."""
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.faults.namespace", scenario, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in told

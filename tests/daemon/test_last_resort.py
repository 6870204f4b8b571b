"""A process that can't come to its end is ended: with a line that says why, and an error."""

import subprocess
import sys

import pytest

_HANGS = """
import sys, threading
from aura_agent.daemon.last_resort import LastResort
last_resort = LastResort()
last_resort.end_within({first})
{then}
threading.Thread(target=threading.Event().wait).start()  # the interpreter waits for it at its exit
{main}
"""


@pytest.mark.parametrize("main", ["", "threading.Event().wait()"], ids=["at exit", "before"])
@pytest.mark.parametrize(
    ("first", "then"), [("0.2", ""), ("3600", "last_resort.end_within(0.2)")], ids=["told once", "told twice"]
)
def test_a_stop_that_hangs_ends_with_a_line_and_an_error(first: str, then: str, main: str) -> None:
    """Whether the main thread or the interpreter's own end waits for what hangs; a second limit replaces the first."""
    program = _HANGS.format(first=first, then=then, main=main)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith(b"aura-agent: not stopped within ")
    assert len(ended.stderr.splitlines()) == 1

"""System calls by their numbers."""

import subprocess
import sys

_CODE = """
import ctypes
from aura_agent.process.kernel import forbid_dumps
dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
before = dumpable()
forbid_dumps()
print(before, dumpable(), flush=True)
import subprocess, sys
subprocess.run([sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"], check=True)
"""


def test_our_memory_is_kept_out_of_core_files_and_a_jobs_is_not() -> None:
    """The kernel says so of us, and otherwise of a program that we execute."""
    ended = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)

    assert ended.stdout == "1 0\n1\n"

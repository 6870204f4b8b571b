"""The memory of a job's processes together."""

from aura_agent.process.memory import resident
from tests.process.children import ended_afterwards, python, read_numbers

_TWO = """
import os, sys, time
held = bytearray(30_000_000)
child = os.fork()
if child == 0:
    held[::4096] = b"x" * len(held[::4096])
    print(os.getpid(), flush=True)
    time.sleep(1000)
os.waitpid(child, 0)
"""


def test_all_processes_of_a_session_count_and_no_others() -> None:
    """A job is as large as its processes together."""
    one, other = python(_TWO), python("import time; print(1, flush=True); time.sleep(1000)")
    with ended_afterwards(other), ended_afterwards(one, pids := read_numbers(one, 1)):
        read_numbers(other, 1)
        found = resident({one.pid, pids[0]})

    assert set(found) == {one.pid}
    assert 60_000_000 < found[one.pid] < 200_000_000

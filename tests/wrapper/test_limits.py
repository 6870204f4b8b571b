"""``ulimit``: the job's limits are ours, too. Whatever they keep us from, its status is as it would be without us."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine import needs, root
from tests.wrapper.runs import AURA_RUN, QUEUE, Host

_MB = 1_000_000
_OPTIONS = {
    "plain": QUEUE,
    "quiet": (*QUEUE, "--quiet"),
    "attach": (*QUEUE, "--attach", "output"),
    "retries": (*QUEUE, "--retries", "1", "--retry-delay", "0s"),
    "no-overlap": (*QUEUE, "--no-overlap"),
    "delivery": ("-H", "beat", "--wait", "5s"),
}


def _limited(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.fixture(scope="module")
def least_memory() -> int:
    """How much address space Python takes to begin here at all."""
    for megabytes in range(6, 200):
        begin = [sys.executable, "-c", "import os"]
        limit = _limited(resource.RLIMIT_AS, megabytes * _MB)
        if subprocess.run(begin, capture_output=True, preexec_fn=limit, check=False).returncode == 0:
            return megabytes * _MB
    raise AssertionError("Python doesn't begin within 200 MB")


def _run(host: Host, options: str, limit: Callable[[], None]) -> "subprocess.CompletedProcess[bytes]":
    host.extra = {"AURA_API_URL": "http://127.0.0.1:9", "AURA_TOKEN": "x"}
    return host.run(*_OPTIONS[options], "--", "sh", "-c", "echo out; exit 3", preexec_fn=limit)


@pytest.mark.parametrize("options", _OPTIONS)
def test_scarce_memory_changes_no_status(host: Host, least_memory: int, options: str) -> None:
    """Of address space, from hardly enough for Python to enough for most of what we do."""
    for megabytes in (1, 2, 3, 5, 8, 14):
        ended = _run(host, options, _limited(resource.RLIMIT_AS, least_memory + megabytes * _MB))

        assert ended.returncode == 3, (megabytes, ended.stderr)
        assert set(ended.stdout.splitlines()) == {b"out"}, (megabytes, ended.stderr)
        assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("megabytes", [16, 24])
def test_scarce_data_memory_changes_no_status(host: Host, options: str, megabytes: int) -> None:
    """The same by RLIMIT_DATA. Below some 10 MB Python 3.11 itself may loop for ever over a MemoryError, in its C code."""
    ended = _run(host, options, _limited(resource.RLIMIT_DATA, megabytes * _MB))

    assert (ended.returncode, set(ended.stdout.splitlines())) == (3, {b"out"}), ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("count", [5, 6, 7, 8])
def test_scarce_descriptors_change_no_status(host: Host, options: str, count: int) -> None:
    """Python itself takes five to begin. The report is stored all the same."""
    ended = _run(host, options, _limited(resource.RLIMIT_NOFILE, count))

    assert (ended.returncode, set(ended.stdout.splitlines())) == (3, {b"out"}), ended.stderr
    assert b"Traceback" not in ended.stderr
    if options != "delivery":
        assert host.report()["outcome"] == "failed"


@pytest.mark.parametrize("options", _OPTIONS)
def test_files_of_no_size_change_no_status(host: Host, options: str) -> None:
    """Each write of ours to a file fails; SIGXFSZ doesn't end us."""
    ended = _run(host, options, _limited(resource.RLIMIT_FSIZE, 0))

    assert (ended.returncode, set(ended.stdout.splitlines())) == (3, {b"out"}), ended.stderr
    assert b"Traceback" not in ended.stderr


def test_small_stack_changes_no_status(host: Host) -> None:
    """Threads get the stack that the limit says."""
    for options in _OPTIONS:
        assert _run(host, options, _limited(resource.RLIMIT_STACK, 256 * 1024)).returncode == 3


@pytest.mark.root
@needs(root)
@pytest.mark.parametrize("options", ["plain", "quiet", "retries"])
def test_job_runs_where_no_process_can_be_started_for_it(host: Host, tmp_path: Path, options: str) -> None:
    """The bare command needs no process beside its caller's: aura-run becomes the job, and one line says so."""
    keep = "+dac_read_search"  # where Python is may be out of an ordinary user's sight
    user = ["setpriv", "--reuid=4321", "--clear-groups", f"--inh-caps={keep}", f"--ambient-caps={keep}"]
    tmp_path.chmod(0o777)
    command = [*user, "prlimit", "--nproc=1", AURA_RUN, *_OPTIONS[options], "--", "sh", "-c", "echo out; exit 3"]

    ended = subprocess.run(command, env=host.environment, cwd="/", capture_output=True, check=False)

    assert (ended.returncode, ended.stdout) == (3, b"out\n"), ended.stderr
    assert b"the command runs without aura-run, and without a ping" in ended.stderr

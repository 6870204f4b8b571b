"""The package, or Python's own library, is replaced while a job runs: status and report stay as they would be."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.sites import Site
from tests.e2e.storm import is_waiting
from tests.waiting import wait_until
from tests.wrapper.installations import Installation
from tests.wrapper.runs import Host

_CHANGES = [Installation.remove, Installation.remove_with_stdlib, Installation.replace, Installation.damage]


def _is_loaded(pid: int, *libraries: str) -> bool:
    """Whether aura-run has nothing more to do until its job ends, and these C modules are in it."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return len(os.listdir(f"/proc/{pid}/task")) == 1 and all(library in maps for library in libraries)


def _through_an_upgrade(
    host: Host, change: Callable[[Installation], None], options: list[str], script: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run *script*, which reads a line, and make the *change* before it gets that."""
    installation = Installation(host.home)
    run = installation.start(host.environment, *options, "--", "sh", "-c", f"read x; {script}")
    wait_until(lambda: is_waiting(run.pid) and _is_loaded(run.pid), what="an aura-run that waits")
    change(installation)
    out, err = run.communicate(b"\n\n\n", timeout=60)
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize(
    ("options", "script", "status", "outcome"),
    [
        ([], "exit 0", 0, "succeeded"),
        (["--retries", "1", "--retry-delay", "0s"], "exit 3", 3, "failed"),
        (["--attach", "summary"], "exit 0", 0, "succeeded"),
        ([], "kill -KILL $$", -9, "killed"),
        (["--no-overlap"], "exit 3", 3, "failed"),
    ],
    ids=["success", "retry", "summary", "killed", "no-overlap"],
)
def test_upgrade_under_a_job_changes_neither_status_nor_report(
    host: Host,
    change: Callable[[Installation], None],
    options: list[str],
    script: str,
    status: int,
    outcome: str,
) -> None:
    """What the end of a run needs is loaded while the job runs."""
    ended = _through_an_upgrade(host, change, ["--no-wait", "-H", "beat", *options], script)

    assert (ended.returncode, ended.stderr) == (status, b"")
    assert host.report()["outcome"] == outcome
    assert host.report()["attempts"] == ("2" if "--retries" in options else "1")


@pytest.mark.parametrize("change", _CHANGES)
def test_upgrade_under_a_job_leaves_the_ping_in_the_queue(host: Host, change: Callable[[Installation], None]) -> None:
    """Delivery is loaded after the job: without it the ping waits, and one line says so."""
    ended = _through_an_upgrade(host, change, ["--wait", "30s", "-H", "beat"], "exit 0")

    assert ended.returncode == 0
    assert ended.stderr.count(b"\n") == 1
    assert b"it is queued" in ended.stderr
    assert host.report()["outcome"] == "succeeded"


@pytest.mark.parametrize("change", _CHANGES)
def test_upgrade_under_a_job_keeps_its_time_out(host: Host, change: Callable[[Installation], None]) -> None:
    """The whole tree is ended, also what has left the job's group."""
    installation = Installation(host.home)
    script = "setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000"
    options = ["--no-wait", "-H", "beat", "--timeout", "1s", "--kill-after", "0.1s", "--"]
    run = installation.start(host.environment, *options, "sh", "-c", script)
    assert run.stdout is not None
    grandchild = int(run.stdout.readline())
    wait_until(lambda: _is_loaded(run.pid, "_psutil_linux"), what="what ends a process tree")
    change(installation)
    _, err = run.communicate(timeout=60)

    assert (run.returncode, b"Traceback" in err) == (124, False)
    assert host.report()["outcome"] == "timed_out"
    assert not Path(f"/proc/{grandchild}").exists()


@pytest.mark.parametrize("change", [Installation.remove, Installation.replace])
def test_upgrade_under_a_job_keeps_its_expectation(host: Host, change: Callable[[Installation], None]) -> None:
    """A file that the run has made is found all the same."""
    config = host.home / "config.toml"
    script = "read x; echo > made"
    config.write_text(
        f'[jobs.beat]\nheartbeat = "beat"\nschedule = "@yearly"\ncommand = ["sh", "-c", "{script}"]\n'
        f'expect.file = {{ path = "{host.home}/made" }}\n'
    )
    host.extra = {"AURA_CONFIG": str(config)}
    installation = Installation(host.home)
    run = installation.start(host.environment, "--no-wait", "--", "sh", "-c", script)
    wait_until(lambda: is_waiting(run.pid) and _is_loaded(run.pid), what="an aura-run that waits")
    change(installation)
    _, err = run.communicate(b"\n", timeout=60)

    assert (run.returncode, err) == (0, b"")
    assert host.report()["outcome"] == "succeeded"


def test_upgrade_of_daemon_and_package_loses_no_report(site: Site) -> None:
    """The daemon heard of the run's start, is stopped for the upgrade, and isn't back when the job ends."""
    site.server.create_heartbeat("beat")
    site.start()
    installation = Installation(site.home / "old")
    environment = site.environment | {"AURA_SOCKET": f"{site.home}/run/agent.sock"}
    run = installation.start(environment, "-H", "beat", "--no-wait", "--", "sh", "-c", "read x; exit 0")
    wait_until(lambda: is_waiting(run.pid) and _is_loaded(run.pid), what="an aura-run that waits")
    site.stop()
    installation.remove_with_stdlib()
    _, err = run.communicate(b"\n", timeout=60)
    site.start()

    assert (run.returncode, b"Traceback" in err) == (0, False)
    wait_until(lambda: site.server.pings("beat"), what="the ping")


@pytest.mark.parametrize(
    ("flags", "content"), [(["-P"], "raise RuntimeError\n"), (["-P"], "def\n"), (["-I", "-S"], "")]
)
def test_damaged_package_keeps_no_job_from_running(tmp_path: Path, flags: list[str], content: str) -> None:
    """In the middle of an upgrade: the command behind -- runs, without our secrets, and one line says so."""
    (tmp_path / "aura_agent").mkdir()
    (tmp_path / "aura_agent" / "__init__.py").write_text(content)
    script = Path(__file__).parents[2] / "bin" / "aura-run"
    command = [sys.executable, *flags, str(script), "-H", "beat", "--", "sh", "-c", 'echo "$AURA_TOKEN."; exit 3']
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "AURA_TOKEN": "secret"}

    ended = subprocess.run(command, env=environment, capture_output=True, check=False)

    assert (ended.returncode, ended.stdout) == (3, b".\n")
    assert ended.stderr.count(b"\n") == 1
    assert b"the command runs without a ping" in ended.stderr

"""aura-run killed with SIGKILL: its run is lost, whoever was there to see it, and found by whoever delivers next."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from aura_agent.clock import SystemClock
from aura_agent.outbox.store import open_outbox
from aura_agent.report.boots import current_boot_id
from aura_agent.report.wire import encode
from tests.e2e.powercut import PowerCut
from tests.e2e.sites import AURA_RUN, Site
from tests.e2e.storm import is_waiting
from tests.machine import loop_devices, needs, pid_namespaces, tmpfs
from tests.waiting import wait_until
from tests.wrapper.runs import children

_GOES_ON = ("sh", "-c", "echo $$; read x")


@pytest.fixture
def outage(site: Site) -> Site:
    """A site on which a success waits for Aura to come back."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.refuse()
    assert site.run("--no-wait", "-H", "beat", "--", "true").returncode == 0
    return site


def _begin(site: Site, *options: str, under: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
    """Start a run whose job waits for a line, and return once its wrapper does nothing but wait for it."""
    wrapper = subprocess.Popen(
        [*under, AURA_RUN, "--no-wait", "-H", "beat", *options, "--", *_GOES_ON],
        env=site.environment,
        cwd=site.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert wrapper.stdout is not None
    wrapper.stdout.readline()
    wait_until(lambda: is_waiting(wrapper.pid) or any(is_waiting(pid) for pid in _children(wrapper.pid)))
    return wrapper


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(wrapper: "subprocess.Popen[bytes]") -> None:
    """Kill the wrapper; its job goes on, and only ends as the test lets go of its pipe."""
    wrapper.kill()
    wrapper.wait()


def _let_end(wrapper: "subprocess.Popen[bytes]") -> None:
    assert wrapper.stdin is not None
    assert wrapper.stdout is not None
    try:
        wrapper.stdin.write(b"\n")
        wrapper.stdin.close()
    except BrokenPipeError:
        pass
    wrapper.stdout.read()
    wrapper.stdout.close()
    wrapper.wait()


def _fields(**more: str) -> dict[str, str]:
    """Return a record's fields, of a run that has just begun."""
    now = SystemClock().read()
    begun = {"start_boot_ns": str(now.boot_ns), "start_ns": str(now.wall_ns)}
    return {"run": "a" * 32, "boot": current_boot_id(), "ref": "heartbeat:beat", "job": "true"} | begun | more


def _outcomes(site: Site) -> list[str]:
    """Return the runs' outcomes, newest first, as nobody but the store's own readers tell them."""
    return [outcome for (outcome,) in site.rows("SELECT outcome FROM runs ORDER BY started_wall_ns DESC")]


def test_without_a_daemon_a_killed_wrapper_leaves_a_lost_run(outage: Site) -> None:
    """The success from before it is not sent, although its job goes on and will succeed."""
    wrapper = _begin(outage)
    _kill(wrapper)
    outage.server.accept()

    flushed = outage.agent("queue", "flush")

    assert (flushed.returncode, outage.server.pings()) == (0, [])
    assert _outcomes(outage) == ["lost", "succeeded"]
    assert [row["state"] for row in outage.queue("--all")] == ["invalidated"]
    _let_end(wrapper)


def test_a_run_that_goes_on_is_not_judged_and_not_waited_for(outage: Site) -> None:
    """Its wrapper lives: what is true until now is sent, and its own success after that."""
    wrapper = _begin(outage)
    outage.server.accept()

    assert outage.agent("queue", "flush").returncode == 0
    assert (len(outage.server.pings("beat")), _outcomes(outage)) == (1, ["succeeded"])
    _let_end(wrapper)
    assert wrapper.returncode == 0
    assert outage.agent("queue", "flush").returncode == 0
    assert (len(outage.server.pings("beat")), _outcomes(outage)) == (2, ["succeeded", "succeeded"])
    assert list((outage.state / "runs").iterdir()) == []


def test_another_aura_run_judges_before_it_delivers(outage: Site) -> None:
    """One that delivers for another heartbeat would have taken the old success along."""
    outage.server.create_heartbeat("other")
    wrapper = _begin(outage)
    _kill(wrapper)
    outage.server.accept()

    assert outage.run("-H", "other", "--", "true").returncode == 0

    assert [ping.name for ping in outage.server.pings()] == ["other"]
    _let_end(wrapper)


def test_a_daemon_that_starts_later_finds_it(outage: Site) -> None:
    """Without being asked, and says so."""
    wrapper = _begin(outage)
    _kill(wrapper)
    outage.start()
    wait_until(lambda: outage.events("run.lost"))

    assert _outcomes(outage) == ["lost", "succeeded"]
    _let_end(wrapper)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_daemon_that_went_away_meanwhile_takes_no_run_with_it(outage: Site, signum: int) -> None:
    """The wrapper's own record still stands for the run, in the store that the daemon serves: the next one finds it."""
    outage.start()
    wrapper = _begin(outage)
    outage.stop(signum)
    outage.start()
    assert _outcomes(outage) == ["succeeded"]
    _kill(wrapper)
    outage.server.accept()

    assert outage.agent("queue", "flush").returncode == 0

    assert (outage.server.pings(), _outcomes(outage)) == ([], ["lost", "succeeded"])
    _let_end(wrapper)


def test_a_run_between_two_attempts_is_lost_too(outage: Site) -> None:
    """With the second of them on record, and the first one's record gone."""
    wrapper = _begin(outage, "--retries", "1", "--retry-delay", "0s", "--success-codes", "7")
    assert wrapper.stdin is not None
    assert wrapper.stdout is not None
    wrapper.stdin.write(b"\n")
    wrapper.stdin.flush()
    wrapper.stdout.readline()
    wait_until(lambda: is_waiting(wrapper.pid) and len(list((outage.state / "runs").iterdir())) == 1)
    _kill(wrapper)

    assert outage.agent("queue", "flush").returncode == 0

    assert _outcomes(outage) == ["lost", "succeeded"]
    _let_end(wrapper)


def test_a_report_that_breaks_off_is_no_success(site: Site) -> None:
    """The wrapper was killed while it sent one: what the daemon has of it reads like a whole line, and isn't one."""
    site.server.create_heartbeat("beat")
    site.start()
    start = _fields()
    run = start | {"end_boot_ns": start["start_boot_ns"], "end_ns": start["start_ns"], "outcome": "succeeded"}
    with socket.socket(socket.AF_UNIX) as wrapper:
        wrapper.connect(str(site.home / "run" / "agent.sock"))
        wrapper.sendall(encode("start", start))
        wrapper.recv(65536)
        wrapper.sendall(encode("run", run | {"code": "00"})[:-2])

    wait_until(lambda: _outcomes(site))
    assert _outcomes(site) == ["lost"]
    assert site.server.pings() == []


def test_a_later_attempt_is_lost_as_the_job_that_lent_its_settings(site: Site) -> None:
    """The daemon knows the command by its config; what it hears of the second attempt is of the same job."""
    script = site.home / "work.sh"
    script.write_text("#!/bin/sh\n[ -e again ] || { touch again; exit 1; }\necho\nread x\n")
    script.chmod(0o755)
    site.server.create_heartbeat("beat")
    site.configure(
        f'[jobs.work]\nheartbeat = "beat"\ncommand = ["{script}"]\nretries = 1\nretry_delay = "0s"\n',
    )
    site.extra["AURA_SOCKET"] = f"{site.home}/run/agent.sock"
    site.start()
    wrapper = subprocess.Popen(
        [AURA_RUN, "--", str(script)],
        env=site.environment | {"AURA_CONFIG": "", "AURA_STATE_DIR": str(site.home / "own")},
        cwd=site.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert wrapper.stdout is not None
    wrapper.stdout.readline()
    wait_until(lambda: is_waiting(wrapper.pid))
    _kill(wrapper)

    wait_until(lambda: site.rows("SELECT job, heartbeat, outcome FROM runs") == [("work", "beat", "lost")])
    _let_end(wrapper)


@pytest.mark.root
@needs(tmpfs)
@pytest.mark.parametrize(("code", "outcomes"), [(1, ["lost", "succeeded"]), (0, ["succeeded"])])
def test_a_disk_that_fills_up_during_the_run_forgets_no_failure(site: Site, code: int, outcomes: list[str]) -> None:
    """Its outcome can't be kept, so its start stays on record, and withdraws; a success is sent from memory instead."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", str(site.state)], check=True)
    try:
        assert site.run("--no-wait", "-H", "beat", "--", "true").returncode == 0
        script = f"until [ -e state/runs/* ]; do :; done; dd if=/dev/zero of=state/filler; exit {code}"
        ended = site.run("-H", "beat", "--", "sh", "-c", script)
        (site.state / "filler").unlink()

        assert ended.returncode == code
        assert len(site.server.pings("beat")) == (code == 0)
        assert site.agent("queue", "flush").returncode == 0
        assert _outcomes(site) == outcomes
        assert list((site.state / "runs").iterdir()) == []
    finally:
        subprocess.run(["umount", str(site.state)], check=True)


def test_who_judges_while_runs_end_finds_none_lost(site: Site) -> None:
    """Between a run's report and the removal of its record there is no moment at which it looks lost."""
    until_recorded = f"until [ -e {site.state}/runs ]; do sleep 0.01; done; sleep 0.1"
    command = [AURA_RUN, "--no-wait", "-H", "beat", "--", "sh", "-c", until_recorded]
    wrappers = [subprocess.Popen(command, env=site.environment) for _ in range(30)]
    judge = open_outbox(str(site.state), "judge")
    while any(wrapper.poll() is None for wrapper in wrappers):
        judge.take_in()
    judge.take_in()
    judge.close()

    assert [wrapper.returncode for wrapper in wrappers] == [0] * 30
    assert _outcomes(site) == ["succeeded"] * 30
    assert list((site.state / "runs").iterdir()) == []


@pytest.mark.root
@needs(pid_namespaces)
def test_across_containers_the_lock_decides_and_not_the_pid(outage: Site) -> None:
    """They share store and boot id: a living wrapper of another pid namespace lives, a dead one is dead."""
    container = _begin(outage, under=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    outage.agent("queue", "flush")
    assert _outcomes(outage) == ["succeeded"]
    _kill(container)
    wait_until(lambda: outage.agent("queue", "flush").returncode == 0)
    _let_end(container)

    assert _outcomes(outage) == ["lost", "succeeded"]


@pytest.mark.root
@needs(loop_devices)
@pytest.mark.parametrize("with_daemon", [False, True], ids=["alone", "daemon"])
def test_a_power_cut_takes_no_run_with_it(site: Site, tmp_path: Path, with_daemon: bool) -> None:
    """A run that has been going for a moment is on disk: afterwards it is lost, and not forgotten."""
    site.server.create_heartbeat("beat", expected_interval=3600)
    site.server.refuse()
    with PowerCut(tmp_path) as disk:
        site.extra["AURA_STATE_DIR"] = str(disk.path / "state")
        assert site.run("--no-wait", "-H", "beat", "--", "true").returncode == 0
        if with_daemon:
            site.start()
        wrapper = _begin(site)
        wait_until(lambda: any((disk.path / "state/runs").glob("*")), what="a start record")
        wait_until(lambda: len(children(wrapper.pid)) == 1, what="the end of the process that syncs it")
        disk.cut()
        _kill(wrapper)
        if with_daemon:
            site.kill()
        _let_end(wrapper)
        disk.mount()
        site.server.accept()

        assert site.agent("queue", "flush").returncode == 0
        assert site.server.pings() == []
        assert [row["state"] for row in site.queue("--all")] == ["invalidated"]

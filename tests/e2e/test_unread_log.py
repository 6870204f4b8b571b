"""A daemon whose log nobody takes: jobs, pings, commands and its end go on as if it were read."""

import fcntl
import json
import os
import pty
import re
import subprocess
import threading
import urllib.request
from collections.abc import Callable

import pytest

from tests.e2e.sites import AURA_AGENT, Site
from tests.waiting import wait_until

F_SETPIPE_SZ = 1031
_TICK = '[jobs.tick]\nevery = "1s"\ncommand = ["true"]\n'


def _full_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    size = fcntl.fcntl(write, F_SETPIPE_SZ, 1)
    os.write(write, b"\n" * size)
    return read, write


def _stopped_reader() -> tuple[int, Callable[[], object]]:
    read, write = _full_pipe()
    return write, lambda: os.close(read)


def _dead_reader() -> tuple[int, Callable[[], object]]:
    read, write = os.pipe()
    os.close(read)
    return write, lambda: None


def _full_disk() -> tuple[int, Callable[[], object]]:
    return os.open("/dev/full", os.O_WRONLY), lambda: None


def _stopped_terminal() -> tuple[int, Callable[[], object]]:
    controller, terminal = pty.openpty()
    return terminal, lambda: os.close(controller)  # nobody reads what the controller has


def _dead_terminal() -> tuple[int, Callable[[], object]]:
    controller, terminal = pty.openpty()
    os.close(controller)
    return terminal, lambda: None


def _start(site: Site, stderr: int) -> None:
    site.daemon = subprocess.Popen(
        [AURA_AGENT, "run"], env=site.environment, cwd=site.home, stderr=stderr, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "opening",
    [_stopped_reader, _dead_reader, _full_disk, _stopped_terminal, _dead_terminal],
    ids=lambda o: o.__name__[1:],
)
def test_daemon_works_on_though_nothing_takes_its_log(
    site: Site, opening: Callable[[], tuple[int, Callable[[], object]]]
) -> None:
    """Scheduled jobs and reports of aura-run ping, a reload and the status are answered, SIGTERM ends it with 0."""
    for name in ("tick", "wrapped"):
        site.server.create_heartbeat(name)
    site.configure(_TICK)
    site.extra["AURA_SOCKET"] = f"{site.home}/run/agent.sock"
    stderr, close = opening()
    _start(site, stderr)
    os.close(stderr)

    wait_until(lambda: len(site.server.pings("tick")) >= 2)
    assert site.run("-H", "wrapped", "--", "true").stderr == b""
    wait_until(lambda: site.server.pings("wrapped"))
    assert site.agent("reload").returncode == 0
    state = json.loads(site.agent("status", "--json").stdout)

    assert state["healthy"]
    assert site.stop() == 0
    close()


def test_reader_that_comes_back_is_told_what_it_missed(site: Site) -> None:
    """Once, where the gap is; the newest lines follow in their order. The metric counts them, status warns."""
    site.configure(
        '[jobs.chatty]\noutput = "log"\nevery = "1d"\nshell = "seq 20000"\n', top='[status]\nlisten = "127.0.0.1:0"\n'
    )
    read, write = os.pipe()
    _start(site, write)
    os.close(write)
    pipe = os.fdopen(read, "rb")
    listening = next(event for event in map(json.loads, pipe) if event["event"] == "status.listening")
    assert site.agent("trigger", "chatty").returncode == 0

    def state() -> dict[str, object]:
        answer: dict[str, object] = json.loads(site.agent("status", "--json").stdout)
        return answer

    wait_until(lambda: state()["log_lines_dropped"])
    wait_until(lambda: not state()["jobs"][0]["running"])  # type: ignore[index]
    assert any("the log isn't read" in text for text in state()["warnings"])  # type: ignore[attr-defined]
    with urllib.request.urlopen(f"http://127.0.0.1:{listening['port']}/metrics") as answer:
        metrics = answer.read().decode()
    dropped = re.search(r"^aura_agent_log_lines_dropped_total (\S+)$", metrics, re.MULTILINE)
    assert dropped is not None
    events: list[dict[str, object]] = []
    reading = threading.Thread(target=lambda: events.extend(map(json.loads, pipe)))
    reading.start()
    wait_until(lambda: any(event["event"] == "log.dropped" for event in events))
    wait_until(lambda: not any("log" in text for text in state()["warnings"]))  # type: ignore[attr-defined]
    assert site.stop() == 0
    reading.join()
    pipe.close()

    gaps = [event for event in events if event["event"] == "log.dropped"]
    assert [(gap["count"], gap["level"]) for gap in gaps] == [(float(dropped[1]), "warning")]
    numbers = [int(str(event["text"])) for event in events if event["event"] == "run.output"]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 20_000
    assert len(numbers) + float(dropped[1]) >= 20_000
    assert events[-1]["event"] == "agent.stopped"


def test_broken_config_ends_a_daemon_whose_stderr_is_full(site: Site) -> None:
    """What goes wrong before it is up doesn't wait for a reader either."""
    site.config.write_text("[jobs.x\n")
    read, write = _full_pipe()
    _start(site, write)
    assert site.daemon is not None

    assert site.daemon.wait(timeout=60) > 0
    os.close(read)
    os.close(write)


def test_jobs_do_not_share_the_daemons_stderr(site: Site) -> None:
    """Their output goes to pipes of their own: what the daemon does with its stderr can't change them."""
    look = f"readlink /proc/$$/fd/1 /proc/$$/fd/2 >{site.home}/paths"
    site.configure(f'[jobs.look]\nevery = "1d"\nshell = "{look}"\n')
    site.start()
    assert site.agent("trigger", "look").returncode == 0
    wait_until(lambda: len((site.home / "paths").read_text().split()) == 2 if (site.home / "paths").exists() else False)

    assert str(site.log) not in (site.home / "paths").read_text().split()

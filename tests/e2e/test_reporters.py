"""What a user without rights, or with the right to report one job, can do to the heartbeats of others: nothing."""

import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from aura_agent.daemon.report_server import MAX_CONNECTIONS
from aura_agent.report import wire
from aura_agent.wrapper.daemon import Daemon, Refused
from tests.e2e.sites import Site
from tests.machine import needs, root
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, needs(root)]
_BOB, _STRANGER = 65534, 65533
_JOBS = """
[jobs.bobs-job]
heartbeat = "bobs-beat"
command = ["/bin/true", "bob"]
reporters = ["65534"]

[jobs.nightly]
heartbeat = "nightly-backup"
command = ["/bin/true", "root"]
timeout = "7m"
"""


def _speak(site: Site, uid: int, *lines: bytes) -> list[tuple[str, dict[str, str]]]:
    """Say *lines* to the daemon as *uid*, each after the answer to the one before, hang up and return the answers."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(site.home / "run")  # the way there is closed to others
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect("agent.sock")
                answers = connection.makefile("rb")
                for line in lines:
                    with suppress(BrokenPipeError):  # a stranger has been answered already
                        connection.sendall(line)
                    os.write(writing, answers.readline())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as told:
        said = told.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    return [wire.decode(line) for line in said]


def _times(start_s: float = 0, wall_s: float = 0) -> dict[str, str]:
    boot_ns, wall_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    instants = {"start_boot_ns": boot_ns + int(start_s * 1e9), "start_ns": wall_ns + int(wall_s * 1e9)}
    instants |= {"end_boot_ns": instants["start_boot_ns"] + 1, "end_ns": instants["start_ns"] + 1}
    return {key: str(value) for key, value in instants.items()}


def _run(run_id: str = "a1b2c3d4e5f60718", **fields: str) -> bytes:
    return wire.encode("run", {"run": run_id, "outcome": "succeeded", "job": "bobs-job", **_times(), **fields})


def _start(run_id: str = "a1b2c3d4e5f60718", **fields: str) -> bytes:
    return wire.encode("start", {"run": run_id, "job": "bobs-job", **_times(), **fields})


@pytest.fixture
def shared(site: Site) -> Iterator[Site]:
    for name in ("bobs-beat", "nightly-backup"):
        site.server.create_heartbeat(name)
    site.configure(_JOBS)
    site.start()
    yield site
    assert not site.server.pings("nightly-backup")


@pytest.mark.parametrize(
    "line",
    [
        _run(ref="heartbeat:nightly-backup"),
        _run(job="nightly", ref="heartbeat:nightly-backup"),
        _run(job="other", argv="/bin/true\0root"),
        _run(ref="url:http://127.0.0.1:9/x"),
        _start(ref="heartbeat:nightly-backup"),
        _start(job="nightly"),
        _start(job="other", argv="/bin/true\0root"),
    ],
)
def test_a_reporter_of_one_job_speaks_for_no_other(shared: Site, line: bytes) -> None:
    """Neither by another job's name, nor by another heartbeat, nor by another command."""
    ((verb, fields),) = _speak(shared, _BOB, line)

    assert (verb, fields["reason"]) == ("refused", "nobody may report bobs-job alone, with its own heartbeat")
    assert shared.rows("SELECT count(*) FROM inbox UNION ALL SELECT count(*) FROM runs") == [(0,), (0,)]
    wait_until(lambda: [event["user"] for event in shared.events("report.refused")] == ["nobody"], what="the log")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "127.1", "2130706433", "0.0.0.0", "localhost", "LOCALHOST."),
        *("x.localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]"),
    ],
)
def test_a_reporter_of_everything_has_no_loopback_url_pinged(site: Site, host: str) -> None:
    """The daemon would reach there what the reporter, perhaps in a network namespace without a network, can't."""
    heartbeat = site.server.create_heartbeat("beat")
    site.configure(agent=f'reporters = ["root", "{_BOB}"]')
    site.start()
    ref = f"url:{heartbeat.ping_url.replace('127.0.0.1', host, 1)}"

    ((verb, fields),) = _speak(site, _BOB, _run(job="x", ref=ref))
    assert (verb, fields["reason"]) == ("refused", "nobody may not have the daemon ping a URL of this host")

    ((verb, _),) = _speak(site, _BOB, _run(job="x", ref="heartbeat:beat"))
    assert verb == "ok"
    wait_until(lambda: site.server.pings("beat"), what="a ping")
    ((verb, _),) = _speak(site, 0, _run("c" * 32, job="x", ref=f"url:{heartbeat.ping_url}"))
    assert verb == "ok"
    wait_until(lambda: len(site.server.pings("beat")) == 2, what="root's ping")


def test_a_stranger_is_refused_whatever_is_said(shared: Site) -> None:
    """Before a byte is read, and named once."""
    for line in (_run(), _start(), b"nonsense\n", b"x" * 100_000):
        ((verb, fields),) = _speak(shared, _STRANGER, line)
        assert (verb, fields["reason"]) == ("refused", f"uid {_STRANGER} is not among them")

    assert not shared.server.pings()
    wait_until(lambda: shared.events("report.refused"), what="the log")
    assert shared.run("-H", "bobs-beat", "--", "true").returncode == 0
    wait_until(lambda: shared.server.pings("bobs-beat"), what="root's ping")
    assert [event["user"] for event in shared.events("report.refused")] == [f"uid {_STRANGER}"]


def test_one_user_cannot_take_all_places(shared: Site) -> None:
    """Bob holds as many connections as he gets: root's report is taken all the same."""
    ready_reading, ready_writing = os.pipe()
    end_reading, end_writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(end_writing)
            os.chdir(shared.home / "run")
            resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))
            os.setgroups([])
            os.setgid(_BOB)
            os.setuid(_BOB)
            held = []
            for _ in range(MAX_CONNECTIONS + 100):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect("agent.sock")
                held.append(connection)
            os.write(ready_writing, b"x")
            os.read(end_reading, 1)
        finally:
            os._exit(0)
    os.close(ready_writing)
    try:
        assert os.read(ready_reading, 1) == b"x"
        ((verb, _),) = _speak(shared, 0, _run("d" * 32, job="x", ref="heartbeat:bobs-beat"))
    finally:
        for end in (end_writing, end_reading, ready_reading):
            os.close(end)
        os.waitpid(child, 0)

    assert verb == "ok"


def test_aura_run_says_that_its_user_may_not_report(shared: Site) -> None:
    """Though the daemon hangs up before it has said who it is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(shared.home / "run")
            os.setgroups([])
            os.setgid(_STRANGER)
            os.setuid(_STRANGER)
            daemon = Daemon("agent.sock")
            select.select([daemon._socket], [], [])  # its answer is there, and it has hung up
            daemon.introduce({"run": "a" * 16})
            try:
                daemon.hand_over(_run())
            except Refused as refusal:
                os.write(writing, str(refusal).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        said = told.read()
    os.waitpid(child, 0)

    assert said == f"uid {_STRANGER} is not among them".encode()


@pytest.mark.parametrize(
    "fields",
    [{}, {"ref": "heartbeat:bobs-beat"}, {"ref": "auto:true"}, {"job": "backup.sh", "ref": "heartbeat:bobs-beat"}],
)
def test_a_reporter_of_one_job_feeds_its_heartbeat(shared: Site, fields: dict[str, str]) -> None:
    ((verb, _),) = _speak(shared, _BOB, _run(**fields))

    assert verb == "ok"
    wait_until(lambda: shared.server.pings("bobs-beat"), what="a ping")


def test_anothers_command_reveals_no_settings_and_loses_no_run(shared: Site) -> None:
    """The settings of the job with that command are lent to who may report it; hanging up concerns bob's job alone."""
    ((verb, lent),) = _speak(shared, _BOB, _start(argv="/bin/true\0root"))
    wait_until(lambda: shared.rows("SELECT 1 FROM runs WHERE outcome = 'lost'"), what="bob's lost run")

    assert verb == "job"
    assert "timeout_s" not in lent
    assert "nightly" not in repr(lent)
    assert shared.rows("SELECT job FROM runs") == [("bobs-job",)]


def test_ones_own_command_finds_ones_own_job(shared: Site) -> None:
    ((_, lent),) = _speak(shared, _BOB, _start(job="true", argv="/bin/true\0bob"))

    assert (lent["job"], lent["heartbeat"]) == ("bobs-job", "bobs-beat")


@pytest.mark.parametrize("outcome", ["skipped", "succeeded", "failed"])
def test_a_run_of_another_user_is_not_concluded(shared: Site, outcome: str) -> None:
    """Who reads its id in a log or a process list can't say how it ended, before it does or after."""
    run_id = "0123456789abcdef0123456789abcdef"
    theirs = _run(run_id, outcome=outcome)

    _speak(shared, _BOB, theirs)
    ((verb, _),) = _speak(shared, 0, _run(run_id, job="nightly", ref="heartbeat:nightly-backup", outcome="failed"))
    _speak(shared, _BOB, theirs)
    assert verb == "ok"
    wait_until(lambda: shared.rows("SELECT 1 FROM runs WHERE job = 'nightly'"), what="root's run")

    assert shared.rows(f"SELECT outcome FROM runs WHERE run_id = '{run_id}'") == [("failed",)]


def test_a_lost_run_of_another_user_is_not_turned_into_a_success(shared: Site) -> None:
    run_id = "0123456789abcdef0123456789abcdef"
    _speak(shared, 0, _start(run_id, job="nightly", ref="heartbeat:nightly-backup"))
    wait_until(lambda: shared.rows("SELECT 1 FROM runs WHERE outcome = 'lost'"), what="root's lost run")

    _speak(shared, _BOB, _run(run_id))
    wait_until(lambda: shared.server.pings("bobs-beat"), what="bob's own ping")

    assert shared.rows("SELECT outcome FROM runs WHERE job = 'nightly'") == [("lost",)]


@pytest.mark.parametrize(
    "ahead",
    [
        _times(start_s=864_000),
        _times(wall_s=864_000),
        _times(start_s=864_000, wall_s=864_000),
        _times(wall_s=864_000) | {"boot": "11111111-2222-3333-4444-555555555555"},
    ],
    ids=["boot time", "wall clock", "both", "another boot"],
)
def test_a_report_from_the_future_silences_nothing(shared: Site, ahead: dict[str, str]) -> None:
    """A failure that claims to have begun in ten days is as old as its arrival: the next success is told."""
    ((verb, _),) = _speak(shared, _BOB, _run("f" * 32, outcome="failed", **ahead))
    assert verb == "ok"

    ((verb, _),) = _speak(shared, _BOB, _run("e" * 32))

    assert verb == "ok"
    wait_until(lambda: shared.server.pings("bobs-beat"), what="a ping")

"""How a run's outcome gets out of aura-run: what it does when something is wrong with the way."""

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aura_agent.report import places
from tests.e2e.sites import Site
from tests.machine import mounts, needs, root, tmpfs
from tests.waiting import wait_until
from tests.wrapper.daemons import answering
from tests.wrapper.runs import AURA_RUN, Host

_TELL_MODULES = """
import os, sys
leave = os._exit
def tell(status):
    with open(os.environ["HOME"] + "/modules", "a") as file:  # each of our processes: delivery is one of its own
        file.write(' '.join(sys.modules) + ' ')
    leave(status)
os._exit = tell
from aura_agent.wrapper.main import main
main()
"""


@pytest.fixture
def alone(site: Site) -> Site:
    """A site whose aura-run has a token and an Aura, and neither config nor daemon."""
    site.server.create_heartbeat("beat")
    site.extra = {
        "AURA_CONFIG": "",
        "AURA_STATE_DIR": str(site.state),
        "AURA_SOCKET": str(site.home / "none"),
        "AURA_API_URL": site.server.base_url,
        "AURA_TOKEN": site.server.token,
    }
    return site


@contextmanager
def _mute_daemon(host: Host) -> Iterator[None]:
    """Accepts connections, by the kernel's hand, and never says a word."""
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(host.environment["AURA_SOCKET"])
        listening.listen(10)
        yield


@pytest.mark.parametrize("arguments", [["-H", "beat"], [], ["-H", "beat", "--retries", "2", "--retry-delay", "0s"]])
@pytest.mark.parametrize("hold", ["", "sleep 0.2; "])
def test_a_user_who_is_refused_before_a_word_keeps_his_report(host: Host, arguments: list[str], hold: str) -> None:
    """One line says so, whatever comes first: our word or the end of the connection."""
    script = host.home / "backup.sh"
    script.write_text(f"#!/bin/sh\n{hold}exit 3\n")
    script.chmod(0o755)
    with answering(host.environment["AURA_SOCKET"], "refused", "bob is not among them", at_once=True):
        ended = host.run("--no-wait", *arguments, "--", "./backup.sh")

    assert ended.returncode == 3
    assert ended.stderr.count(b"the daemon takes no reports from this user (bob is not among them)") == 1
    assert b"internal error" not in ended.stderr
    assert host.report()["outcome"] == "failed"


@pytest.mark.parametrize("named", [["-H", "beat"], []], ids=["named", "looked up"])
def test_a_daemon_that_says_nothing_leaves_the_report_to_the_spool(host: Host, named: list[str]) -> None:
    """Status and output are the job's, nothing is printed, and the report is kept."""
    script = host.home / "backup.sh"
    script.write_text("#!/bin/sh\necho done; exit 3\n")
    script.chmod(0o755)
    with _mute_daemon(host):
        ended = host.run("--no-wait", *named, "--", "./backup.sh")

    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"done\n", b"")
    assert host.report()["outcome"] == "failed"


def test_signals_that_come_as_the_job_ends_leave_its_report(host: Host) -> None:
    """Two at once: the first is met while the job is waited for, the second when it has ended."""
    job = host.start("--no-wait", "-H", "beat", "--", "sh", "-c", "echo $$; read x", stdin=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdin is not None
    child = int(job.stdout.readline())
    job.send_signal(signal.SIGSTOP)
    wait_until(lambda: "T (stopped)" in Path(f"/proc/{job.pid}/status").read_text())
    job.stdin.close()
    wait_until(lambda: ") Z" in Path(f"/proc/{child}/stat").read_text())
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT):
        job.send_signal(signum)
    errors = job.stderr.read() if job.stderr is not None else b""
    job.stdout.close()

    assert (job.wait(timeout=30), errors) == (1, b"")
    assert host.report()["outcome"] == "failed"
    assert job.stderr is not None
    job.stderr.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_while_we_deliver_nobody_waits_for_us_who_can_help_it(alone: Site, signum: int) -> None:
    """The reader of the job's output sees its end at once; a signal ends the wait with the job's own status."""
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/ping/x"
        job = subprocess.Popen(
            [AURA_RUN, "--wait", "50s", "--success-codes", "3", "--", "sh", "-c", "echo out; exit 3"],
            env=alone.environment | {"AURA_PING_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert job.stdout is not None
        assert job.stdout.read() == b"out\n"
        job.stdout.close()
        connection, _ = deaf.accept()
        assert job.poll() is None
        job.send_signal(signum)
        assert job.wait(timeout=30) == 3
        connection.close()

    assert alone.waiting() == 1


def test_a_closed_descriptor_stays_closed_and_no_file_of_ours_takes_its_place(host: Host) -> None:
    """The job misses what the caller closed, and our one line goes nowhere instead of into a file of ours."""
    show = "import os\ntry: os.fstat(2); print('open')\nexcept OSError: print('closed')"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", AURA_RUN, "--no-wait", "--no-overlap", "--", sys.executable, "-c", show],
        env=host.environment,
        stdout=subprocess.PIPE,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, b"closed\n")
    files = [file for file in host.state.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if b"aura-run" in file.read_bytes()] == []


def test_the_locale_that_python_sets_for_itself_is_not_the_jobs(host: Host) -> None:
    """Cron's C locale stays what it is; a locale that the caller set stays too."""
    for extra in ({}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "C"}):
        host.extra = extra
        ended = host.run("--no-wait", "-H", "beat", "--", "env")
        seen = dict(line.split("=", 1) for line in ended.stdout.decode().splitlines())
        assert seen == host.environment


def test_an_ignored_signal_ends_no_retries(host: Host) -> None:
    """Under nohup a SIGHUP is nothing to stop for."""
    script = "echo x >>tries; test $(wc -l <tries) = 2 || { kill -HUP $PPID; exit 1; }"

    ended = host.run(
        *("--no-wait", "-H", "beat", "--retries", "3", "--retry-delay", "0s", "--", "sh", "-c", script),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )

    assert ended.returncode == 0
    assert host.report()["attempts"] == "2"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, b"No such file"),
        ("", b"URL"),
        ("<html>\nnot it", b"URL"),
        ("ftp://x/s3cret", b"URL"),
        ("https:///ping/s3cret", b"no host"),
        ("https://xn--/ping/s3cret", b"xn--"),
        (f"https://{'a' * 64}.example/s3cret", b"too long"),
        ("https://ping.example:99999/s3cret", b"port"),
    ],
    ids=["missing", "empty", "page", "scheme", "host", "punycode", "label", "port"],
)
def test_a_ping_url_file_of_no_use_is_one_clear_line(alone: Site, content: str | None, word: bytes) -> None:
    """It names the file, not what is in it; the job is not affected."""
    if content is not None:
        (alone.home / "url").write_text(content)

    ended = alone.run("--ping-url", f"file:{alone.home}/url", "--", "sh", "-c", "exit 6")

    assert ended.returncode == 6
    assert len(ended.stderr.splitlines()) == 1
    assert str(alone.home / "url").encode() in ended.stderr
    assert word in ended.stderr
    assert b"s3cret" not in ended.stderr
    assert alone.waiting() == 0


def test_a_ping_url_without_tls_is_refused_off_loopback(alone: Site) -> None:
    """Nothing is sent in the clear; one line says why, and not to where."""
    url = "http://192.0.2.1/ping/s3cret"

    ended = alone.run("--", "true", env=alone.environment | {"AURA_PING_URL": url})

    assert ended.returncode == 0
    assert len(ended.stderr.splitlines()) == 1
    assert b"http:// is refused" in ended.stderr
    assert b"s3cret" not in ended.stderr
    assert b"192.0.2.1" not in ended.stderr


def test_a_refused_token_is_said(alone: Site) -> None:
    """Only a human can mend that; once a day."""
    alone.extra["AURA_TOKEN"] = "aura_live_wrong5ecretwrong5ecret"

    first, second = (alone.run("-H", "beat", "--wait", wait, "--", "true") for wait in ("5s", "1s"))

    assert (first.returncode, second.returncode, second.stderr) == (0, 0, b"")
    assert len(first.stderr.splitlines()) == 1
    assert b"token" in first.stderr
    assert alone.waiting() == 1


def test_an_unreadable_token_does_not_keep_a_ping_url_from_being_pinged(alone: Site) -> None:
    """A ping URL needs no token, so a broken one is nobody's concern."""
    url = alone.server.create_heartbeat("other").ping_url
    alone.extra |= {"AURA_TOKEN": "", "AURA_TOKEN_FILE": "/nowhere/token"}

    pinged = alone.run("--", "true", env=alone.environment | {"AURA_PING_URL": url})
    by_name = alone.run("-H", "beat", "--wait", "20s", "--", "true")

    assert (pinged.stderr, [ping.name for ping in alone.server.pings()]) == (b"", ["other"])
    assert len(by_name.stderr.splitlines()) == 1
    assert b"/nowhere/token" in by_name.stderr


def _store_below_a_file(site: Site) -> None:
    site.state.write_text("")


def _store_of_another(site: Site) -> None:
    site.state.mkdir()
    os.chown(site.state, 65534, 65534)


def _store_on_a_full_disk(site: Site) -> None:
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", str(site.state)], check=True)
    subprocess.run(["dd", "if=/dev/zero", f"of={site.state}/filler"], check=False, stderr=subprocess.DEVNULL)
    assert os.statvfs(site.state).f_bavail == 0


def _store_with_room_for_little(site: Site) -> None:
    """The report fits, a database doesn't."""
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k,mode=700", "none", str(site.state)], check=True)


def _store_read_only(site: Site) -> None:
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=700", "none", str(site.state)], check=True)


_NO_TEMPORARY_FILES = """
mkdir "$AURA_STATE_DIR" && mount -t tmpfs -o mode=700 none "$AURA_STATE_DIR" || exit 90
for place in /tmp /var/tmp; do mount --rbind $place $place && mount -o remount,ro,bind $place || exit 91; done
cd /proc && unset TMPDIR
"$@" && "$@"
"""


@pytest.mark.root
@needs(mounts)
def test_a_read_only_system_takes_no_temporary_file_and_delivers(alone: Site) -> None:
    """As in a container whose only writable place is the store's volume: two runs, two pings, and not a word."""
    command = ["unshare", "--mount", "sh", "-c", _NO_TEMPORARY_FILES, "sh", AURA_RUN, "-H", "beat", "--", "true"]
    done = subprocess.run(command, env=alone.environment, capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert len(alone.server.pings("beat")) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        _store_below_a_file,
        pytest.param(_store_of_another, marks=[pytest.mark.root, needs(tmpfs)]),
        pytest.param(_store_on_a_full_disk, marks=[pytest.mark.root, needs(tmpfs)]),
        pytest.param(_store_with_room_for_little, marks=[pytest.mark.root, needs(tmpfs)]),
        pytest.param(_store_read_only, marks=[pytest.mark.root, needs(tmpfs)]),
    ],
)
def test_a_store_of_no_use_costs_one_line_and_not_the_ping(alone: Site, spoil: object) -> None:
    """The status is the job's, the ping is sent from memory, of a failure nothing is; the line comes once a day."""
    assert callable(spoil)
    spoil(alone)
    try:
        good, again = (alone.run("-H", "beat", "--", "true") for _ in range(2))
        bad = alone.run("-H", "beat", "--", "sh", "-c", "exit 8")
    finally:
        subprocess.run(["umount", "-q", str(alone.state)], check=False, stderr=subprocess.DEVNULL)

    assert (good.returncode, again.returncode, bad.returncode) == (0, 0, 8)
    assert len(good.stderr.splitlines()) == 1
    assert str(alone.state).encode() in good.stderr
    assert (again.stderr, bad.stderr) == (b"", b"")
    assert len(alone.server.pings("beat")) == 2


def _database_of_garbage(state: Path) -> None:
    (state / "outbox.db").write_bytes(b"\x00garbage" * 1000)


def _database_whose_runs_are_garbage(state: Path) -> None:
    """Whole at first sight: only who takes in a report finds out."""
    _spoil_page_of(state, "runs")


def _database_whose_hook_calls_are_garbage(state: Path) -> None:
    """It takes the report in, and gives nothing out."""
    _spoil_page_of(state, "hook_calls")


def _spoil_page_of(state: Path, table: str) -> None:
    with closing(sqlite3.connect(state / "outbox.db")) as database:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (root_page,) = database.execute(query, (table,)).fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    with (state / "outbox.db").open("r+b") as file:
        file.seek((root_page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)


@pytest.mark.parametrize(
    "spoil", [_database_of_garbage, _database_whose_runs_are_garbage, _database_whose_hook_calls_are_garbage]
)
def test_a_damaged_database_is_set_aside_and_the_ping_sent(alone: Site, spoil: Callable[[Path], None]) -> None:
    """It is kept under another name, a fresh one takes its place, and one line tells; the next run is as ever."""
    assert alone.run("-H", "beat", "--", "true").returncode == 0
    for left in ("-wal", "-shm"):
        (alone.state / f"outbox.db{left}").unlink(missing_ok=True)
    spoil(alone.state)
    damaged = (alone.state / "outbox.db").read_bytes()

    ended, after = (alone.run("-H", "beat", "--", "sh", "-c", f"exit {code}", timeout=50) for code in (0, 9))

    assert (ended.returncode, after.returncode, after.stderr) == (0, 9, b"")
    assert len(ended.stderr.splitlines()) == 1
    (aside,) = alone.state.glob("outbox.db.corrupt-*Z")
    assert str(aside).encode() in ended.stderr
    assert aside.read_bytes() == damaged
    assert len(alone.server.pings("beat")) == 2


def test_a_damaged_database_is_not_taken_from_a_daemon_that_lives(site: Site) -> None:
    """It would go on in it under another name: what ran beside it is told from memory, and a line says what to do."""
    site.server.create_heartbeat("beat")
    site.start()
    with closing(sqlite3.connect(site.state / "outbox.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _database_of_garbage(site.state)
    ended = site.run("-H", "beat", "--", "true", env=site.environment | {"AURA_SOCKET": str(site.home / "none")})

    assert ended.returncode == 0
    assert list(site.state.glob("*corrupt*")) == []
    assert len(ended.stderr.splitlines()) == 1
    assert b"restart aura-agent" in ended.stderr
    assert len(site.server.pings("beat")) == 1
    assert list((site.state / "spool").iterdir()) == []


@pytest.mark.root
@needs(tmpfs)
def test_a_daemon_whose_disk_is_full_leaves_the_ping_to_us(site: Site) -> None:
    """It can keep nothing, and says so; nor can we: the ping is sent from memory."""
    site.server.create_heartbeat("beat")
    site.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(site.state)], check=True)
    try:
        site.start()
        subprocess.run(["dd", "if=/dev/zero", f"of={site.state}/filler"], check=False, stderr=subprocess.DEVNULL)
        good = site.run("-H", "beat", "--", "true")
        bad = site.run("-H", "beat", "--", "sh", "-c", "exit 8")
        site.kill()
    finally:
        subprocess.run(["umount", str(site.state)], check=True)

    assert (good.returncode, bad.returncode) == (0, 8)
    assert len((good.stderr + bad.stderr).splitlines()) == 1
    assert len(site.server.pings("beat")) == 1


def test_a_spool_file_that_is_no_report_is_set_aside_with_a_line(alone: Site) -> None:
    """It keeps nobody from delivering, and nothing of it is thrown away."""
    spooled = alone.state / "spool" / "garbage.report"
    spooled.parent.mkdir(parents=True, mode=0o700)
    alone.state.chmod(0o700)
    spooled.write_bytes(b"garbage")
    os.utime(spooled, (1, 1))

    ended, after = (alone.run("-H", "beat", "--", "true") for _ in range(2))

    assert (ended.returncode, after.returncode, after.stderr) == (0, 0, b"")
    assert len(ended.stderr.splitlines()) == 1
    assert b"garbage.report" in ended.stderr
    assert (alone.state / "spool" / "torn" / "garbage.report").read_bytes() == b"garbage"
    assert len(alone.server.pings("beat")) == 2


@pytest.mark.parametrize(
    "limit", [(resource.RLIMIT_NOFILE, 8), (resource.RLIMIT_AS, 60_000_000)], ids=["fds", "memory"]
)
def test_a_jobs_narrow_limits_cost_no_traceback_and_no_ping(alone: Site, limit: tuple[int, int]) -> None:
    """What they don't let us send now is sent by the next run; it is a line at the most, and the status is the job's."""
    limited = alone.run(
        "-H", "beat", "--", "true", preexec_fn=lambda: resource.setrlimit(limit[0], (limit[1], limit[1]))
    )
    alone.server.create_heartbeat("other")
    ended = alone.run("-H", "other", "--", "true")

    assert (limited.returncode, ended.returncode, ended.stderr) == (0, 0, b"")
    assert len(limited.stderr.splitlines()) <= 1
    assert b"internal error" not in limited.stderr
    assert {ping.name for ping in alone.server.pings()} == {"beat", "other"}
    assert alone.waiting() == 0


def test_a_name_that_is_none_is_said_once(host: Host) -> None:
    """It would fit into no report; nothing is kept of it, and the job runs."""
    first, again = (host.run("--no-wait", "-H", "x" * 5000, "--", "sh", "-c", "exit 3") for _ in range(2))

    assert (first.returncode, again.returncode, again.stderr) == (3, 3, b"")
    assert b"too long" in first.stderr
    assert host.reports() == []


def test_a_database_that_others_keep_locked_is_nobodys_concern(alone: Site) -> None:
    """The report is safe, and whoever comes next sends it: nothing is printed."""
    assert alone.run("-H", "beat", "--", "true").returncode == 0
    with closing(sqlite3.connect(alone.state / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = alone.run("-H", "beat", "--wait", "1s", "--", "true", timeout=50)

    assert (ended.returncode, ended.stderr, alone.waiting()) == (0, b"", 1)


def test_several_at_once_deliver_side_by_side(alone: Site) -> None:
    """Twenty wrappers in one store, without a daemon: each heartbeat is pinged once, and nothing is left."""
    names = [f"beat-{number}" for number in range(20)]
    for name in names:
        alone.server.create_heartbeat(name)
    wrappers = [
        subprocess.Popen(
            [AURA_RUN, "-H", name, "--wait", "100s", "--", "true"], env=alone.environment, stderr=subprocess.PIPE
        )
        for name in names
    ]

    assert [wrapper.communicate()[1] for wrapper in wrappers] == [b""] * 20
    assert sorted(ping.name for ping in alone.server.pings()) == sorted(names)
    assert alone.waiting() == 0


def test_what_a_killed_one_was_delivering_is_delivered_by_the_next(alone: Site) -> None:
    """Without waiting for its lease to run out."""
    alone.server.create_heartbeat("other")
    alone.server.set_fault("hang", target="ping", heartbeat="beat")
    killed = subprocess.Popen([AURA_RUN, "-H", "beat", "--wait", "100s", "--", "true"], env=alone.environment)
    wait_until(lambda: any(request.path.startswith("/ping/") for request in alone.server.requests()))
    killed.kill()
    killed.wait()
    alone.server.clear_faults()

    assert alone.run("-H", "other", "--", "true").returncode == 0
    assert {ping.name for ping in alone.server.pings()} == {"beat", "other"}
    assert alone.waiting() == 0


def test_a_report_left_to_the_spool_loads_no_database(host: Host) -> None:
    """Without a daemon and without waiting: a file, and that is all."""
    ended = subprocess.run(
        [sys.executable, "-c", _TELL_MODULES, "--no-wait", "-H", "beat", "--", "true"],
        env=host.environment,
        capture_output=True,
        check=False,
    )

    imported = set((host.home / "modules").read_text().split())
    assert ended.returncode == 0
    assert host.report()["outcome"] == "succeeded"
    assert imported & {"sqlite3", "_sqlite3", "httpx", "asyncio", "dataclasses", "typing", "re"} == set()


def test_in_a_store_that_a_daemon_serves_only_our_own_run_is_waited_for(alone: Site) -> None:
    """What else waits there is the daemon's, and doesn't hold us."""
    alone.server.create_heartbeat("other")
    assert alone.run("-H", "other", "--no-wait", "--", "true").returncode == 0
    (alone.state / places.DAEMON_LOCK).touch()

    assert alone.run("-H", "beat", "--wait", "100s", "--", "true", timeout=50).returncode == 0

    assert [ping.name for ping in alone.server.pings()] == ["beat"]


def test_a_failure_needs_no_http_client(alone: Site) -> None:
    """Nothing waits, so nothing is sent: not even the library for it is loaded."""
    ended = subprocess.run(
        [sys.executable, "-c", _TELL_MODULES, "-H", "beat", "--", "false"],
        env=alone.environment,
        capture_output=True,
        check=False,
    )

    imported = set((alone.home / "modules").read_text().split())
    assert ended.returncode == 1
    assert "aura_agent.wrapper.delivery" in imported
    assert imported & {"httpx", "asyncio", "ssl"} == set()


def test_output_that_cannot_be_captured_goes_straight_through(host: Host) -> None:
    """Out of descriptors: the job runs, and one line says what it goes without."""
    ended = host.run(
        *("--no-wait", "-H", "beat", "--quiet", "--", "sh", "-c", "echo out; exit 2"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6)),
    )

    assert (ended.returncode, ended.stdout) == (2, b"out\n")
    assert len(ended.stderr.splitlines()) == 1
    assert b"captured" in ended.stderr


def test_a_grandchild_that_goes_on_printing_does_not_hold_us(host: Host) -> None:
    """What the job has left in the pipe is taken, and no more."""
    ended = host.run("--no-wait", "-H", "beat", "--attach", "output", "--", "sh", "-c", "yes & exit 0", timeout=50)

    assert ended.returncode == 0
    assert host.report()["outcome"] == "succeeded"


def test_a_non_blocking_stdout_loses_nothing(host: Host) -> None:
    """Whoever shares our output may have made it non-blocking; the job must not die of that."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    job = host.start("--no-wait", "-H", "beat", "--attach", "output", "--", "seq", "1", "100000", stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as reader:
        output = reader.read()
    job.communicate()

    assert job.returncode == 0
    assert output == b"".join(b"%d\n" % number for number in range(1, 100001))


def test_a_wrong_variable_is_said_and_the_job_runs(host: Host) -> None:
    """Only the command line can be used wrongly; an empty variable is none at all."""
    host.extra = {"AURA_WAIT": "soon", "AURA_HEARTBEAT": "", "AURA_PING_URL": "", "AURA_JOB": "", "AURA_CONFIG": ""}

    ended = host.run("--no-wait", "-H", "beat", "--", "sh", "-c", "exit 4")

    assert ended.returncode == 4
    assert len(ended.stderr.splitlines()) == 1
    assert b"AURA_WAIT" in ended.stderr


def test_a_job_on_the_command_line_stands_alone(alone: Site) -> None:
    """An inherited AURA_HEARTBEAT must not redirect -j; a job that isn't there lends no guess either."""
    alone.configure('[jobs.night]\nheartbeat = "beat"\ncommand = ["true"]\n')
    alone.extra |= {"AURA_CONFIG": str(alone.config), "AURA_HEARTBEAT": "parent"}

    found = alone.run("-j", "night", timeout=50)
    missing = alone.run("-j", "day", "--", "/bin/true")

    assert (found.returncode, found.stderr, missing.returncode) == (0, b"", 0)
    assert [ping.name for ping in alone.server.pings()] == ["beat"]
    assert len(missing.stderr.splitlines()) == 1
    assert b"without a ping" in missing.stderr


@pytest.mark.root
@needs(root)
def test_the_daemons_store_is_no_other_users(tmp_path: Path) -> None:
    """A readable config of root's names root's store: others keep their own."""
    home = {"HOME": "/home/someone"}

    assert places.own_state_dir(home, str(tmp_path), 0) == str(tmp_path)
    assert places.own_state_dir(home, str(tmp_path), 1000) == "/home/someone/.local/state/aura-agent"
    assert places.own_state_dir(home | {"XDG_STATE_HOME": "no/path"}, str(tmp_path), 1000).startswith("/home/someone")
    assert places.own_state_dir(home | {"AURA_STATE_DIR": "/said"}, str(tmp_path), 1000) == "/said"

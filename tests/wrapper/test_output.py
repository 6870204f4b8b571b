"""The job's output on its way through us: held back by --quiet, or kept for the ping's body by --attach output."""

import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from typing import IO

import pytest

from aura_agent.report import spool
from aura_agent.report.wire import MAX_LINE_BYTES
from tests.e2e.sites import Site
from tests.e2e.storm import is_waiting
from tests.machine import needs, tmpfs
from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, children, is_alive
from tests.wrapper.terminals import Terminal

_OUTPUT = (*QUEUE, "--attach", "output")
_MIB = 1 << 20
_HALF_A_PIPE_BYTES = 1 << 15  # pipe(7)


@behaviour(
    "`--quiet`", bare="prints", ours="prints only if the job fails: all of it, both streams apart, each in its order"
)
def test_quiet_shows_output_only_of_a_failure(host: Host) -> None:
    """Each stream to its own place, in its order, all of it."""
    script = "seq 1 300000; echo problem >&2; exit "

    good = host.run(*QUEUE, "--quiet", "--", "sh", "-c", script + "0")
    bad = host.run(*QUEUE, "--quiet", "--", "sh", "-c", script + "1")

    assert (good.stdout, good.stderr) == (b"", b"")
    assert bad.stderr == b"problem\n"
    assert bad.stdout == _numbers(300000)


@behaviour("`--quiet`, much output", bare="-", ours="on disk; 8 MiB of memory at the most")
def test_held_output_of_any_size_costs_8_mib_of_memory_at_the_most(host: Host) -> None:
    """A quarter of a gigabyte is held back on disk, both streams apart, and comes out whole."""
    script = "head -c 200M /dev/zero; head -c 50M /dev/zero >&2; touch written; read x; exit 1"
    silent = _peak_bytes(host, "read x; exit 1", lambda pid: bool(children(pid)))[0]

    peak, output, errors = _peak_bytes(host, script, lambda _: (host.home / "written").exists())

    assert peak - silent < 8 * _MIB
    assert output == hashlib.sha256(bytes(200 * _MIB)).digest()
    assert errors == hashlib.sha256(bytes(50 * _MIB)).digest()


def _peak_bytes(host: Host, script: str, reached: Callable[[int], bool]) -> tuple[int, bytes, bytes]:
    """Return what memory aura-run took up to the point that is *reached*, and the digests of both streams."""
    with (host.home / "out").open("wb") as output, (host.home / "err").open("wb") as errors:
        job = host.start(
            *(*QUEUE, "--quiet", "--", "sh", "-c", script), stdin=subprocess.PIPE, stdout=output, stderr=errors
        )
        wait_until(lambda: reached(job.pid), 60.0)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{job.pid}/status").read_text().splitlines())
        job.communicate()
    digests = []
    for name in ("out", "err"):
        with (host.home / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return int(status["VmHWM"].split()[0]) * 1024, digests[0], digests[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a quarter of a mebibyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@behaviour("`--quiet`, and the disk is full", bare="-", ours="output passes straight through")
@pytest.mark.root
@needs(tmpfs)
@pytest.mark.parametrize("status", [0, 1])
def test_when_the_disk_is_full_held_output_passes_straight_through(host: Host, small_disk: Path, status: int) -> None:
    """Whatever the job's end will be: nothing is lost, and nothing comes twice or in another order."""
    host.extra = {"TMPDIR": str(small_disk)}
    script = f"seq 1 500000; seq 1 5 >&2; exit {status}"

    ended = host.run(*QUEUE, "--quiet", "--", "sh", "-c", script)

    assert (ended.returncode, ended.stdout) == (status, _numbers(500000))
    assert ended.stderr == (_numbers(5) if status else b"")


def _has_ended_its_job(pid: int) -> bool:
    """Whether aura-run, whose job has begun, waits for nothing but a reader."""
    ours = (b"", _command_line(pid))  # of a zombie there is none; a helper that we have forked has ours
    return all(_command_line(child) in ours for child in children(pid)) and is_waiting(pid)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _unread_bytes(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return int.from_bytes(ioctl(pipe, FIONREAD, bytes(4)), sys.byteorder)


@behaviour(
    "`--quiet`, `--attach output`: a reader that doesn't read, and a signal, or the end of `--timeout`",
    bare="that ends it",
    ours="the same; what nobody has read is lost, the job's outcome and status aren't",
)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM])
@pytest.mark.parametrize(
    ("options", "status", "outcome"), [(["--quiet"], 3, "failed"), (["--attach", "output"], 0, "succeeded")]
)
def test_a_reader_that_does_not_read_holds_up_no_signal(
    host: Host, signum: int, options: list[str], status: int, outcome: str
) -> None:
    """The job is over, and what it has written waits for somebody to take it: that wait ends, and the run counts."""
    job = host.start(*QUEUE, *options, "--", "sh", "-c", f"seq 1 20000; echo >over; exit {status}")
    wait_until((host.home / "over").exists)
    wait_until(lambda: _has_ended_its_job(job.pid))

    job.send_signal(signum)

    assert job.wait(timeout=30) == status
    assert host.report()["outcome"] == outcome
    job.communicate()


def test_after_a_signal_that_ended_the_wait_for_a_reader_nothing_is_delivered_either(site: Site) -> None:
    """Who wants us gone doesn't want to wait for Aura: the ping is kept for whoever delivers next."""
    site.server.create_heartbeat("beat")
    site.server.set_fault("hang", target="ping")
    with subprocess.Popen(
        [AURA_RUN, "-H", "beat", "--wait", "50s", "--attach", "output", "--", "sh", "-c", "seq 1 20000; echo >over"],
        env=site.environment,
        cwd=site.home,
        stdout=subprocess.PIPE,
    ) as job:
        wait_until((site.home / "over").exists)
        wait_until(lambda: _has_ended_its_job(job.pid))
        job.terminate()

        assert job.wait(timeout=30) == 0

    assert site.server.pings() == []
    assert site.waiting() == 1


def test_one_signal_ends_a_job_and_the_wait_for_its_reader(host: Host) -> None:
    """The job died of it, and nobody takes what it wrote: who sent it needn't send a second."""
    job = host.start(*_OUTPUT, "--", "yes")
    wait_until(lambda: _unread_bytes(job.stdout) > _HALF_A_PIPE_BYTES)

    job.terminate()

    assert job.wait(timeout=30) == -signal.SIGTERM
    assert host.report()["outcome"] == "killed"
    job.communicate()


def test_a_reader_that_reads_gets_all_of_a_job_that_was_told_to_end(host: Host) -> None:
    """However much it had to say of that, and held back."""
    job = host.start(
        *QUEUE, "--quiet", "--", "bash", "-c", "trap 'seq 1 300000; exit 4' TERM; echo >set; sleep 1000 & wait"
    )
    wait_until((host.home / "set").exists)

    job.terminate()
    output, _ = job.communicate(timeout=60)

    assert (job.returncode, output) == (4, _numbers(300000))


def test_held_output_leaves_no_file(host: Host) -> None:
    """Also if we are killed: the file never had a name."""
    host.extra = {"TMPDIR": str(host.home / "tmp")}
    (host.home / "tmp").mkdir()
    job = host.start(
        *(*QUEUE, "--quiet", "--", "sh", "-c", "seq 1 500000; touch written; read x"), stdin=subprocess.PIPE
    )
    wait_until((host.home / "written").exists)

    files = list((host.home / "tmp").iterdir())
    job.kill()
    job.communicate()

    assert files == list((host.home / "tmp").iterdir()) == []


def test_attached_output_passes_through_and_is_cut(host: Host) -> None:
    """The caller gets every byte; the ping's body is the tail, cut at a character."""
    script = "printf 'ä%.0s' $(seq 1 10000); printf '\\377end'"

    ended = host.run(*_OUTPUT, "--tail-bytes", "101", "--", "sh", "-c", script)

    assert ended.stdout == "ä".encode() * 10000 + b"\xffend"
    body = host.report()["body"]
    assert body.endswith("ä\ufffdend")
    assert "left out" in body.splitlines()[0]


def test_a_summary_is_one_line_of_status_duration_and_attempt(host: Host) -> None:
    """Of the attempt that counts; the output stays here."""
    script = "echo much; test -e again && exit 3; echo >again; exit 1"

    options = ("--attach", "summary", "--success-codes", "3", "--retries", "2", "--retry-delay", "0s")
    ended = host.run(*QUEUE, *options, "--", "sh", "-c", script)

    assert (ended.returncode, ended.stdout) == (3, b"much\nmuch\n")
    assert re.fullmatch(r"exit 3 after [0-9.]+m?s, attempt 2\n", host.report()["body"])


@behaviour("`--attach output`: stdout and stderr", bare="two streams", ours="two streams")
def test_attached_output_keeps_the_two_streams_apart(host: Host) -> None:
    """The caller's stdout and stderr get their own; the body has both."""
    ended = host.run(*_OUTPUT, "--", "sh", "-c", "echo good; echo bad >&2")

    assert (ended.stdout, ended.stderr) == (b"good\n", b"bad\n")
    assert sorted(host.report()["body"].splitlines()) == ["bad", "good"]


@behaviour("`--attach output`: a prompt without a newline", bare="is there at once")
def test_attached_output_is_unbuffered(host: Host) -> None:
    """A prompt without a newline is there while the job still waits for the answer."""
    job = host.start(
        *(*_OUTPUT, "--", "sh", "-c", "printf 'name? '; read x; echo hello $x"), stdin=subprocess.PIPE, bufsize=0
    )
    assert job.stdout is not None

    prompt = job.stdout.read(6)
    rest, _ = job.communicate(b"you\n")

    assert (prompt, rest) == (b"name? ", b"hello you\n")


@behaviour(
    "`--attach output`: any bytes, much of them, to a pipe, a file or a terminal",
    bare="arrive",
    ours="the same bytes; the ping gets their end, cut at a character, and a line that tells how many are missing",
)
@pytest.mark.parametrize("target", ["pipe", "file", "append", "terminal"])
def test_much_attached_output_arrives_whole_wherever_it_goes(host: Host, target: str) -> None:
    """A job that is faster than its reader: every byte once, in order, and the body is the end of it."""
    count = 200_000
    command = (*_OUTPUT, "--tail-bytes", "20", "--", "seq", "1", str(count))
    if target == "pipe":
        output = host.run(*command).stdout
    elif target == "terminal":
        output = _through_a_terminal(host, command)
    else:
        with (host.home / "out").open("ab" if target == "append" else "wb") as file:
            host.run(*command, capture_output=False, stdout=file, stderr=file)
        output = (host.home / "out").read_bytes()

    assert output == _numbers(count)
    body = host.report()["body"].splitlines(keepends=True)
    assert body[0] == f"[... {len(_numbers(count)) - 20} bytes before this are left out]\n"
    assert "".join(body[1:]) == _numbers(count)[-20:].decode()


@behaviour("`--quiet`, `--attach output` at a terminal", bare="its stdout is the terminal", ours="its stdout is a pipe")
@pytest.mark.parametrize("options", [["--attach", "output"], ["--quiet"]])
def test_captured_output_goes_through_a_pipe(host: Host, options: list[str]) -> None:
    """What is asked for with these options has that price: a job may leave out its colours."""
    with Terminal([AURA_RUN, *QUEUE, *options, "--", "sh", "-c", "test -t 1"], host.environment) as terminal:
        assert terminal.wait() == 1


def _through_a_terminal(host: Host, command: tuple[str, ...]) -> bytes:
    controller, terminal = pty.openpty()
    job = host.start(*command, stdout=terminal)
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(controller, 65536):
            output += chunk
    except OSError:  # EIO: how a terminal says end of file
        pass
    os.close(controller)
    job.communicate()
    return output.replace(b"\r\n", b"\n")


_REDACT = '[attach]\nredact = ["key=[0-9]+"]'


def _leak(site: Site, *arguments: str) -> str:
    """Let a job print a secret, and return the body of the one ping that arrived."""
    ended = site.run(*arguments)
    assert (ended.returncode, ended.stdout) == (0, b"the key=4711 is here\n"), ended.stderr
    wait_until(lambda: site.server.pings("beat"))
    (ping,) = site.server.pings("beat")
    return ping.body


_PRINT = ("printf", "the key=%s is here\\n", "4711")


@behaviour("`[attach] redact`", bare="-", ours="what it matches stays on the host; the caller sees it")
@pytest.mark.parametrize("way", ["alone", "daemon", "job", "matched"])
def test_what_redact_matches_never_leaves_the_host(site: Site, way: str) -> None:
    """With and without a daemon, named or not: the caller sees the secret, Aura doesn't."""
    site.server.create_heartbeat("beat")
    command = ", ".join(f"'{word}'" for word in _PRINT)
    site.configure(f'[jobs.beat]\nattach = "output"\nretries = 1\ncommand = [{command}]', top=_REDACT)
    if way == "daemon":
        site.start()
        site.extra["AURA_SOCKET"] = f"{site.home}/run/agent.sock"
        site.extra["AURA_CONFIG"] = ""
    arguments = {"job": ("-j", "beat"), "matched": ("--attach", "output", "--", *_PRINT)}

    body = _leak(site, *arguments.get(way, ("-H", "beat", "--attach", "output", "--", *_PRINT)))

    assert body == "the [redacted] is here\n"


def test_the_daemons_own_jobs_and_reports_are_redacted_too(site: Site) -> None:
    """Its own job's output, and the body of a wrapper that knew nothing of the patterns."""
    for name in ("beat", "other"):
        site.server.create_heartbeat(name)
    own = {"AURA_CONFIG": "", "AURA_STATE_DIR": f"{site.home}/own", "AURA_SOCKET": f"{site.home}/run/agent.sock"}
    environment = site.environment | own
    site.run("-H", "beat", "--no-wait", "--attach", "output", "--", *_PRINT, env=environment)
    site.configure('[jobs.other]\nattach = "output"\nshell = "echo key=1"\nschedule = "@yearly"', top=_REDACT)
    site.start()
    site.run("-H", "third", "--", "true", env=environment)
    site.agent("trigger", "other")

    wait_until(lambda: site.server.pings("beat") and site.server.pings("other"))
    assert site.server.pings("beat")[0].body == "the [redacted] is here\n"
    assert site.server.pings("other")[0].body == "[redacted]\n"


def test_a_config_that_cannot_be_read_keeps_the_output_here(site: Site) -> None:
    """Nobody knows what must not leave: the ping goes without it, and says so."""
    site.server.create_heartbeat("beat")
    site.extra |= {"AURA_API_URL": site.server.base_url, "AURA_TOKEN": site.server.token}
    site.extra |= {"AURA_STATE_DIR": str(site.state), "AURA_SOCKET": f"{site.home}/none"}
    site.config.write_text("[attach\n")

    ended = site.run("-H", "beat", "--attach", "output", "--", *_PRINT)

    assert len(ended.stderr.splitlines()) == 1
    (ping,) = site.server.pings("beat")
    assert "4711" not in ping.body
    assert "left out" in ping.body


def test_a_body_that_is_too_large_for_aura_is_left_out(site: Site) -> None:
    """413: the ping arrives without it, in the same run."""
    site.server.create_heartbeat("beat")
    site.server.set_fault("status", target="ping", status=413, times=1)

    ended = site.run("-H", "beat", "--attach", "output", "--", "echo", "much")

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert [ping.body for ping in site.server.pings("beat") if ping.accepted] == [""]


@behaviour("`--attach output` and `… | head -1`", bare="SIGPIPE ends it")
def test_the_end_of_the_reader_reaches_a_job_whose_output_is_attached(host: Host) -> None:
    """SIGPIPE kills it, as it would without us."""
    job = host.start(*_OUTPUT, "--", "yes")
    assert job.stdout is not None
    job.stdout.read(5000)
    job.stdout.close()
    job.communicate(timeout=30)

    assert job.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("options", [("--quiet",), ("--attach", "output"), ()])
def test_job_of_a_killed_wrapper_gets_sigpipe_only_if_captured(host: Host, options: tuple[str, ...]) -> None:
    """Nobody reads its pipes any more; without these options it has our own descriptors, and goes on."""
    script = "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo more; touch on"
    job = host.start(*QUEUE, *options, "--", "sh", "-c", script)
    wait_until(lambda: (host.home / "pid").exists() and (host.home / "pid").read_text(), what="the job")
    pid = int((host.home / "pid").read_text())
    job.kill()
    job.wait()
    (host.home / "go").touch()
    wait_until(lambda: not is_alive(pid), what="the job's end")
    job.communicate()

    assert (host.home / "on").exists() == (not options)


def _numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, count + 1))


def test_output_that_is_no_text_never_makes_a_report_too_long(host: Host) -> None:
    """Each such byte takes nine in a report's line: without the output the ping is still taken by every reader."""
    job = "import sys; sys.stdout.buffer.write(b'\\xff' * 300_000)"
    options = ("--no-wait", "--attach", "output", "--tail-bytes", "200000", "-H", "beat", "--")
    run = host.run(*options, sys.executable, "-c", job)
    (report,) = (host.state / "spool").iterdir()
    record = spool.read(str(report), time.time_ns())

    assert run.returncode == 0
    assert record is not None
    assert len(record) <= MAX_LINE_BYTES
    assert b"outcome=succeeded" in record
    assert b"left%20out" in record

"""The log's writer on real pipes, files and terminals that don't take what it writes."""

import fcntl
import gc
import os
import pty
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aura_agent.telemetry.log_writer import LogStream, LogWriter
from tests.waiting import wait_until

F_SETPIPE_SZ = 1031


@pytest.fixture
def full_pipe() -> "tuple[int, int, bytes]":
    """Return both ends of a full pipe of one page, and what is in it."""
    read, write = os.pipe()
    size = fcntl.fcntl(write, F_SETPIPE_SZ, 1)
    filling = b"x" * (size - 1) + b"\n"
    assert os.write(write, filling) == size
    return read, write, filling


def _drain(read: int, write: int, writer: LogWriter) -> bytes:
    """Read all that the writer still has to say."""
    got = bytearray()

    def read_on() -> None:
        while chunk := os.read(read, 65536):
            got.extend(chunk)
        os.close(read)

    reading = threading.Thread(target=read_on)
    reading.start()
    assert writer.flush(60)
    os.close(write)
    reading.join()
    return bytes(got)


def test_lines_keep_their_order_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LogWriter(file.fileno())
        for number in range(5000):
            writer.write_line(f"line {number}")
        assert writer.flush(60)

    assert path.read_text().splitlines() == [f"line {number}" for number in range(5000)]
    assert (writer.dropped, writer.problem) == (0, "")


def test_full_pipe_costs_the_oldest_lines_and_says_so_once(full_pipe: tuple[int, int, bytes]) -> None:
    """What was being written comes first, then how many are missing, then the newest, in their order."""
    read, write, filling = full_pipe
    writer = LogWriter(write, max_lines=10)
    writer.write_line("first")
    wait_until(lambda: not writer._lines)  # the thread has it, and is blocked
    for number in range(100):
        writer.write_line(f"line {number}")
    assert (writer.dropped, writer.flush(0.01)) == (90, False)
    assert "isn't read" in writer.problem

    said = _drain(read, write, writer).removeprefix(filling).decode().splitlines()

    assert said == ["first", "90 log lines were dropped", *(f"line {number}" for number in range(90, 100))]
    assert (writer.dropped, writer.problem) == (90, "")


def test_queue_is_bounded_in_bytes_and_one_huge_line_is_dropped(full_pipe: tuple[int, int, bytes]) -> None:
    read, write, filling = full_pipe
    writer = LogWriter(write, max_bytes=1000)
    for _ in range(100):
        writer.write_line("y" * 99)
    assert writer._bytes <= 1000
    writer.write_line("z" * 2000)
    writer.write_line("last")

    said = _drain(read, write, writer).removeprefix(filling).decode().splitlines()

    assert said[-1] == "last"
    assert "z" not in "".join(said)


def test_pipe_that_another_process_made_non_blocking_loses_nothing(full_pipe: tuple[int, int, bytes]) -> None:
    """O_NONBLOCK belongs to the open file description: who shares it may have set it."""
    read, write, filling = full_pipe
    os.set_blocking(write, False)
    writer = LogWriter(write)
    lines = ["a" * 10_000, "b", "c" * 5000]
    for line in lines:
        writer.write_line(line)

    said = _drain(read, write, writer).removeprefix(filling).decode().splitlines()

    assert (said, writer.dropped) == (lines, 0)


def test_error_is_counted_and_said_when_writing_works_again(tmp_path: Path) -> None:
    """A FIFO whose reader leaves and comes back."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(path, os.O_WRONLY)
    os.close(read)
    writer = LogWriter(write)
    for _ in range(3):
        writer.write_line("nobody reads this")
        assert writer.flush(60)
    assert "Broken pipe" in writer.problem

    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(read, True)
    writer.write_line("back")

    assert _drain(read, write, writer).decode().splitlines() == ["3 log lines were dropped", "back"]
    assert (writer.dropped, writer.problem) == (3, "")


def test_line_cut_off_by_a_full_disk_gets_its_end_first(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write as a full disk does."""
    path = tmp_path / "log"
    script = f"""
import os, resource, signal
from aura_agent.telemetry.log_writer import LogWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = LogWriter(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
writer.write_line("12345")
writer.write_line("this one is cut")
assert writer.flush(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write_line("whole")
assert writer.flush(60)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    assert path.read_text().splitlines() == ["12345", "this", "1 log lines were dropped", "whole"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_dead_terminal_costs_log_lines_only() -> None:
    controller, terminal = pty.openpty()
    os.close(controller)
    writer = LogWriter(terminal)
    writer.write_line("nobody sees this")

    assert writer.flush(60)
    os.close(terminal)
    assert (writer.dropped, "Input/output error" in writer.problem) == (1, True)


def test_destructor_that_logs_during_a_write_does_not_deadlock(tmp_path: Path) -> None:
    """The garbage collector runs destructors wherever memory is allocated, so also in the middle of a write."""

    class Noisy:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            writer.write_line("from a destructor")

    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(300):
                Noisy()
                writer.write_line("from outside")
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert writer.flush(60)

    lines = (tmp_path / "log").read_text().splitlines()
    assert (lines.count("from outside"), lines.count("from a destructor")) == (300, 300)


def test_stream_passes_whole_lines_without_secrets(tmp_path: Path) -> None:
    """``print`` hands over a line in pieces."""
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        stream = LogStream(writer, lambda text: text.replace("hunter2", "[redacted]"), is_terminal=False)
        print("the password is", "hunter2", file=stream)
        print("two\nlines", end="", file=stream, flush=True)
        assert writer.flush(60)

    assert (tmp_path / "log").read_text().splitlines() == ["the password is [redacted]", "two", "lines"]


def test_process_ends_though_its_log_is_stuck(full_pipe: tuple[int, int, bytes]) -> None:
    """Crashes of threads, ignored exceptions, warnings and prints: none waits for the reader, not even at exit."""
    read, write, _ = full_pipe
    script = """
import atexit, logging, sys, threading, warnings
from aura_agent.telemetry.logging import configure_logging, open_stderr, take_stderr
from aura_agent.telemetry.redact import Redactor
redactor, writer = Redactor(), open_stderr()
configure_logging(redactor, writer)
take_stderr(writer, redactor)
atexit.register(writer.flush, 0.1)
class Odd:
    def __del__(self): raise ValueError("ignored")
Odd()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
warnings.warn("a warning")
logging.getLogger("uvicorn").error("a library")
for _ in range(20_000): print("a line", file=sys.stderr)
raise ValueError("the end")
"""
    child = subprocess.run([sys.executable, "-c", script], stderr=write, timeout=60, check=False)
    os.close(write)
    os.close(read)

    assert child.returncode == 1

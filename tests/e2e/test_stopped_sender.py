"""A real process that is stopped between its claim and its request."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import pytest

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.waiting import wait_until
from tests.wrapper.runs import children

_SYN_SENT = "02"


@contextmanager
def _full_backlog() -> Iterator[socket.socket]:
    """A listener that lets nobody in: its backlog is full, and the next connection waits for an answer to its SYN."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with closing(socket.create_connection(listener.getsockname())):
            yield listener


def _is_connecting(port: int) -> bool:
    """Whether somebody waits for an answer to a SYN there, which retransmission will bring."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return any(row[2].endswith(f":{port:04X}") and row[3] == _SYN_SENT for row in rows)


def _send_all(pids: Iterable[int], signum: int) -> None:
    """Signal all of them, as ``docker pause`` and a frozen cgroup hold all of a service."""
    for pid in pids:
        os.kill(pid, signum)


@pytest.mark.parametrize("command", ["aura-run", "queue flush"])
def test_a_process_that_was_stopped_while_it_connected_sends_nothing_expired(site: Site, command: str) -> None:
    """SIGSTOP while connecting, SIGCONT once the success has expired: the server accepts, and gets no request."""
    site.configure('[jobs.short]\nheartbeat = "short"\ncommand = ["true"]\nmax_age = "8s"\n')
    with _full_backlog() as listener:
        port = listener.getsockname()[1]
        (site.home / "url").write_text(f"http://127.0.0.1:{port}/ping/short\n")
        wrapped = ["-j", "short", "--ping-url", f"file:{site.home}/url", "--", "true"]
        arguments = [AURA_RUN, *wrapped]
        if command == "queue flush":
            assert site.run("--no-wait", *wrapped).returncode == 0
            arguments = [AURA_AGENT, "queue", "flush"]
        process = subprocess.Popen(
            arguments, env=site.environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: _is_connecting(port), what="connecting")
            senders = (process.pid, *children(process.pid))  # aura-run delivers in a process of its own
            _send_all(senders, signal.SIGSTOP)
            expired_s = time.monotonic() + 8.5
            first, _ = listener.accept()  # room for the SYN that is sent again
            second, _ = listener.accept()
            wait_until(lambda: time.monotonic() > expired_s, what="expiry")
            _send_all(senders, signal.SIGCONT)
            assert second.recv(1) == b""
            first.close()
            second.close()
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()

    (row,) = site.queue("--all")
    assert (row["state"] in ("expired", "waiting"), row["tries"]) == (True, 0)

"""sd_notify over real datagram sockets."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_agent.process.environment import SUPERVISION
from aura_agent.systemd import VARIABLES, Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens as systemd does, and what NOTIFY_SOCKET says for it."""
    address = (
        str(tmp_path / "notify") if request.param == "path" else f"@aura-agent-test-{os.getpid()}-{os.urandom(8).hex()}"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address if request.param == "path" else "\0" + address[1:])
        listener.settimeout(20)
        yield listener, address


def notifier(address: str, **more: str) -> Notifier:
    return Notifier.from_environ({"NOTIFY_SOCKET": address, **more})


def test_each_message_is_one_datagram(supervisor: tuple[socket.socket, str]) -> None:
    """The supervisor receives the documented fields, in order."""
    listener, address = supervisor
    notify = notifier(address)

    assert notify.enabled
    assert all([notify.ready("3 jobs"), notify.status("idle\nREADY=0"), notify.watchdog(), notify.stopping()])

    received = [listener.recv(4096).decode() for _ in range(4)]
    assert received == ["READY=1\nSTATUS=3 jobs", "STATUS=idle READY=0", "WATCHDOG=1", "STOPPING=1"]


def test_reload_carries_the_monotonic_clock(supervisor: tuple[socket.socket, str]) -> None:
    """Type=notify-reload wants MONOTONIC_USEC of the moment at which the reload began."""
    listener, address = supervisor
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    notifier(address).reloading()

    first, second = listener.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    stamp_us = int(second.removeprefix("MONOTONIC_USEC="))
    assert before_us <= stamp_us <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_full_queue_drops_what_may_be_dropped(supervisor: tuple[socket.socket, str]) -> None:
    """A supervisor that reads nothing can't block the caller: feeding the watchdog fails and says so."""
    notify = notifier(supervisor[1])

    assert not all(notify.watchdog() for _ in range(100_000))


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/", "@"])
def test_without_a_usable_address_nothing_happens(address: str) -> None:
    """Under cron, in a container or beside a VM's supervisor the calls are harmless and succeed."""
    notify = notifier(address, WATCHDOG_USEC="1000000")

    assert not notify.enabled
    assert notify.watchdog_s is None
    assert all([notify.ready(), notify.reloading(), notify.stopping(), notify.status("x"), notify.watchdog()])
    assert not Notifier.from_environ({}).enabled


def test_a_supervisor_that_is_gone_is_reported_not_raised(tmp_path: Path) -> None:
    """A socket that nobody listens on costs nothing but the answer False."""
    assert not notifier(str(tmp_path / "gone")).ready()
    assert not notifier("/" + "x" * 500).ready()


def test_status_that_cannot_be_encoded_still_goes_out(supervisor: tuple[socket.socket, str]) -> None:
    """A job's name with broken characters doesn't cost the READY."""
    listener, address = supervisor

    assert notifier(address).ready("job \udcff")
    assert listener.recv(4096).startswith(b"READY=1\nSTATUS=job ")


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_watchdog_is_for_the_process_it_names(variables: dict[str, str], watchdog_s: float | None) -> None:
    """A time-out counts if it is a positive number and meant for this pid."""
    notify = Notifier.from_environ({"NOTIFY_SOCKET": "/run/x", **variables}, pid=77)

    assert notify.watchdog_s == watchdog_s


def test_no_job_inherits_the_supervisors_variables() -> None:
    """What is named here as the supervisor's is held back from jobs."""
    assert VARIABLES <= SUPERVISION

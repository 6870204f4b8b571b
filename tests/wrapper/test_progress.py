"""On a terminal aura-run says what becomes of the run, each time; elsewhere it says nothing of it."""

import socket

import pytest

from tests.e2e.sites import AURA_RUN, Site
from tests.wrapper.runs import Host
from tests.wrapper.terminals import Terminal


def _said(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run aura-run on a terminal; return its status and all that it printed there."""
    with Terminal([AURA_RUN, *arguments, "--", "sh", "-c", "exit ${STATUS:-0}"], environment) as terminal:
        said = terminal.read_all()
        return terminal.wait(), said


def test_delivery_is_said_on_a_terminal_and_nowhere_else(site: Site) -> None:
    """Each time."""
    site.server.create_heartbeat("beat")
    quiet = site.run("-H", "beat", "--", "true")
    twice = [_said(site.environment, "-H", "beat") for _ in range(2)]

    assert (quiet.returncode, quiet.stderr) == (0, b"")
    assert twice == [(0, "aura-run: delivered to beat\r\n")] * 2


def test_report_to_the_daemon_is_said_on_a_terminal(site: Site) -> None:
    site.server.create_heartbeat("beat")
    site.start()

    assert _said(site.environment, "-H", "beat") == (0, "aura-run: reported to the daemon\r\n")


@pytest.mark.parametrize(
    ("status", "options", "words"),
    [
        ("3", ["--no-wait"], "not pinged: exit 3"),
        ("0", ["--no-wait"], "queued, will be sent later"),
        ("0", ["--wait", "5s"], "queued, will be retried"),
    ],
)
def test_ping_that_is_not_sent_is_explained_on_a_terminal(
    host: Host, status: str, options: list[str], words: str
) -> None:
    """Repeated causes too: once a day is for cron."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # nobody listens there afterwards
    host.extra = {"STATUS": status, "AURA_PING_URL": f"http://127.0.0.1:{port}/ping/x"}

    for _ in range(2):
        code, said = _said(host.environment, *options)
        assert (code, words in said) == (int(status), True), said


def test_heartbeat_that_is_missing_is_no_silence_of_aura(site: Site) -> None:
    status, said = _said(site.environment, "-H", "nope")

    first, second = said.splitlines()
    assert status == 0
    assert first.startswith("aura-run: ping for nope waits: no heartbeat named 'nope'")
    assert second == "aura-run: queued, will be retried once an hour"


def test_repeated_causes_are_repeated_on_a_terminal(host: Host) -> None:
    """No heartbeat can be guessed for a shell."""
    host.extra = {}
    assert all("name one with -H" in _said(host.environment)[1] for _ in range(2))


def test_long_delivery_is_explained_and_left_by_ctrl_c(host: Host) -> None:
    """Aura accepts and doesn't answer; the status is the job's."""
    with socket.create_server(("127.0.0.1", 0)) as aura:
        url = f"http://127.0.0.1:{aura.getsockname()[1]}/ping/x"
        environment = host.environment | {"AURA_PING_URL": url}
        with Terminal([AURA_RUN, "--wait", "60s", "--", "sh", "-c", "exit 0"], environment) as terminal:
            terminal.until("delivering the ping to its URL (Ctrl-C leaves it to the queue)")
            terminal.type("\x03")
            status = terminal.wait()

    assert status == 0

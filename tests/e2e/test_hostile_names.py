"""Names that come from Aura, from crontabs and from servers' answers leave no mark on a terminal."""

import json
from pathlib import Path

import pytest

from tests.e2e.sites import AURA_AGENT, AURA_RUN, Site
from tests.waiting import wait_until
from tests.wrapper.terminals import Terminal

# An escape sequence, one in C1, a reversed direction, rich's markup, a line of its own, and a carriage return.
NAME = "evil\x1b]0;title\x07\x9b31m\u202ebackward[/x][bold]\u2066\rok"


def _on_terminal(site: Site, *command: str) -> str:
    with Terminal(list(command), site.environment | {"TERM": "xterm", "NO_COLOR": "1"}) as terminal:
        said = terminal.read_all()
        terminal.wait()
    return said


def _harmless(said: str) -> bool:
    for sequence in ("\x1b]", "\x9b", "\u202e", "\u2066", "\x07"):
        assert sequence not in said, ascii(said)
    return "evil" in said and "Traceback" not in said and "MarkupError" not in said


@pytest.fixture
def named(site: Site) -> Site:
    site.server.create_heartbeat(NAME)
    site.configure(f'[jobs.tick]\nheartbeat = {json.dumps(NAME)}\nschedule = "@yearly"\ncommand = ["true"]\n')
    return site


def test_commands_show_a_heartbeats_name_without_what_it_hides(named: Site) -> None:
    named.start()
    assert named.agent("trigger", "tick").returncode == 0
    wait_until(lambda: named.rows("SELECT 1 FROM entries WHERE state = 'delivered'"), what="a ping")

    for command in (
        ["status"],
        ["status", "--json"],
        ["history", "tick", "--json"],
        ["queue", "list", "--all"],
        ["queue", "list", "--all", "--json"],
        ["queue", "show", "1"],
        ["api", "heartbeats", "list"],
        ["api", "heartbeats", "list", "--json"],
        ["sync", "--dry-run"],
        ["check", "--online"],
    ):
        said = _on_terminal(named, AURA_AGENT, *command)
        assert _harmless(said) or command[0] in ("sync", "check", "history"), (command, said)
        if "--json" in command:
            json.loads(said)


def test_delivery_shows_it_without_what_it_hides(named: Site) -> None:
    """aura-run's lines, and the bar of queue flush, whose markup it doesn't end."""
    named.server.set_fault("status", target="ping", status=410)
    said = _on_terminal(named, AURA_RUN, "-H", NAME, "--", "true")
    assert _harmless(said), said
    named.server.clear_faults()

    flushed = _on_terminal(named, AURA_AGENT, "queue", "flush")

    _harmless(flushed)
    wait_until(lambda: named.server.pings(NAME), what="a ping")


def test_json_holds_the_name_as_it_is(named: Site) -> None:
    """Escaped, and so the same for programs."""
    (row,) = json.loads(named.agent("api", "heartbeats", "list", "--json").stdout)

    assert row["name"] == NAME


def test_a_crontabs_lines_are_shown_without_what_they_hide(site: Site, tmp_path: Path) -> None:
    """A diff that root reads before agreeing to it."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/crontab").write_text(f"0 3 * * *\troot\t/bin/true \u202e{NAME!s}\n".replace("\r", ""))

    said = _on_terminal(site, AURA_AGENT, "discover", "--root", str(root))

    for sequence in ("\x1b]", "\x9b", "\u202e", "\u2066", "\x07"):
        assert sequence not in said, ascii(said)

"""``aura-agent api``: what it prints, what it reads from options and files, and what it asks before it deletes."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aura_agent.cli.api import api
from aura_agent.devserver.threaded import ThreadedDevServer
from tests.cli.running import Ran, aura_agent
from tests.waiting import wait_until

_PROCESS = [sys.executable, "-c", "from aura_agent.cli.main import main; main()", "api"]
_COMMANDS = [(group.name, verb) for group in api.commands.values() for verb in getattr(group, "commands", {})]


class Host:
    """A host without a config file, where the environment says everything."""

    def __init__(self, home: Path, server: ThreadedDevServer) -> None:
        self.home, self.server = home, server
        config = home / "config.toml"
        config.write_text("")
        self.environment = {
            "AURA_CONFIG": str(config),
            "AURA_STATE_DIR": str(home / "state"),
            "AURA_API_URL": server.base_url,
            "AURA_TOKEN": server.token,
            "PATH": os.environ["PATH"],
            "TZ": "UTC",
        }

    def api(self, *arguments: str, stdin: str = "") -> Ran:
        ran = aura_agent("api", *arguments, environment=self.environment, stdin=stdin.encode())
        assert self.environment.get("AURA_TOKEN", "no token") not in ran.stdout + ran.stderr
        return ran

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """Return what a command that succeeds prints with --json."""
        ran = self.api(*arguments, "--json", stdin=stdin)
        assert (ran.status, ran.stderr) == (0, "")
        return json.loads(ran.stdout)

    def names(self) -> list[str]:
        return sorted(row["name"] for row in self.json("heartbeats", "list", "--all"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ThreadedDevServer() as server:
        yield Host(tmp_path, server)


def usage_error(ran: Ran) -> str:
    """Return the one line of a command that was used wrongly."""
    assert (ran.status, ran.stdout) == (2, "")
    [line] = ran.stderr.splitlines()
    assert line.startswith("aura-agent: ")
    assert "--help" in line
    return line


def failure(ran: Ran) -> str:
    """Return the one line of a command that failed."""
    assert (ran.status, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert line.startswith("aura-agent: ")
    return line


@pytest.mark.parametrize(("resource", "verb"), _COMMANDS, ids=" ".join)
def test_each_command_has_help_with_an_example(host: Host, resource: str, verb: str) -> None:
    """The example is one line that begins as the command does, and --json is among the options."""
    ran = host.api(resource, verb, "--help")

    assert (ran.status, ran.stderr) == (0, "")
    assert re.search(rf"^  Example: aura-agent api {resource} {verb}\b", ran.stdout, re.MULTILINE)
    assert "--json" in ran.stdout


def test_the_whole_api_has_commands() -> None:
    """Every row of the reference's table of endpoints can be reached."""
    verbs: dict[str, set[str]] = {}
    for resource, verb in _COMMANDS:
        verbs.setdefault(resource or "", set()).add(verb)

    assert verbs == {
        "monitors": {"list", "create", "get", "update", "delete", "checks"},
        "checks": {"list"},
        "heartbeats": {"list", "create", "get", "update", "delete", "ping-url"},
        "incidents": {"list", "get", "resolve"},
        "integrations": {"list"},
    }


def test_json_has_the_names_of_the_api_and_every_field(host: Host) -> None:
    """An object's fields are always all there, null where there is nothing; lengths are seconds, instants RFC 3339."""
    host.server.create_heartbeat("nightly", 86400, 600)

    [row] = host.json("heartbeats", "list")
    one = host.json("heartbeats", "get", row["id"])

    assert one == row
    created_at = row.pop("created_at")
    assert datetime.fromisoformat(created_at).tzinfo is not None
    assert row.pop("updated_at") == created_at
    assert row == {
        "id": host.server.heartbeat("nightly").id,
        "name": "nightly",
        "status": "pending",
        "expected_interval": 86400,
        "grace_period": 600,
        "team_id": None,
        "last_ping_at": None,
    }


def test_tables_are_for_people(host: Host) -> None:
    """Lengths as people write them; an empty listing says so, and as JSON is an empty array."""
    assert host.api("heartbeats", "list").stdout == "no heartbeats\n"
    assert host.json("heartbeats", "list") == []
    host.server.create_heartbeat("nightly", 86400, 5400)

    listed = host.api("heartbeats", "list").stdout
    one = host.api("heartbeats", "get", host.server.heartbeat("nightly").id).stdout

    assert re.search(r"nightly +pending +1d +1h30m", listed)
    assert re.search(r"expected_interval +1d", one)


@pytest.mark.parametrize(
    ("options", "rows", "requests"),
    [
        ([], 50, ["51"]),
        (["--limit", "3"], 3, ["3"]),
        (["--limit", "101"], 101, ["100", "100"]),
        (["--all"], 120, ["100", "100"]),
    ],
)
def test_a_listing_asks_for_no_more_than_it_shows(
    host: Host, options: list[str], rows: int, requests: list[str]
) -> None:
    """Fifty rows by default, with a hint on stderr; --limit counts rows in all; --all walks every page."""
    for number in range(120):
        host.server.create_heartbeat(f"job-{number}")
    host.server.clear_received()

    ran = host.api("heartbeats", "list", "--json", *options)

    assert (ran.status, len(json.loads(ran.stdout))) == (0, rows)
    asked = [re.findall(r"limit=(\d+)", request.query) for request in host.server.requests()]
    assert asked == [[limit] for limit in requests]
    assert ran.stderr == ("" if options else "aura-agent: these are the first 50; --limit N or --all shows more\n")


def test_exactly_a_page_is_all_there_is(host: Host) -> None:
    """With fifty rows there are no more than the fifty shown, and no hint."""
    for number in range(50):
        host.server.create_heartbeat(f"job-{number}")

    assert len(host.json("heartbeats", "list")) == 50


def test_create_from_options(host: Host) -> None:
    """Lengths with units; what isn't given is the service's choice; the answer is the new object."""
    made = host.json("heartbeats", "create", "--name", "nightly", "--expected-interval", "1d")

    assert (made["name"], made["expected_interval"], made["grace_period"]) == ("nightly", 86400, 300)
    assert host.names() == ["nightly"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("heartbeat.json", '{"name": "nightly", "expected_interval": 86400}'),
        ("heartbeat.toml", 'name = "nightly"\nexpected_interval = 86400\n'),
        ("json-without-extension", '\ufeff {"name": "nightly", "expected_interval": 86400}'),
        ("toml-without-extension", '# a heartbeat\nname = "nightly"\nexpected_interval = 86400.0\n'),
        ("-", '{"name": "nightly", "expected_interval": 86400}'),
        ("-", 'name = "nightly"\nexpected_interval = 86400\n'),
    ],
)
def test_create_from_a_file_where_options_win(host: Host, name: str, content: str) -> None:
    """JSON or TOML, by extension or by content, from a file or stdin; fields are named as in the API."""
    path = "-" if name == "-" else str(host.home / name)
    if name != "-":
        Path(path).write_text(content)

    made = host.json("heartbeats", "create", "--file", path, "--grace-period", "30m", "--name", "other", stdin=content)

    assert (made["name"], made["expected_interval"], made["grace_period"]) == ("other", 86400, 1800)


def test_fields_that_we_do_not_know_go_to_the_service(host: Host) -> None:
    """It may know more than this version: paused is a field of the embedded Aura, nonsense of nobody."""
    host.server.create_heartbeat("nightly")
    identity = host.server.heartbeat("nightly").id

    paused = host.json("heartbeats", "update", identity, "--file", "-", stdin='{"paused": true}')
    refused = failure(host.api("heartbeats", "update", identity, "--file", "-", stdin='{"nonsense": 2026}'))

    assert paused["status"] == "paused"
    assert "nonsense" in refused
    assert "400" in refused


def test_every_wrong_field_of_a_file_is_named(host: Host) -> None:
    """File, key and what was expected; nothing is sent."""
    path = host.home / "heartbeat.toml"
    path.write_text('name = 5\nexpected_interval = "1d"\ngrace_period = 300\n')

    ran = host.api("heartbeats", "create", "--file", str(path))

    assert ran.status == 1
    assert ran.stderr.splitlines() == [
        f"aura-agent: {path}: name: Expected `str`, got `int`",
        f"aura-agent: {path}: expected_interval: Expected `number`, got `str`; lengths are in seconds here",
    ]
    assert host.server.requests() == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"name": ', "not valid JSON"),
        (b"name =\n", "not valid TOML"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b'{"name": "x", "x": NaN}', "NaN"),
        (b'{"name": "x", "x": 1e999}', "infinity"),
        (b'name = "x"\nx = inf\n', "infinity"),
        (b'{"x":' * 100_000, "depth"),
        (b"#" * 2_000_000, "larger than"),
        (b'{"name": "\\udcff"}', "can't be sent as JSON"),
    ],
    ids=range(9),
)
def test_a_file_that_cannot_be_read_is_one_line(host: Host, content: bytes, why: str) -> None:
    """What is wrong with it, and nothing is sent."""
    path = host.home / "fields"
    path.write_bytes(content)

    assert why in failure(host.api("heartbeats", "create", "--file", str(path)))
    assert host.server.requests() == []


def test_a_file_must_be_there_and_hold_one_object(host: Host) -> None:
    """A missing file, a directory and a list are named with the path."""
    (host.home / "list.json").write_text("[1]")

    for name, why in (("missing", "No such file"), (".", "Is a directory"), ("list.json", "one object")):
        line = failure(host.api("heartbeats", "create", "--file", f"{host.home}/{name}"))
        assert f"{host.home}/{name}" in line
        assert why in line


def test_dates_of_toml_arrive_as_text(host: Host) -> None:
    """JSON has no dates: the service gets RFC 3339, and judges the field itself."""
    ran = host.api("heartbeats", "create", "--file", "-", stdin='name = "x"\nsince = 2026-01-01T00:00:00Z\n')

    assert "since" in failure(ran)


def test_update_changes_what_is_given(host: Host) -> None:
    """The rest stays; the answer is the object as it is now."""
    host.server.create_heartbeat("nightly", 86400, 600)

    changed = host.json("heartbeats", "update", host.server.heartbeat("nightly").id, "--grace-period", "1h")

    assert (changed["name"], changed["expected_interval"], changed["grace_period"]) == ("nightly", 86400, 3600)


def test_a_heartbeat_joins_and_leaves_a_team(host: Host) -> None:
    """--team moves it there, --no-team takes it out, and neither leaves it where it is."""
    host.environment["AURA_TOKEN"] = host.server.create_token("write", teams=("ops",))
    team = host.server.create_team("ops")
    identity = host.json("heartbeats", "create", "--name", "nightly", "--team", team)["id"]

    stayed = host.json("heartbeats", "update", identity, "--name", "weekly")
    left = host.json("heartbeats", "update", identity, "--no-team")

    assert (stayed["name"], stayed["team_id"]) == ("weekly", team)
    assert (left["name"], left["team_id"]) == ("weekly", None)


def test_every_resource_has_a_table(host: Host) -> None:
    """What Aura probes, what came of it, whom it alerts: each in a row that can be read."""
    monitor = host.server.create_monitor("site", host.server.base_url + "/monitors", 300)  # 401 without a token
    host.server.create_integration("slack", "https://hooks.slack.example/T0/secret")
    wait_until(lambda: host.server.incidents(monitor.id), what="an incident")
    [incident] = host.json("incidents", "list")

    assert re.search(rf"{monitor.id} +site +{monitor.url} +5m +down", host.api("monitors", "list").stdout)
    for words in (["monitors", "checks", monitor.id], ["checks", "list", "--monitor", monitor.id]):
        assert re.search(r"\d +down +401 +\d+ ms", host.api(*words).stdout)
    assert re.search(rf"{incident['id']} +open .* {monitor.id}", host.api("incidents", "list").stdout)
    resolved = host.api("incidents", "resolve", incident["id"], "--notes", "Restart fixed it").stdout
    assert re.search(r"resolution_notes +Restart fixed it", resolved)
    integrations = host.api("integrations", "list").stdout
    assert re.search(r"slack +hooks\.slack\.example", integrations)
    assert "secret" not in integrations


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["heartbeats", "create"], "needs --name"),
        (["monitors", "create", "--name", "x"], "needs --url"),
        (["heartbeats", "update", "x"], "nothing to change"),
        (["heartbeats", "update", "x", "--team", "t", "--no-team"], "--no-team"),
        (["heartbeats", "create", "--name", "x", "--grace-period", "5"], "not a duration"),
        (["heartbeats", "list", "--limit", "0"], "--limit"),
        (["heartbeats", "list", "--limit", "5", "--all"], "--all"),
        (["heartbeats", "get"], "ID"),
        (["heartbeats", "get", "-x"], "-x"),
        (["heartbeats", "gte", "x"], "gte"),
        (["heartbeat", "list"], "heartbeats"),
        (["checks", "list"], "--monitor"),
        (["heartbeats", "delete", "x"], "--yes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_nothing_is_asked(host: Host, arguments: list[str], hint: str) -> None:
    """Status 2, what is wrong, and where help is."""
    assert hint in usage_error(host.api(*arguments))
    assert host.server.requests() == []


@pytest.mark.parametrize("identity", ["", "..", "a\nb", "\udcff"])
def test_what_can_be_no_id_is_one_line(host: Host, identity: str) -> None:
    """Nothing is asked, and above all nothing is deleted."""
    for arguments in (["heartbeats", "get"], ["heartbeats", "delete", "--yes"], ["checks", "list", "--monitor"]):
        assert "can't be an id" in failure(host.api(*arguments, identity))
    assert host.server.requests() == []


@pytest.mark.parametrize("identity", ["-x", "a b/c?d#e%", "é"])
def test_an_odd_id_is_sought_as_it_is(host: Host, identity: str) -> None:
    """After -- it may begin with a dash; it never reaches another endpoint."""
    assert "404" in failure(host.api("heartbeats", "get", "--", identity))


def test_delete_with_yes(host: Host) -> None:
    """It is gone, and the line says what; a second time there is nothing to delete."""
    host.server.create_heartbeat("nightly")
    identity = host.server.heartbeat("nightly").id

    ran = host.api("heartbeats", "delete", identity, "--yes")

    assert (ran.status, ran.stdout, ran.stderr) == (0, f"deleted heartbeat {identity}\n", "")
    assert host.names() == []
    assert "404" in failure(host.api("heartbeats", "delete", identity, "--yes"))
    host.server.create_heartbeat("other")
    other = host.server.heartbeat("other").id
    assert host.json("heartbeats", "delete", other, "--yes") == {"id": other, "deleted": True}


@pytest.mark.parametrize(("reply", "status", "left"), [("y\n", 0, []), ("n\n", 1, ["nightly"]), ("\n", 1, ["nightly"])])
def test_delete_asks_on_a_terminal(host: Host, reply: str, status: int, left: list[str]) -> None:
    """It names what would go, and only a yes deletes."""
    host.server.create_heartbeat("nightly")
    identity = host.server.heartbeat("nightly").id
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*_PROCESS, "heartbeats", "delete", identity], env=host.environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = bytearray()

        def asked() -> bool:
            shown.extend(os.read(ours, 4096))
            return b"[y/N]" in shown

        wait_until(asked, what="the question")
        os.write(ours, reply.encode())
        assert process.wait(timeout=60) == status
    os.close(ours)

    assert f"Delete the heartbeat nightly ({identity})?" in shown.decode()
    assert host.names() == left


@pytest.mark.parametrize("listed", [False, True])
def test_ping_url_is_alone_on_stdout(tmp_path: Path, listed: bool) -> None:
    """Fit for a file or a variable; no other command ever shows it, also if the service's listings carry it."""
    with ThreadedDevServer(list_ping_urls=listed) as server:
        host = Host(tmp_path, server)
        beat = server.create_heartbeat("nightly")

        ran = host.api("heartbeats", "ping-url", beat.id)

        assert (ran.status, ran.stdout, ran.stderr) == (0, beat.ping_url + "\n", "")
        assert host.json("heartbeats", "ping-url", beat.id) == {"url": beat.ping_url}
        for verb in (["list"], ["get", beat.id], ["list", "--json"], ["get", beat.id, "--json"]):
            assert "ping" not in host.api("heartbeats", *verb).stdout.replace("last_ping_at", "").replace(
                "last ping", ""
            )


def test_without_a_token_the_line_says_where_to_put_one(host: Host) -> None:
    """No traceback, nothing asked."""
    del host.environment["AURA_TOKEN"]

    assert "token_file" in failure(host.api("heartbeats", "list"))
    assert host.server.requests() == []


def test_an_api_that_is_away_is_one_line(host: Host) -> None:
    """The host and why; a write that wasn't sent is not called undecided."""
    host.server.refuse()

    line = failure(host.api("heartbeats", "create", "--name", "x"))

    assert "connection refused" in line
    assert "may have been done" not in line


def test_a_name_cannot_move_the_terminals_cursor(host: Host) -> None:
    """Names are the organization's members' to choose: control characters are shown, not obeyed."""
    host.server.create_heartbeat("evil\x1b[2J\nname\u202e")

    listed = host.api("heartbeats", "list").stdout

    assert "evil�[2J�name�" in listed
    assert host.names() == ["evil\x1b[2J\nname\u202e"]


def test_a_process_pipes_json_and_fails_with_a_line(host: Host) -> None:
    """As a user runs it: stdout is JSON alone, an error is on stderr alone."""
    host.server.create_heartbeat("nightly")

    listed = subprocess.run(
        [*_PROCESS, "heartbeats", "list", "--json"], env=host.environment, capture_output=True, timeout=60, check=False
    )
    missing = subprocess.run(
        [*_PROCESS, "heartbeats", "get", "x"], env=host.environment, capture_output=True, timeout=60, check=False
    )

    assert (listed.returncode, listed.stderr) == (0, b"")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["nightly"]
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert len(missing.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("aura-agent ap", ["api"]),
        ("aura-agent api mon", ["monitors"]),
        ("aura-agent api heartbeats ", ["create", "delete", "get", "list", "ping-url", "update"]),
        ("aura-agent api heartbeats create --exp", ["--expected-interval"]),
        ("aura-agent api heartbeats create --file he", ["he"]),  # of type file: the shell takes over
    ],
)
def test_the_shell_completes_commands_and_options(words: str, expected: list[str]) -> None:
    """As bash asks: COMP_WORDS up to the cursor, one candidate a line."""
    command = Path(sys.executable).parent / "aura-agent"
    asked = subprocess.run(
        [command],
        env={
            "_AURA_AGENT_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (asked.returncode, asked.stderr) == (0, "")
    assert [line.partition(",")[2] for line in asked.stdout.splitlines()] == expected


def test_completion_can_be_sourced() -> None:
    """What the documentation tells to put into .bashrc is a script that bash accepts."""
    command = Path(sys.executable).parent / "aura-agent"
    script = subprocess.run(
        [command],
        env={"_AURA_AGENT_COMPLETE": "bash_source", "PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout

    subprocess.run(["bash", "-n"], input=script, check=True, timeout=60)
    assert b"complete -o nosort -F _aura_agent_completion aura-agent" in script

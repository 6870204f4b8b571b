"""``discover --unwrap``: aura-run comes out of all that has it, and nothing else changes."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.dialects import BUSYBOX, CRONIE, DEBIAN, Dialect
from aura_agent.discover.plan import Facts, Table, propose
from aura_agent.discover.unwrap import Known, unwrap
from aura_agent.discover.wrapping import bare
from tests.discover.hosts import DISCOVERED, Copy
from tests.discover.test_crontab import FORMS, TEXTS

HOST = os.uname().nodename.partition(".")[0]
KNOWN = Known(None, {}, "vm.example.org")
TABLE = "# own\nMAILTO=''\n\n0 3 * * *\t/x/backup.sh --full\n@daily a | b%c\n5 5 * * * /bin/sh -c 'a; b'\n"


def wrapped(text: str, form: str = "user", dialect: Dialect = CRONIE) -> str:
    table = Table("/etc/crontab", text, form, dialect=dialect)  # type: ignore[arg-type]
    changes = propose([table], [], None, Facts("vm.example.org", "/usr/local/bin/aura-run")).changes
    return next((change.after or "" for change in changes), text)


def unwrapped(text: str, form: str = "user", dialect: Dialect = CRONIE) -> str:
    table = Table("/etc/crontab", text, form, dialect=dialect)  # type: ignore[arg-type]
    changes = unwrap([table], [], KNOWN, ()).changes
    return next((change.after or "" for change in changes), text)


@pytest.mark.parametrize("dialect", [DEBIAN, CRONIE, BUSYBOX], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("form", FORMS)
@given(text=TEXTS)
def test_unwrapping_gives_the_bytes_from_before_wrapping(form: str, dialect: Dialect, text: str) -> None:
    """Whatever is in the table: quotes, %, backslashes, bytes that are no UTF-8, lines that no cron takes."""
    assert unwrapped(wrapped(text, form, dialect), form, dialect) == text


@pytest.mark.parametrize("dialect", [DEBIAN, CRONIE, BUSYBOX], ids=lambda dialect: dialect.name)
@given(command=st.text("ab $'\"\\|&;<>()`#%{}=-", min_size=1, max_size=25))
def test_unwrapping_gives_each_command_back(dialect: Dialect, command: str) -> None:
    """Commands of all the characters that mean something to a shell or to cron."""
    text = f"0 3 * * * {command}\n0 3 * * * /bin/sh -c '{command}'\n"

    assert unwrapped(wrapped(text, dialect=dialect), dialect=dialect) == text


@pytest.mark.parametrize(
    "text", [TABLE, "0 3 * * * /bin/sh -c 'x'\n0 4 * * * /bin/sh -c '/bin/sh -c '\\''y'\\'''\n0 5 * * * a  \n"]
)
def test_calls_of_a_shell_keep_their_shell(text: str) -> None:
    """Discover puts a shell around lines that need one: those that had one of their own keep that."""
    assert wrapped(text) != text
    assert unwrapped(wrapped(text)) == text


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("aura-run -- x --y", "x --y"),
        ("/opt/a/bin/aura-run -H a x", "x"),
        ("aura-run  -q --timeout=2h --retries 3 -Hname   --   x -H y", "x -H y"),
        ("aura-run --heartbeat 'a b' --ping-url=file:/x -- x", "x"),
        ("aura-run -j backup -- x", "x"),
        ("cd /x && A=b aura-run -- y | z", "cd /x && A=b y | z"),
        ("nice -n 5 flock -n /l aura-run --no-overlap -- x", "nice -n 5 flock -n /l x"),
        ("aura-run -H a -- x && aura-run -H b -- y", "x && y"),
        ("> /log aura-run -- x", "> /log x"),
        ("if true; then aura-run -- x; fi", "if true; then x; fi"),
        ("bash -c 'aura-run -H a -- x; y'", "bash -c 'x; y'"),
        ("aura-run -H a -- /bin/sh -c 'cd x; aura-run -H b -- y'", "cd x; y"),
        ("aura-run -H a -- date +\\%F", "date +\\%F"),
        ("aura-run -H a -- x # as aura-run does", "x # as aura-run does"),
    ],
)
def test_lines_wrapped_by_hand_are_unwrapped(command: str, left: str) -> None:
    """Options in each of their forms, several calls in a line, runners and assignments in front."""
    assert bare(command, "/bin/sh").text == left
    assert unwrapped(f"0 3 * * * {command}%in\n") == f"0 3 * * * {left}%in\n"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("aura-run -j backup", "-j backup takes its command from the config"),
        ("aura-run --job=backup", "-j backup takes its command from the config"),
        ("aura-run -H a", "can't be told apart"),
        ("aura-run -H $(hostname) -- x", "can't be told apart"),
        ("aura-run >log -- x", "can't be told apart"),
        ("aura-run --new-option 3 -- x", "option --new-option is unknown"),
        ('sh -c "aura-run -- x"', "within quotes"),
        ("test -x /usr/bin/aura-run && aura-run -- x", "by hand"),
        ("find /x -exec aura-run -- y {} +", "by hand"),
    ],
)
def test_what_cannot_be_unwrapped_is_left_and_named(copy: Copy, command: str, reason: str) -> None:
    """The other lines of the table are done."""
    copy.write("/etc/crontab", f"0 3 * * * root {command}\n0 4 * * * root aura-run -- z\n")

    told = copy.told("--unwrap", "--write")

    assert [(item["where"], reason in item["reason"]) for item in told["left_alone"]] == [("/etc/crontab:1", True)]
    assert copy.read("/etc/crontab") == f"0 3 * * * root {command}\n0 4 * * * root z\n"


@pytest.fixture
def written(copy: Copy) -> Copy:
    copy.write("/etc/cron.d/own", "0 3 * * * root /x/own.sh\n0 5 * * * bob a; b\n", 0o640)
    copy.write("/var/spool/cron/crontabs/bob", "0 3 * * * /x/bobs\n", 0o600)
    copy.timer("report", "OnCalendar=daily", "ExecStart=/x")
    return copy


def test_a_host_is_as_it_was_whatever_changed_since(written: Copy) -> None:
    """Lines, drop-in and declarations go; what others have changed meanwhile stays. An undo puts aura-run back."""
    before = written.files()
    written.told("--write")
    with written.path("/etc/cron.d/own").open("a") as table:
        table.write("# mine\n0 9 * * * root aura-run -q -- /x/mine\n")
    wrapped_files = written.files()

    looked = written.discover("--unwrap")
    assert written.files() == wrapped_files
    told = written.told("--unwrap", "--write")

    assert "-0 3 * * * root " in looked.stdout
    assert "+0 3 * * * root /x/own.sh\n" in looked.stdout
    assert "Next: aura-agent discover --unwrap --write" in looked.stdout
    own = str(written.path("/etc/cron.d/own"))
    assert written.files() == before | {own: before[own] + b"# mine\n0 9 * * * root /x/mine\n"}
    assert not written.path("/etc/systemd/system/report.service.d").exists()
    heartbeats = [f"{HOST}/{name}" for name in ("a", "bobs", "mine or mine", "own", "report")]
    assert told["heartbeats_silenced"] == heartbeats
    written.told("--undo")
    assert written.files() == wrapped_files


def test_which_heartbeats_alarm_is_said(written: Copy) -> None:
    """By an unwrap and by an undo, with what to do about it."""
    written.told("--write")

    looking = written.discover("--unwrap", "--only", "own")
    unwrapping = written.discover("--unwrap", "--write", "--only", "own")
    undoing = [written.discover("--undo"), written.discover("--undo")]

    assert f"After that no ping comes for: {HOST}/own. " in looking.stdout
    assert f"No ping comes any more for: {HOST}/own. " in unwrapping.stdout
    assert "pause these heartbeats in Aura, or delete them: aura-agent api heartbeats " in unwrapping.stdout
    assert "No ping comes" not in undoing[0].stdout, "it put aura-run back"
    names = ", ".join(f"{HOST}/{name}" for name in ("a", "bobs", "own", "report"))
    assert f"No ping comes any more for: {names}. " in undoing[1].stdout


def test_one_heartbeat_can_be_unwrapped_alone(written: Copy) -> None:
    """By its name with or without the host; a wrong one is said."""
    written.told("--write")

    told = written.told("--unwrap", "--write", "--only", f"{HOST}/bobs", "--only", "report")
    wrong = written.discover("--unwrap", "--only", "nothing")

    assert told["heartbeats_silenced"] == [f"{HOST}/bobs", f"{HOST}/report"]
    assert "aura-run" in written.read("/etc/cron.d/own")
    assert set(tomllib.loads(written.read(DISCOVERED))["jobs"]) == {"own", "a"}
    assert (wrong.status, "nothing with aura-run is called nothing" in wrong.stderr) == (2, True)


def test_moved_jobs_are_put_back(written: Copy) -> None:
    """Jobs of --as config: cron's lines come back, and the config loses the jobs, whatever was added to them."""
    before = written.files()
    written.told("--as", "config", "--write")
    config = written.read(DISCOVERED)
    assert written.read("/etc/cron.d/own").count("# aura-agent runs this: ") == 2
    written.write(
        DISCOVERED, config.replace("[jobs.own]", "[jobs.mine]\nheartbeat = 'x'\n\n[jobs.own]\ntimeout = '1h'")
    )

    told = written.told("--unwrap", "--write")

    assert told["left_alone"] == []
    jobs = tomllib.loads(written.read(DISCOVERED))["jobs"]
    assert jobs == {"mine": {"heartbeat": "x"}}
    written.path(DISCOVERED).unlink()
    assert written.files() == before


def test_a_moved_job_that_the_config_lost_stays_a_comment(written: Copy) -> None:
    """Where it runs now can't be known: it may be in another file of the config."""
    written.told("--as", "config", "--write")
    config = written.read(DISCOVERED).replace("/x/own.sh", "/x/other.sh")
    written.write(DISCOVERED, config)

    told = written.told("--unwrap", "--write")

    assert [item["where"] for item in told["left_alone"]] == ["/etc/cron.d/own:1"]
    assert "can't be known" in told["left_alone"][0]["reason"]
    lines = written.read("/etc/cron.d/own").splitlines()
    assert lines == ["# aura-agent runs this: 0 3 * * * root /x/own.sh", "0 5 * * * bob a; b"]
    assert list(tomllib.loads(written.read(DISCOVERED))["jobs"]) == ["own"]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("ExecStart=-/usr/local/bin/aura-run -H x -- /x --y %n", "ExecStart=-/x --y %n"),
        ("ExecStart=aura-run -q --timeout=2h -- \\\n  /x", "ExecStart=\\\n  /x"),
        ("ExecStartPre = +aura-run -- /x", "ExecStartPre = +/x"),
        ("ExecStart=sh -c 'aura-run -- /x || /y'", "ExecStart=sh -c '/x || /y'"),
    ],
)
def test_units_wrapped_by_hand_are_unwrapped(copy: Copy, line: str, left: str) -> None:
    """Fragments and drop-ins of the administrator; a package's unit is named."""
    places = ("/etc/systemd/system/x.service", "/etc/systemd/system/y.service.d/50-aura-run.conf")
    for place in places:
        copy.write(place, f"[Service]\nUser=bob\n{line}\nNice=5\n")
    copy.write("/usr/lib/systemd/system/z.service", f"[Service]\n{line}\n")

    told = copy.told("--unwrap", "--write")

    assert [copy.read(place) for place in places] == [f"[Service]\nUser=bob\n{left}\nNice=5\n"] * 2
    assert [item["where"] for item in told["left_alone"]] == ["/usr/lib/systemd/system/z.service"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ExecStart=\\\n  aura-run -- /x", "isn't in the first line"),
        ("ExecStart=aura-run -j backup", "takes its command from the config"),
    ],
)
def test_a_unit_that_cannot_be_unwrapped_is_named(copy: Copy, line: str, reason: str) -> None:
    """It stays as it is."""
    path = copy.write("/etc/systemd/system/x.service", f"[Service]\n{line}\n")

    (left,) = copy.told("--unwrap", "--write")["left_alone"]

    assert (left["where"], reason in left["reason"]) == ("/etc/systemd/system/x.service", True)
    assert path.read_text() == f"[Service]\n{line}\n"


def test_a_broken_config_does_not_bar_the_way_back(written: Copy) -> None:
    """It is said, and what doesn't need it is done."""
    written.told("--write")
    written.write("/etc/aura-agent/config.toml", "[agent\n")

    ran = written.discover("--unwrap", "--write")

    assert ran.status == 0
    assert "going on without the config" in ran.stderr
    assert "aura-run" not in written.read("/etc/cron.d/own")


def test_undo_takes_back_each_line_that_is_as_it_was_written(written: Copy) -> None:
    """Of a file that has changed since: changed lines are named, added ones stay, all else is as it was."""
    written.told("--write")
    own = written.read("/etc/cron.d/own")
    written.write("/etc/cron.d/own", "# mine\n" + own.replace("0 5 * * * bob", "0 6 * * * bob"))
    config = written.read(DISCOVERED)
    written.write(DISCOVERED, config.replace("\n[jobs.report]", "\n[jobs.mine]\nheartbeat = 'x'\n\n[jobs.report]"))

    undone = written.discover("--undo")

    assert undone.status == 1
    (line,) = undone.stderr.splitlines()
    assert "/etc/cron.d/own: changed since; as it was: " in line
    assert "left as they are: 0 5 * * * bob" in line
    first, second, third = written.read("/etc/cron.d/own").splitlines()
    assert (first, second) == ("# mine", "0 3 * * * root /x/own.sh")
    assert third.startswith("0 6 * * * bob ")
    assert "aura-run" in third
    assert list(tomllib.loads(written.read(DISCOVERED))["jobs"]) == ["mine"]
    assert "nothing to undo" in written.discover("--undo").stderr


def test_an_undo_that_failed_can_be_tried_again(written: Copy) -> None:
    """What the disk refused is no change of anybody's."""
    before = written.files()
    written.told("--write")
    table = written.path("/etc/cron.d/own")
    aside = Path(f"{table}.aside")
    table.rename(aside)
    table.mkdir()

    first = written.discover("--undo")
    table.rmdir()
    aside.rename(table)
    second = written.discover("--undo")

    assert (first.status, second.status) == (1, 0), first.stderr + second.stderr
    assert "/etc/cron.d/own: Is a directory" in first.stderr or "not a regular file" in first.stderr
    assert written.files() == before

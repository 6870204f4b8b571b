"""Tables as each cron reads them: what is a job to which, and how a line is rewritten for it."""

import pytest
from hypothesis import given

from aura_agent.discover.cronfiles import unreadable_line
from aura_agent.discover.crontab import Form, Line, read_table
from aura_agent.discover.dialects import BUSYBOX, CRONIE, DEBIAN, OLD_DEBIAN, Dialect, chosen, dialect_of, of_packages
from aura_agent.discover.plan import Facts, Table, propose
from tests.discover import crond
from tests.discover.test_crontab import TEXTS

HOUR_S, DAY_S = 3600, 86_400


def entry_of(line: str, dialect: Dialect, form: Form = "user") -> Line:
    (only,) = read_table(line, form, dialect)
    return only


def wrapped(text: str, dialect: Dialect, owner: str = "root") -> str:
    """Return a table with aura-run in front of its commands."""
    table = Table("/t", text, "user", owner, dialect)
    changes = propose([table], [], None, Facts("vm", "/usr/bin/aura-run")).changes
    return (changes[0].after or "") if changes else text


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("0 3 * * * date +%F > /x%y", "/bin/sh -c 'date +%F > /x%y'"),
        ("0 3 * * * backup.sh --name=%H", "backup.sh --name=%H"),
        ("0 3 * * * a \\%F | b", "/bin/sh -c 'a \\%F | b'"),
        ("@daily a | b # c", "/bin/sh -c 'a | b # c'"),
    ],
)
def test_a_percent_is_nothing_special_to_busybox(line: str, after: str) -> None:
    """All of the command goes to the shell, with every % and backslash as it is."""
    assert wrapped(f"{line}\n", BUSYBOX).endswith(f" -- {after}\n")


def test_a_hash_ends_a_line_of_busybox() -> None:
    """A comment may follow a command, also without a blank; to cronie it belongs to the command."""
    assert wrapped("0 3 * * * a --b # c 'd\n", BUSYBOX).endswith(" -- a --b # c 'd\n")
    assert wrapped("0 3 * * * a; b#c\n", BUSYBOX).endswith(" -- /bin/sh -c 'a; b'#c\n")
    assert wrapped("0 3 * * * a --b # c\n", CRONIE).endswith(" -- /bin/sh -c 'a --b # c'\n")


def test_lines_of_busybox_go_on_after_a_backslash() -> None:
    """Also comments do; to other crons the next line is one of its own."""
    text = "# a \\\n0 1 * * * no-job\n0 3 * * * x \\\n  --y\n0 4 * * * z"

    lines = read_table(text, "user", BUSYBOX)

    assert [(line.number, line.entry.command if line.entry else None) for line in lines] == [
        (1, None),
        (3, "x \\\n  --y"),
        (5, "z"),
    ]
    assert len(read_table(text, "user", CRONIE)) == 5
    assert wrapped(text, BUSYBOX).endswith("/x -- x \\\n  --y\n0 4 * * * /usr/bin/aura-run -H vm/z -- z")


@pytest.mark.parametrize(
    ("line", "dialect", "interval_s", "schedule"),
    [
        ("0 3 */2 * * x", BUSYBOX, 3 * DAY_S, "0 3 2-31/2 * *"),
        ("0 3 */2 * * x", DEBIAN, 2 * DAY_S, "0 3 */2 * *"),
        ("0 3 */2 * * x", CRONIE, 2 * DAY_S, "0 3 */2 * *"),
        ("0 3 1 * */2 x", BUSYBOX, 2 * DAY_S, "0 3 1 * 0-6/2"),
        ("0 3 15 * 0-6 x", BUSYBOX, 31 * DAY_S, "0 3 15 * *"),
        ("0 3 * * 7 x", DEBIAN, 7 * DAY_S, "0 3 * * 7"),
        ("0 3 * * * x", BUSYBOX, DAY_S, "0 3 * * *"),
        ("0~30 3 * * * x", CRONIE, DAY_S + 30 * 60, None),
        ("5 ~ * * * x", CRONIE, DAY_S + 23 * HOUR_S, None),
        ("10~20,40~50 * * * * x", CRONIE, 30 * 60 + 10 * 60, None),
        ("-0 3 * * * x", CRONIE, DAY_S, "0 3 * * *"),
        ("@midnight x", BUSYBOX, DAY_S, "@midnight"),
    ],
)
def test_times_are_those_of_the_cron(line: str, dialect: Dialect, interval_s: int, schedule: str | None) -> None:
    """busybox counts steps of days from 0, and takes either of day and weekday; cronie picks a time at random."""
    entry = entry_of(f"{line}\n", dialect).entry

    assert entry is not None
    assert (entry.interval_s, entry.schedule) == (interval_s, schedule)


@pytest.mark.parametrize(
    ("line", "dialect", "problem"),
    [
        ("0 3 * * 7 x\n", BUSYBOX, "7 is no weekday"),
        ("0 3 * * 1-7 x\n", BUSYBOX, "7 is no weekday"),
        ("-0 3 * * * x\n", BUSYBOX, "neither a job"),
        ("-0 3 * * * x\n", DEBIAN, "neither a job"),
        ("@fortnightly x\n", BUSYBOX, "no name that cron knows"),
        ("0~30 3 * * * x\n", DEBIAN, "is no field"),
        ("0~30 3 * * * x\n", BUSYBOX, "is no field"),
        ("0 3 1~9 * * x\n", CRONIE, "is no field"),
        ("30~10 3 * * * x\n", CRONIE, "is no field"),
        ("0 3 * * * -n x\n", DEBIAN, "begins with -"),
        ("FOO=bar\n", BUSYBOX, "knows no such variable"),
        ("HOME=/srv\n", BUSYBOX, "knows no such variable"),
    ],
)
def test_what_one_cron_takes_another_may_not(line: str, dialect: Dialect, problem: str) -> None:
    """It is left alone, with the reason."""
    found = entry_of(line, dialect)

    assert found.entry is None
    assert problem in found.problem


def test_variables_of_busybox_have_no_quotes() -> None:
    """A shell in quotes is no path of a shell, so nothing is rewritten for it; MAILTO ends at a blank."""
    lines = read_table("SHELL=/bin/ash\nMAILTO=a b\n0 3 * * * x\nSHELL='/bin/bash'\n0 4 * * * y\n", "user", BUSYBOX)

    settings = [dict(line.entry.settings) for line in lines if line.entry is not None]
    assert settings == [{"SHELL": "/bin/ash", "MAILTO": "a"}, {"SHELL": "'/bin/bash'", "MAILTO": "a"}]


def test_nicknames_need_a_busybox_that_has_them() -> None:
    """The program says whether it was built with them."""
    with_names = dialect_of(b"\x7fELF... BusyBox v1.36 ... annually", is_busybox=True)
    without = dialect_of(b"\x7fELF... BusyBox v1.36 ...", is_busybox=True)

    assert isinstance(with_names, Dialect)
    assert isinstance(without, Dialect)
    assert entry_of("@daily x\n", with_names).entry is not None
    assert "built without" in entry_of("@daily x\n", without).problem
    assert entry_of("0 3 * * * x\n", without).entry is not None


@pytest.mark.parametrize(
    ("program", "name", "spools"),
    [
        (b"..CRON_TZ..\0/var/spool/cron\0..", "cronie", ("/var/spool/cron",)),
        (b"..CRON_TZ..\0/var/spool/cron/tabs\0..", "cronie", ("/var/spool/cron/tabs",)),
        (b"..CRON_TZ..", "cronie", CRONIE.spools),
        (b"..INSECURE MODE (mode 0600 expected)..", "Debian's cron", ("/var/spool/cron/crontabs",)),
        (b"..BusyBox v1.36.1..", "busybox's crond", ("/etc/crontabs", "/var/spool/cron/crontabs")),
    ],
)
def test_a_cron_is_known_by_its_program(program: bytes, name: str, spools: tuple[str, ...]) -> None:
    """And so is where it was built to look for users' crontabs."""
    found = dialect_of(program)

    assert isinstance(found, Dialect)
    assert (found.name, found.spools) == (name, spools)


def test_lines_of_an_unknown_cron_are_nobody_s() -> None:
    """None, another than those known here, and two at once: each has its reason."""
    assert dialect_of(b"dillon's cron daemon") == "dcron"
    assert dialect_of(b"#!/bin/sh") == "another cron"
    assert chosen({}) == (None, "no cron is installed here, so nothing runs it")
    assert chosen({"/a": "dcron"}) == (None, "runs under dcron, whose ways aren't known here")
    assert chosen({"/a": DEBIAN, "/b": "fcron"})[0] is None
    assert chosen({"/a": CRONIE, "/b": CRONIE}) == (CRONIE, "")


@pytest.mark.parametrize(
    ("text", "form", "reason"),
    [
        ("0 3 * * * x\n0 3 * * x\n", "user", "line 2: bad day-of-week"),
        ("60 3 * * * x\n", "user", "line 1: bad minute"),
        ("5/15 * * * * x\n", "user", "line 1: bad minute"),
        ("0 3 * foo * x\n", "user", "line 1: bad month"),
        ("-*/5 * * * * x\n", "user", "line 1: bad minute"),
        ("@fortnightly x\n", "user", "line 1: bad time specifier"),
        ("0 3 * * * *x\n", "user", "line 1: bad command"),
        ("A='b\n", "user", "line 1: bad minute"),
        ("0 3 * * * root x\n0 3 * * * nobody-here x\n", "system", 'line 2: bad username "nobody-here"'),
        ("0 3 * * * root\n", "system", "line 1: bad username"),
        ("0 3 * * * x\n0 4 * * * y", "user", "line 2: no line feed at its end"),
        (f"0 3 * * * {'x' * 999}\n", "user", "line 1: command too long"),
        ("# c\n" * 10_001, "user", "more than 10,000 lines"),
        # what Debian's cron takes, odd as it is
        (f"0 3 * * * {'x' * 998}\n", "user", ""),
        ("0~30 3 * * * x\n", "user", ""),
        ("5!x 3 * * * y\n", "user", ""),
        ("*x,99 * * * * y\n", "user", ""),
        ("0 3 * * *\n", "user", ""),
        ("0 22-2 * * * x\n", "user", ""),
        ("0 3 * JAN-dec Sun,7 x\n", "user", ""),
        ("MAILTO=''\nA = b\n=c\nB=\n\n  # d", "user", ""),
        ("@daily root x\n", "system", ""),
    ],
)
def test_one_bad_line_and_debian_s_cron_ignores_the_file(text: str, form: Form, reason: str) -> None:
    """In its own words; the same file has jobs under other crons."""

    def knows(user: str) -> bool:
        return user == "root"

    assert unreadable_line(text, form, DEBIAN, knows).startswith(reason)
    assert bool(unreadable_line(text, form, DEBIAN, knows)) == bool(reason)
    assert unreadable_line(text, form, CRONIE, knows) == unreadable_line(text, form, BUSYBOX, knows) == ""


@pytest.mark.parametrize("line", ["MAILTO=", "MAILTO= ", "MAILTO =\r"])
def test_an_empty_value_is_a_bad_line_to_older_versions(line: str) -> None:
    """Of Debian's cron, up to Debian 12 and Ubuntu 24.04; dpkg knows the version."""
    old = of_packages(DEBIAN, b"Package: cron-x\nVersion: 9\n\nPackage: cron\nStatus: ok\nVersion: 3.0pl1-162\n")
    new = of_packages(DEBIAN, b"Package: cron\nStatus: ok\nVersion: 3.0pl1-197ubuntu1\n")
    table = f"{line}\n0 3 * * * x\n"

    assert unreadable_line(table, "user", old, lambda _: True) == "line 1: bad minute"
    assert unreadable_line(table, "user", new, lambda _: True) == ""
    assert of_packages(DEBIAN, b"Package: cron-daemon-common\nVersion: 3.0pl1-162\n") == DEBIAN
    assert of_packages(CRONIE, b"Package: cron\nVersion: 3.0pl1-162\n") == CRONIE


@pytest.mark.parametrize("command", ["a \\\\ b; c", "echo '\\\\' \\% \\\\\\\\", "it\\'s | b", "a \\\\% in"])
def test_debian_s_cron_halves_backslashes_of_wrapped_lines_alike(command: str) -> None:
    """Bare or in quotes, the shell gets the same line."""
    after = wrapped(f"0 3 * * * {command}\n", DEBIAN)

    bare, given = crond.divide(command, halves=True)
    ours, ours_given = crond.divide(after.removeprefix("0 3 * * * ").removesuffix("\n"), halves=True)

    quoted = bare.replace("'", "'\\''")
    assert ours.partition(" -- ")[2] in (bare, f"/bin/sh -c '{quoted}'")
    assert ours_given == given


@pytest.mark.parametrize("dialect", [DEBIAN, OLD_DEBIAN, CRONIE, BUSYBOX])
@given(text=TEXTS)
def test_wrapping_is_nothing_but_wrapping_to_each_cron(dialect: Dialect, text: str) -> None:
    """The same jobs in the same places; what Debian's cron reads it reads afterwards; once is all; a way back."""
    after = wrapped(text, dialect)

    before_lines, after_lines = read_table(text, "user", dialect), read_table(after, "user", dialect)
    assert len(before_lines) == len(after_lines)
    for before, now in zip(before_lines, after_lines, strict=True):
        assert now.text == before.text or before.entry is not None
        if before.entry is not None:
            assert now.entry is not None
            assert (now.entry.when, now.entry.given, now.entry.settings) == (
                *(before.entry.when, before.entry.given, before.entry.settings),
            )
    if not unreadable_line(text, "user", dialect, lambda _: True):
        assert unreadable_line(after, "user", dialect, lambda _: True) == ""
    assert wrapped(after, dialect) == after


def test_a_dash_in_front_is_root_s_alone() -> None:
    """cronie runs no such line of another user."""
    line = "-0 3 * * * x\n"

    assert wrapped(line, CRONIE) == "-0 3 * * * /usr/bin/aura-run -H vm/x -- x\n"
    assert wrapped(line, CRONIE, owner="bob") == line

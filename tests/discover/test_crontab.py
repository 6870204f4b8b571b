"""Tables of cron and anacron: which lines are jobs, and that nothing of the text is lost."""

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.crontab import Form, Line, read_table

FORMS: tuple[Form, ...] = ("user", "system", "anacron")
# Words that mean something in some place of a table, in all orders.
_PIECES = st.sampled_from(
    [
        *("0 3 * * *", "*/5 * * * 1-5", "@daily", "@reboot", "1 5 id", "root", "aura-run -H x --", "cmd 'a b'", "a=b"),
        *(
            "MAILTO",
            "=",
            "CRON_TZ = Europe/Berlin",
            '"',
            "'",
            "\\",
            "%",
            "\\%",
            "#",
            " ",
            "\t",
            "\n",
            "\\\n",
            "\r",
            "\f",
        ),
        *("\x00", "\x1b", "\u2028", "é", "\udcff", "0", "*", "-", ",", "/"),
    ]
)
TEXTS = st.lists(_PIECES | st.text(max_size=5), max_size=40).map("".join)


def only(lines: list[Line]) -> Line:
    (line,) = lines
    return line


@pytest.mark.parametrize("form", FORMS)
@given(text=TEXTS)
def test_the_lines_of_a_table_are_its_text(form: Form, text: str) -> None:
    """Whatever it holds: what isn't understood is kept as well."""
    lines = read_table(text, form)

    assert "".join(line.text for line in lines) == text
    assert all(line.with_command(line.entry.command) == line.text for line in lines if line.entry)


@pytest.mark.parametrize(
    ("text", "form", "when", "user", "command", "given", "interval_s"),
    [
        ("0 3 * * *  backup.sh --full\n", "user", "0 3 * * *", None, "backup.sh --full", "", 86_400),
        ("\t 0\t3 *  * *\tx\n", "user", "0 3 * * *", None, "x", "", 86_400),
        ("0 3 * * * root  x\n", "system", "0 3 * * *", "root", "x", "", 86_400),
        ("@daily root x\n", "system", "@daily", "root", "x", "", 86_400),
        ("@hourly x\n", "user", "@hourly", None, "x", "", 3600),
        ("@hourly -n x -n\n", "user", "@hourly", None, "x -n", "", 3600),
        ("@hourly root -n\tx\n", "system", "@hourly", "root", "x", "", 3600),
        ("@reboot x\n", "user", "@reboot", None, "x", "", None),
        ("0 9-17/2 * * MON,fri x\n", "user", "0 9-17/2 * * MON,fri", None, "x", "", 88 * 3600),
        ("-*/5 * * * * root x\n", "system", "*/5 * * * *", "root", "x", "", 300),
        ("0 22 * * 1-5 mail joe%Joe,%%Where?%\n", "user", "0 22 * * 1-5", None, "mail joe", "%Joe,%%Where?%", 259_200),
        ("0 3 * * * date +\\%F %in\n", "user", "0 3 * * *", None, "date +\\%F ", "%in", 86_400),
        ("0 3 * * * a \\\\%in\n", "user", "0 3 * * *", None, "a \\\\", "%in", 86_400),
        ("0 3 * * * FOO=bar x # no comment\n", "user", "0 3 * * *", None, "FOO=bar x # no comment", "", 86_400),
        ("1\t5\tcron.daily\tnice x %y\n", "anacron", "1", None, "nice x %y", "", 86_400),
        ("@monthly 15 m x \\\n  y\n", "anacron", "@monthly", None, "x \\\n  y", "", 31 * 86_400),
    ],
)
def test_a_job_is_read_as_cron_reads_it(
    text: str, form: Form, when: str, user: str | None, command: str, given: str, interval_s: float | None
) -> None:
    """Time fields, the user's column, the command as it is written, and what begins with the first bare %."""
    entry = only(read_table(text, form)).entry

    assert entry is not None
    assert (entry.when, entry.user, entry.command, entry.given) == (when, user, command, given)
    assert entry.interval_s == interval_s


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("MAILTO=bob", "MAILTO", "bob"),
        ("  A = x y  ", "A", "x y"),
        ('A=" x "', "A", " x "),
        ("A=' x '  ", "A", " x "),
        ('"A B" = c', "A B", "c"),
        ("MAILTO=", "MAILTO", ""),
        ('MAILTO=""', "MAILTO", ""),
        ("A=b # c", "A", "b # c"),
        ("A==b", "A", "=b"),
    ],
)
def test_a_variable_holds_for_the_lines_below_it(line: str, name: str, value: str) -> None:
    """Blanks around it don't count, those in quotes do, and there are no comments behind it."""
    before, setting, after = read_table(f"0 3 * * * x\n{line}\n0 3 * * * y\n", "user")

    assert before.entry is not None
    assert after.entry is not None
    assert (setting.entry, setting.problem) == (None, "")
    assert (before.entry.settings, after.entry.settings) == ({}, {name: value})


@pytest.mark.parametrize(
    ("text", "form", "problem"),
    [
        ("0 3 * * * x", "user", "no line feed at its end"),
        ("0 3 * * *\n", "user", "neither a job nor a variable"),
        ("0 3 * * * root\n", "system", "no user before the command"),
        ("0 3 * * * * x\n", "user", "no command"),
        ("0 3 * * * %x\n", "user", "no command"),
        ("5/15 * * * * x\n", "user", '"5/15" is no field'),
        ("0 3 L * * x\n", "user", '"L" is no field'),
        ("0 25 * * * x\n", "user", "hour"),
        ("0 0 30 2 * x\n", "user", "never fires"),
        ("@fortnightly x\n", "user", "unknown name"),
        ("@Hourly x\n", "user", "small letters"),
        ("@REBOOT x\n", "user", "small letters"),
        ("0 3 * * * -x\n", "user", "for an option"),
        ("0 3 * * * -n -n x\n", "user", "for an option"),
        ('A = "x" y\n', "user", "neither a job nor a variable"),
        ('A="x" y\n', "user", "neither a job nor a variable"),
        ("0 5 id x\n", "anacron", "is no period"),
        ("@fortnightly 5 id x\n", "anacron", "is no period"),
        ("@Monthly 5 id x\n", "anacron", "is no period"),
    ],
)
def test_what_is_no_job_has_a_reason(text: str, form: Form, problem: str) -> None:
    """Nothing is guessed: a line that cron refuses, or reads in a way of its own, isn't taken for a job."""
    line = only(read_table(text, form))

    assert line.entry is None
    assert problem in line.problem


@pytest.mark.parametrize("text", ["", "\n", "# 0 3 * * * x\n", "  # x", " \t\n"])
def test_blank_lines_and_comments_say_nothing(text: str) -> None:
    """Neither jobs nor problems."""
    assert [(line.entry, line.problem) for line in read_table(text, "user")] in ([], [(None, "")])


def test_lines_keep_their_numbers() -> None:
    """Those of the file, also after lines that a backslash joins."""
    lines = read_table("# a\n1 5 x a\\\n b\n\n1 5 y b\n", "anacron")

    assert [(line.number, line.entry is not None) for line in lines] == [(1, False), (2, True), (4, False), (5, True)]

"""A wrapped line beside the bare one, run as cron runs them: the same input, environment, output and status."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.crontab import read_table
from aura_agent.discover.plan import Change, Facts, Table, propose
from tests.discover import crond
from tests.discover.test_crontab import FORMS, TEXTS
from tests.wrapper.runs import AURA_RUN, Host

NOTHING = Change("/etc/aura-agent/conf.d/discovered.toml", None, "")


def wrapped(text: str, path: str = "/etc/crontab", form: str = "user", aura_run: str = AURA_RUN) -> str:
    """Return a table with aura-run in front of its commands."""
    table = Table(path, text, form)  # type: ignore[arg-type]
    changes = propose([table], [], NOTHING, Facts("vm.example.org", aura_run)).changes
    return next((change.after or "" for change in changes if change.path == path), text)


def command_of(line: str) -> str:
    """Return what follows the time fields."""
    entry = read_table(line, "user")[-1].entry
    assert entry is not None
    return entry.command + entry.given


@pytest.mark.parametrize(
    "command",
    [
        "/bin/cat%a line%another \\% line",
        "/bin/cat%",
        "sort -r | tail -n 1%a%b",
        "wc -c%1%2%3%",
        "env | grep -v '^_=' | sort",
        "/usr/bin/printf '[%s]\\n'".replace("%", "\\%") + " a 'b c' \"d  e\" f\\ g $HOME ~ *.none",
        "echo \"it's\" 'a \"b\"' it\\'s \\\\ \\\\\\\\; echo $((1+2)) `echo x` $(echo y)",
        "printf \\%s\\\\n a; exit 3",
        "cd / && pwd && false",
        "A=b C='d e' sh -c 'echo $A $C'",
        "echo out; echo err >&2; exit 200",
        "/bin/sh -c 'echo $0 $1; exit 7' zero one",
        "no-such-program x",
        "echo '",
        "exec 3>&1; echo x >&3",
        "> made; ls made",
        "date -d @0 -u +\\%Y-\\%m-\\%d",
        "echo a # b",
        "true && echo caf\u00e9 \udcff",
    ],
)
def test_a_wrapped_line_does_what_the_bare_one_does(tmp_path: Path, command: str) -> None:
    """Plain commands, pipes, redirections, quotes of all kinds, %, bytes that are no UTF-8, failures."""
    host = Host(tmp_path, {"AURA_WAIT": "0s"})
    line = f"0 3 * * * {command}\n"
    crond.run(f"{AURA_RUN} -H vm/job -- true", host.environment, tmp_path)  # what it warns of once a day
    bare = crond.run(command, host.environment, tmp_path)

    ours = crond.run(command_of(wrapped(line)), host.environment, tmp_path)

    assert AURA_RUN in wrapped(line)
    assert ours.stdout == bare.stdout
    assert ours.returncode == bare.returncode
    assert [row for row in ours.stderr.splitlines() if not row.startswith(b"aura-run: ")] == [
        row for row in bare.stderr.splitlines() if b"not found" not in row
    ]


def test_the_shell_of_the_table_runs_the_line(tmp_path: Path) -> None:
    """SHELL=/bin/bash: what only bash understands still works."""
    host = Host(tmp_path, {"AURA_WAIT": "0s"})
    table = wrapped("SHELL=/bin/bash\n0 3 * * * [[ a == a ]] && echo {1..3} $BASH\n")

    done = crond.run(command_of(table), host.environment, tmp_path, "/bin/bash")

    assert done.stdout == b"1 2 3 /bin/bash\n"


@given(st.text("ab $'\"\\|&;<>()`#%{}=", min_size=1, max_size=25).filter(lambda text: text.strip(" ")))
def test_a_shell_gets_the_same_line_through_aura_run(command: str) -> None:
    """Whatever cron makes of the % and backslashes in it: quoted, they come out the same, and so does the input."""
    line = f"0 3 * * * {command.lstrip(' ')}\n"
    if read_table(line, "user")[0].entry is None:
        return
    bare_line, bare_input = crond.divide(command.lstrip(" "))

    ours_line, ours_input = crond.divide(command_of(wrapped(line)))

    assert ours_input == bare_input
    words = ours_line.partition(" -- ")[2]
    if words != bare_line:
        quoted = bare_line.replace("'", "'\\''")
        assert words == f"/bin/sh -c '{quoted}'"


@pytest.mark.parametrize("form", FORMS)
@given(text=TEXTS)
def test_wrapping_keeps_all_jobs_and_all_other_lines(form: str, text: str) -> None:
    """The same times, users, variables and input in the same places; nothing but command lines differs; once is all."""
    after = wrapped(text, form=form)

    before_lines, after_lines = read_table(text, form), read_table(after, form)  # type: ignore[arg-type]
    assert len(before_lines) == len(after_lines)
    for before, now in zip(before_lines, after_lines, strict=True):
        assert now.text == before.text or before.entry is not None
        if before.entry is not None:
            assert now.entry is not None
            assert (now.entry.when, now.entry.user, now.entry.given, now.entry.settings) == (
                *(before.entry.when, before.entry.user, before.entry.given, before.entry.settings),
            )
    assert wrapped(after, form=form) == after


def test_a_plain_command_gets_no_shell() -> None:
    """The least change; all bytes around it stay, the line feed of another system included."""
    text = "# daily\r\n\nMAILTO = 'bob'\n 0\t3 * * *\t backup.sh --full  \n@daily\ta; b\n"

    after = wrapped(text, aura_run="/usr/local/bin/aura-run")

    run = "/usr/local/bin/aura-run -H vm"
    assert after == (
        f"# daily\r\n\nMAILTO = 'bob'\n 0\t3 * * *\t {run}/backup -- backup.sh --full  \n"
        f"@daily\t{run}/a -- /bin/sh -c 'a; b'\n"
    )

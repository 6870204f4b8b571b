"""Lines of shell: what is a plain command, what it is called, and what its status hides."""

import shlex
import subprocess

import pytest
from hypothesis import given, strategies as st

from aura_agent.discover.shellline import doubt, is_plain, plain_words, shell_call


@pytest.mark.parametrize(
    "line",
    [
        *(
            "/usr/local/bin/backup.sh --full",
            "backup.sh",
            "$HOME/bin/x $Y",
            "~/bin/x",
            "cmd 'a; b' \"c | $D\"",
            "cmd a\\ b",
        ),
        *("nice -n 10 /x/y", "/bin/echo hi", "cmd *.txt", "date +\\%F", "bash -c 'a; b'", "cmd a=b {}"),
    ],
)
def test_a_plain_command_is_told(line: str) -> None:
    """A program in front of it gets the same words."""
    assert is_plain(line)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "a && b",
            "a | b",
            "a; b",
            "a &",
            "a > x",
            "a 2>&1",
            "(a)",
            "{ a; }",
            "a $(b)",
            'a "$(b)"',
            "a `b`",
            'a "`b`"',
        ),
        *("A=b c", "cd /", "echo hi", ". ./env", "[ -e x ]", "! a", "exec a", "if a; then b; fi", "$X a", "'a b' c"),
        *("a 'b", 'a "b', "a # b", "", "a\\", "test -e x", "time a", "a\nb", "a <b", "*.sh"),
    ],
)
def test_all_else_needs_a_shell(line: str) -> None:
    """Operators, substitutions, words that are the shell's own, and quotes without a partner."""
    assert not is_plain(line)


@given(st.text("ab $'\"\\|&;<>()`#*~\n%{}=-/", max_size=30))
def test_a_line_given_to_a_shell_arrives_as_it_is(line: str) -> None:
    """Whatever is in it: to the shell around it, it is one word."""
    assert shlex.split(shell_call("/bin/sh", line), posix=True) == ["/bin/sh", "-c", line]


@given(st.lists(st.text("ab c;|", min_size=1, max_size=4), min_size=1, max_size=3))
def test_words_of_a_plain_command_are_those_of_the_shell(words: list[str]) -> None:
    """A real shell is asked: a command of the config starts with the same arguments."""
    line = shlex.join(["/bin/p", *words])
    shell = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True, timeout=60
    )

    assert plain_words(line) == shell.stdout.split("\0")[:-1]


@pytest.mark.parametrize("line", ["a $B", "a *", "a ~/x", "a {b,c}", "a b; c", "a 'b", "a [bc]", "a !b"])
def test_what_a_shell_would_expand_has_no_words(line: str) -> None:
    """It stays a line of shell."""
    assert plain_words(line) is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("a | b", "pipe"),
        ("a; b", "last command"),
        ("a || true", "||"),
        ("a; b &", "background"),
        ("a && b", ""),
        ("a ';' b", ""),
    ],
)
def test_a_status_that_hides_failures_is_told(line: str, word: str) -> None:
    """Since a ping says that the job succeeded; && hides nothing."""
    assert (word in doubt(line)) if word else (doubt(line) == "")

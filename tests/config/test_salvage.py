"""What is left of TOML that isn't valid: all tables but the broken ones, at their lines."""

import tomllib

import pytest

from aura_agent.config.salvage import salvage

GOOD = '[agent]\nstate_dir = "/s"\n'


@pytest.mark.parametrize(
    ("broken", "dropped"),
    [
        ("[jobs.a]\nretries =\n", ["jobs.a"]),
        ('[jobs.a]\nshell = "true\n', ["jobs.a"]),
        ("[jobs.a\nretries = 1\n", ["jobs.a"]),
        ("[jobs.a]\nretries = 1\nretries = 2\n", ["jobs.a"]),
        ("[jobs.a]\n[jobs.a]\n", ["jobs.a"]),
        ("[jobs.a]\nenv = { A = 1\n[jobs.b]\nretries 3\n", ["jobs.a", "jobs.b"]),
    ],
)
def test_broken_tables_are_left_out(broken: str, dropped: list[str]) -> None:
    """Before and after the good ones, which keep their lines."""
    for text in (broken + GOOD, GOOD + broken):
        saved = salvage(text)

        assert saved is not None
        assert saved[1] == dropped
        assert tomllib.loads(saved[0])["agent"] == {"state_dir": "/s"}
        assert saved[0].count("\n") == text.count("\n")


def test_a_table_inside_a_text_is_not_taken_for_one() -> None:
    text = "[jobs.a]\nshell = '''\n[agent]\nstate_dir = \"/evil\"\n'''\n" + "[jobs.b]\nretries =\n" + GOOD

    saved = salvage(text)

    assert saved is not None
    assert tomllib.loads(saved[0])["agent"] == {"state_dir": "/s"}


@pytest.mark.parametrize("header", ["[agent", "[ agent ]", '["agent"]', "[[agent]] # x"])
def test_a_table_that_is_left_out_is_named(header: str) -> None:
    assert salvage(f"{header}\nstate_dir =\n") == ("\n\n", ["agent"])


def test_what_stands_above_all_tables_has_no_name() -> None:
    assert salvage("\0\n" + GOOD) == ("\n" + GOOD, [""])


def test_text_with_too_many_broken_tables_is_given_up() -> None:
    assert salvage("\n".join(f"[t{n}" for n in range(200))) is None

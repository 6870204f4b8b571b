"""Taking a change back line by line, where a file has changed since."""

from hypothesis import given, strategies as st

from aura_agent.discover.merge import take_back

LINES = st.lists(st.sampled_from(["a\n", "b\n", "\n", "# c\n", "b b\n"]), max_size=8)


@given(before=LINES, wrapped=st.sets(st.integers(0, 7)), added=st.lists(st.integers(0, 8), max_size=4))
def test_wrapped_lines_go_back_beside_lines_of_others(before: list[str], wrapped: set[int], added: list[int]) -> None:
    """Equal lines too; what others have added stays where it is."""
    after = [f"run -- {line}" if at in wrapped else line for at, line in enumerate(before)]
    now, wanted = list(after), list(before)
    for number, at in enumerate(added):
        for lines in (now, wanted):
            lines.insert(min(at, len(lines)), f"# new {number}\n")

    text, missing = take_back("".join(before), "".join(after), "".join(now))

    assert (text, missing) == ("".join(wanted), [])


@given(
    before=LINES, added=st.lists(st.lists(st.sampled_from(["[x]\n", "y = 1\n"]), min_size=1, max_size=3), max_size=4)
)
def test_paragraphs_that_were_added_are_removed(before: list[str], added: list[list[str]]) -> None:
    """As sections of the config are; one that somebody has put behind them stays."""
    after = "".join(before) + "".join("\n" + "".join(lines) for lines in added)

    text, missing = take_back("".join(before), after, f"{after}\n[mine]\n")

    assert (text, missing) == ("".join(before) + "\n[mine]\n", [])


def test_a_file_that_was_made_goes_when_nothing_else_is_in_it() -> None:
    """Else it stays with what others have put there."""
    assert take_back(None, "# head\n\n[x]\n", "# head\n\n[x]\n") == (None, [])
    assert take_back(None, "# head\n\n[x]\n", "# head\n\n[mine]\n\n[x]\n") == ("\n[mine]\n", [])


def test_lines_that_are_gone_are_named() -> None:
    """The others are taken back all the same."""
    text, missing = take_back("a\nb\n", "run a\nrun b\n", "run -q a\nrun b\n")

    assert (text, missing) == ("run -q a\nb\n", ["run a\n"])
    assert take_back("a\n", "run a\n", None) == (None, ["the file was removed"])


def test_removed_lines_come_back_at_the_end() -> None:
    """Nothing says where they stood in what the file is now."""
    assert take_back("[a]\n\n[b]\n", "[a]\n", "[mine]\n") == ("[mine]\n\n[b]\n", [])

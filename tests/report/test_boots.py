"""The count of boots."""

from pathlib import Path

from aura_agent.report import boots


def test_each_boot_gets_the_next_number_and_keeps_it(tmp_path: Path) -> None:
    """First seen, first counted; seen again, the same number as long as no other came between."""
    directory = str(tmp_path)

    assert [boots.count(directory, boot) for boot in ("a", "a", "b", "b", "c", "c")] == [1, 1, 2, 2, 3, 3]
    assert boots.lines(directory) == ["a", "b", "c"]


def test_a_store_that_comes_back_to_a_host_comes_later_than_what_happened_elsewhere(tmp_path: Path) -> None:
    """The host has not been booted meanwhile: its boot is counted anew, and its old number is another's."""
    directory = str(tmp_path)

    assert [boots.count(directory, boot) for boot in ("a", "b", "a", "a")] == [1, 2, 3, 3]
    assert boots.lines(directory) == ["a", "b", "a"]


def test_a_torn_line_keeps_the_order(tmp_path: Path) -> None:
    """A boot whose line was cut by a power cut counts as one that nobody meets again."""
    (tmp_path / "boots").write_text("a\nb-to")

    assert boots.count(str(tmp_path), "c") == 3
    assert boots.count(str(tmp_path), "c") == 3


def test_this_boot_has_an_id() -> None:
    """The kernel's id of this boot looks like one."""
    assert len(boots.current_boot_id()) == 36

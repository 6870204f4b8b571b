"""The count of boots."""

from pathlib import Path

from aura_agent.report import boots


def test_each_boot_gets_the_next_number_and_keeps_it(tmp_path: Path) -> None:
    """First seen, first counted; seen again, the same number."""
    directory = str(tmp_path)

    counted = [boots.count(directory, boot) for boot in ("a", "b", "a", "b", "c", "b")]

    assert counted == [1, 2, 1, 2, 3, 2]
    assert {boot: boots.known(directory)[boot] for boot in "abc"} == {"a": 1, "b": 2, "c": 3}


def test_a_torn_line_keeps_the_order(tmp_path: Path) -> None:
    """A boot whose line was cut by a power cut counts as one that nobody meets again."""
    (tmp_path / "boots").write_text("a\nb-to")

    assert boots.count(str(tmp_path), "c") == 3
    assert boots.count(str(tmp_path), "a") == 1


def test_this_boot_has_an_id() -> None:
    """The kernel's id of this boot looks like one."""
    assert len(boots.current_boot_id()) == 36

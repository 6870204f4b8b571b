"""The count of boots."""

import os
import time
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


def test_a_boot_is_recognised_by_its_clocks(tmp_path: Path) -> None:
    """Without the kernel's id: as long as the wall clock is as far ahead of CLOCK_BOOTTIME as it was."""
    assert boots.recognised(str(tmp_path)) == ""
    boots.count(str(tmp_path), "a")
    assert boots.recognised(str(tmp_path)) == "a"
    boots.count(str(tmp_path), "b")
    assert boots.recognised(str(tmp_path)) == "b"


def test_a_boot_with_other_clocks_is_another_one(tmp_path: Path) -> None:
    """Rebooted, or the wall clock was set: it is ordered after all that was before."""
    boots.count(str(tmp_path), "a")
    (boot_id, ahead_ns) = (tmp_path / "boot-clock").read_text().split()
    (tmp_path / "boot-clock").write_text(f"{boot_id} {int(ahead_ns) - 10_000_000_000}\n")

    assert boots.recognised(str(tmp_path)) == ""


def test_a_store_with_files_of_the_future_is_of_another_boot(tmp_path: Path) -> None:
    """A host without a clock begins each boot at one date: what was later than now was in an earlier boot."""
    boots.count(str(tmp_path), "a")
    (tmp_path / "outbox.db").touch()
    later_s = time.time() + 3600
    os.utime(tmp_path / "outbox.db", (later_s, later_s))

    assert boots.recognised(str(tmp_path)) == ""


def test_the_clock_of_another_boot_than_the_last_says_nothing(tmp_path: Path) -> None:
    """A crash between the two files, or a version that didn't write the second."""
    boots.count(str(tmp_path), "a")
    with (tmp_path / "boots").open("a") as file:
        file.write("b\n")

    assert boots.recognised(str(tmp_path)) == ""

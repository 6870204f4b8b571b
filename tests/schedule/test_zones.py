"""Zones by name, and the host's own from the three places where a host keeps it."""

import os
import zoneinfo
from importlib import resources
from pathlib import Path

import pytest

from aura_agent.errors import ScheduleError
from aura_agent.schedule.zones import host_zone, zone
from tests.schedule.times import at


def zone_file(name: str) -> bytes:
    """Return the compiled zone, from the system or from the tzdata package, whichever this machine has."""
    for directory in zoneinfo.TZPATH:
        if (path := Path(directory, name)).is_file():
            return path.read_bytes()
    return resources.files("tzdata.zoneinfo").joinpath(name).read_bytes()


def host(root: Path, *, link: str = "", timezone: str = "", copy_of: str = "") -> str:
    """Make a root directory with what is given, and return its path."""
    (root / "etc").mkdir()
    if link:
        os.symlink(link, root / "etc/localtime")
    if copy_of:
        (root / "etc/localtime").write_bytes(zone_file(copy_of))
    if timezone:
        (root / "etc/timezone").write_text(timezone, encoding="utf-8")
    return str(root)


def test_a_zone_is_found_by_its_name() -> None:
    """The IANA name is the key."""
    assert zone("Europe/Berlin").key == "Europe/Berlin"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Belin", 'did you mean "Europe/Berlin"?'),
        ("europe/berlin", 'did you mean "Europe/Berlin"?'),
        ("berlin", 'did you mean "Europe/Berlin"?'),
        ("New York", 'did you mean "America/New_York"?'),
        ("CEST", 'use an IANA name such as "Europe/Berlin"'),
        ("", 'use an IANA name such as "Europe/Berlin"'),
        ("../../etc/passwd", "use an IANA name"),
        ("/usr/share/zoneinfo/Europe/Berlin", ""),
        ("Europe", ""),
    ],
)
def test_an_unknown_zone_is_an_error_with_the_nearest_name(name: str, hint: str) -> None:
    """An abbreviation gets no guess: the nearest text may be hours away."""
    with pytest.raises(ScheduleError) as caught:
        zone(name)

    assert f'unknown time zone "{name}"; ' in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "tz",
    [
        "America/New_York",
        ":America/New_York",
        "/usr/share/zoneinfo/America/New_York",
        ":/x/zoneinfo/posix/America/New_York",
    ],
)
def test_the_environment_comes_first(tmp_path: Path, tz: str) -> None:
    """TZ in each of its spellings beats the files."""
    root = host(tmp_path, link="/usr/share/zoneinfo/Europe/Berlin", timezone="Europe/Paris")

    assert zone(None, tz_env=tz, root=root).key == "America/New_York"


def test_a_posix_rule_in_the_environment_is_refused(tmp_path: Path) -> None:
    """Falling back would shift every job without a word."""
    with pytest.raises(ScheduleError, match="environment variable TZ") as caught:
        host_zone("CET-1CEST,M3.5.0,M10.5.0/3", host(tmp_path))

    assert "set timezone in the config" in str(caught.value)


@pytest.mark.parametrize("tz", [None, ""])
def test_the_link_comes_before_the_name(tmp_path: Path, tz: str | None) -> None:
    """/etc/localtime is what the C library goes by; an empty TZ counts as unset."""
    root = host(tmp_path, link="../usr/share/zoneinfo/Europe/Berlin", timezone="Europe/Paris")

    assert host_zone(tz, root).key == "Europe/Berlin"


def test_the_name_counts_if_the_link_has_none(tmp_path: Path) -> None:
    """A copied /etc/localtime has no name; /etc/timezone has."""
    assert host_zone(None, host(tmp_path, copy_of="Europe/Berlin", timezone="Europe/Paris\n")).key == "Europe/Paris"


def test_a_copied_file_without_a_name_is_read_itself(tmp_path: Path) -> None:
    """The clocks are the host's even if nobody knows what they are called."""
    found = host_zone(None, host(tmp_path, copy_of="Europe/Berlin"))

    assert at("2026-07-01T00:00Z").astimezone(found).isoformat() == "2026-07-01T02:00:00+02:00"


def test_a_host_that_says_nothing_keeps_utc(tmp_path: Path) -> None:
    """As the C library has it; nonsense in the files counts as nothing."""
    assert host_zone(None, host(tmp_path)).key == "UTC"
    assert host_zone(None, host(tmp_path / "etc", link="/nowhere/at/all", timezone="Not/There")).key == "UTC"

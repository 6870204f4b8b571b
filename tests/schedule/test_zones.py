"""Zones by name, and the host's own: what tzset(3) has it be, compared with the C library itself."""

import os
import subprocess
import sys
from datetime import datetime
from importlib import resources
from pathlib import Path

import pytest

from aura_agent.errors import ScheduleError
from aura_agent.schedule.zones import host_zone, zone
from tests.e2e.sites import AURA_AGENT

# Of the package, whose version is pinned: what the host has of its own may be older, newer or nothing.
ZONES = Path(str(resources.files("tzdata"))) / "zoneinfo"
_DAYS = range(1_700_000_000, 1_760_000_000, 3 * 86_400)


def zone_file(name: str) -> bytes:
    """Return the compiled zone."""
    return (ZONES / name).read_bytes()


def host(root: Path, *, link: str = "", timezone: str = "", copy_of: str = "") -> str:
    """Make a root directory that has its own zones and what is given, and return its path."""
    (root / "etc").mkdir()
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/zoneinfo").symlink_to(ZONES)
    if link:
        os.symlink(link, root / "etc/localtime")
    if copy_of:
        (root / "etc/localtime").write_bytes(zone_file(copy_of))
    if timezone:
        (root / "etc/timezone").write_text(timezone, encoding="utf-8")
    return str(root)


def _offsets(root: str, tz: str | None = None) -> list[int]:
    found = host_zone(tz, str(ZONES), root).zone
    ends = (datetime.fromtimestamp(at_s, found).utcoffset() for at_s in _DAYS)
    return [int(offset.total_seconds()) for offset in ends if offset is not None]


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
        *("Europe/Berlin", ":Europe/Berlin", f"{ZONES}/Asia/Tokyo", f":{ZONES}/Australia/Sydney", "EST5EDT", "", ":"),
        *("CET-1CEST,M3.5.0,M10.5.0/3", "CET-1CEST", "<+0330>-3:30", "AEST-10AEDT,M10.1.0,M4.1.0/3", "UTC0"),
        *("EET-2EEST,J90/3,J300/4", "IST-2IDT,M3.4.4/26,M10.5.0", "WGT3WGST,M3.5.0/-2,M10.5.0/-1", "GMT+5"),
        *("No/Where", "nonsense", "/nonexistent/zone", "../../../etc/passwd"),
    ],
)
def test_the_variable_means_what_the_c_library_makes_of_it(tmp_path: Path, tz: str) -> None:
    """Each form of tzset(3): a name, a path, a rule, nothing, nonsense. The files of the host don't count then."""
    show = f"import time; print(*[time.localtime(at_s).tm_gmtoff for at_s in {_DAYS}])"
    environment = {**os.environ, "TZ": tz, "TZDIR": str(ZONES)}
    told = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, check=True).stdout
    host(tmp_path, copy_of="America/New_York", timezone="Europe/Paris")

    assert _offsets("/", tz) == [int(offset) for offset in told.split()]


@pytest.mark.parametrize("tz", ["No/Where", "nonsense"])
def test_a_variable_that_names_no_zone_is_doubted(tz: str) -> None:
    """The C library takes UTC without a word; we say so."""
    found = host_zone(tz, str(ZONES))

    assert (found.zone.key, found.doubt) == (
        "UTC",
        f"TZ={tz} names no zone, which means UTC: correct it, or set timezone",
    )


def test_a_zone_that_only_the_package_has_is_doubted(tmp_path: Path) -> None:
    """A container without tzdata: what TZ names is meant, though the host's programs don't know it."""
    found = host_zone("Europe/Berlin", str(tmp_path))

    assert found.zone.key == "Europe/Berlin"
    assert "its programs take UTC" in found.doubt


def test_a_copied_localtime_counts_and_not_the_name_beside_it(tmp_path: Path) -> None:
    """The C library reads the file and nothing else."""
    root = host(tmp_path, copy_of="America/Los_Angeles", timezone="Europe/Paris\n")

    assert _offsets(root) == _offsets("/", "America/Los_Angeles")
    assert 'says "Europe/Paris", but /etc/localtime, which counts' in host_zone(None, root=root).doubt


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "Europe/Berlin\n", "Arctic/Longyearbyen", ""])
def test_a_copy_has_the_name_that_fits_it(tmp_path: Path, timezone: str) -> None:
    """Other names of the same clocks are no contradiction."""
    found = host_zone(None, root=host(tmp_path, copy_of="Europe/Berlin", timezone=timezone))

    assert found.doubt == ""
    assert found.zone.key == (timezone.strip() or "localtime")


def test_links_are_followed_to_the_end(tmp_path: Path) -> None:
    """By way of another link, as some distributions and images have it."""
    root = host(tmp_path, link="localtime.link", timezone="Europe/Paris")
    os.symlink("../usr/share/zoneinfo/Asia/Tokyo", tmp_path / "etc/localtime.link")

    found = host_zone(None, root=root)

    assert (found.zone.key, _offsets(root)) == ("Asia/Tokyo", [9 * 3600] * len(_DAYS))
    assert "Europe/Paris" in found.doubt


@pytest.mark.parametrize("what", ["dangling", "garbage", "directory", "fifo"])
def test_a_localtime_that_is_none_means_utc_and_is_doubted(tmp_path: Path, what: str) -> None:
    """Whatever lies there; nobody waits for it."""
    root = host(tmp_path, link="nowhere" if what == "dangling" else "")
    place = tmp_path / "etc/localtime"
    if what == "garbage":
        place.write_bytes(b"TZif2 and no more")
    elif what == "directory":
        place.mkdir()
    elif what == "fifo":
        os.mkfifo(place)

    found = host_zone(None, root=root)

    assert found.zone.key == "UTC"
    assert "/etc/localtime can't be read" in found.doubt


def test_a_host_that_says_nothing_keeps_utc(tmp_path: Path) -> None:
    """As the C library has it, and there is nothing to doubt."""
    assert host_zone(None, root=host(tmp_path)) == (zone("UTC"), "")


def test_a_zone_is_one_object_for_the_schedules_that_are_read_in_it(tmp_path: Path) -> None:
    """Or a reload would find each of them changed."""
    root = host(tmp_path, copy_of="Europe/Berlin")

    assert host_zone(None, root=root).zone is host_zone(None, root=root).zone


def test_next_reads_a_schedule_in_the_zone_of_a_rule(tmp_path: Path) -> None:
    """A job at noon where noon is 03:00 in UTC."""
    (tmp_path / "config.toml").write_text('[jobs.noon]\nschedule = "0 12 * * *"\ncommand = ["true"]\n')
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TZ": "XYZ-9", "TZDIR": str(ZONES)}

    told = subprocess.run(
        [AURA_AGENT, "next", "noon", "-c", "config.toml", "-n", "1", "--json", "--at", "2026-07-01T00:00:00Z"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout

    assert '"2026-07-01T12:00:00+09:00"' in told


@pytest.mark.parametrize(("job", "warned"), [("", True), ('timezone = "Europe/Berlin"\n', False)])
def test_check_warns_of_a_host_whose_files_differ(tmp_path: Path, job: str, *, warned: bool) -> None:
    """Only where a schedule is read in the host's zone."""
    (tmp_path / "config.toml").write_text(f'[jobs.noon]\nschedule = "0 12 * * *"\n{job}command = ["true"]\n')
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TZ": "No/Where", "TZDIR": str(ZONES)}

    checked = subprocess.run(
        [AURA_AGENT, "check", "-c", "config.toml"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )

    assert checked.returncode == 0
    assert ("TZ=No/Where names no zone" in checked.stdout + checked.stderr) == warned

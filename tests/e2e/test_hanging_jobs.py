"""A job whose program, directory or variables lie on a disk that hangs holds up no other job, and no stop."""

from pathlib import Path

import pytest

from tests.e2e.sites import Site
from tests.hanging import fuse, hanging
from tests.machine import needs
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, needs(fuse)]
_SLOW = '[jobs.slow]\nschedule = "@yearly"\n'
_QUICK = '[jobs.quick]\nevery = "1s"\ncommand = ["/bin/true"]\n'


def _runs(site: Site, job: str) -> list[str]:
    return [str(outcome) for (outcome,) in site.rows(f"SELECT outcome FROM runs WHERE job = '{job}'")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "hanging"
    place.mkdir()
    return place


@pytest.mark.parametrize(
    "settings",
    [
        'command = ["{}/program"]',
        'command = ["/bin/true"]\ncwd = "{}/inner"',
        'command = ["/bin/true"]\nenv_file = "{}/env"',
    ],
    ids=["program", "directory", "variables"],
)
def test_the_others_run_on_time(site: Site, place: Path, settings: str) -> None:
    """And the daemon answers, and ends on SIGTERM; its own run is skipped then."""
    site.configure(f"{_SLOW}{settings.format(place)}\n{_QUICK}")
    with hanging(place):
        site.start()
        assert site.agent("trigger", "slow").returncode == 0
        before = len(_runs(site, "quick"))
        wait_until(lambda: len(_runs(site, "quick")) > before + 2, what="runs of the other job")
        assert "slow" in site.agent("status").stdout
        assert site.stop() == 0

    assert _runs(site, "slow") == ["skipped"]


def test_the_job_starts_once_its_disk_answers(site: Site, place: Path) -> None:
    """Even if with an error: then it says which."""
    site.configure(f'{_SLOW}command = ["{place}/program"]\n')
    with hanging(place):
        site.start()
        assert site.agent("trigger", "slow").returncode == 0
        wait_until(lambda: "does not answer" in site.agent("status").stdout, what="a run that waits")
        assert _runs(site, "slow") == []

    wait_until(lambda: _runs(site, "slow"), what="its outcome")
    assert _runs(site, "slow") == ["not_started"]


def test_a_failure_before_a_retry_that_never_began_stays_one(site: Site, place: Path) -> None:
    """The disk hangs between two attempts, and the daemon is stopped: the run has failed, and isn't skipped."""
    settings = f'command = ["/bin/false"]\ncwd = "{place}"\nretries = 1\nretry_delay = "2s"\n'
    site.configure(_SLOW + settings)
    site.start()
    assert site.agent("trigger", "slow").returncode == 0
    wait_until(lambda: site.events("run.started"), what="the first attempt")
    with hanging(place):
        wait_until(lambda: "does not answer" in site.agent("status", "--json").stdout, what="a retry that waits")
        assert site.stop() == 0

    assert _runs(site, "slow") == ["failed"]


def test_a_job_beside_a_hanging_mount_is_started_as_ever(site: Site, place: Path) -> None:
    """Only what lies there is looked at first."""
    site.configure(f'[jobs.near]\nschedule = "@yearly"\ncommand = ["/bin/true"]\ncwd = "{place.parent}"\n')
    site.start()
    with hanging(place):
        assert site.agent("trigger", "near").returncode == 0
        wait_until(lambda: _runs(site, "near"), what="its outcome")

    assert _runs(site, "near") == ["succeeded"]

"""A year of the scheduler, its store and its restarts, on a clock that is set forward and back.

AURA_SCHEDULE_DAYS sets how many days (default 14, those in which Europe and America change their clocks; 365: the
whole year), AURA_SCHEDULE_SEED repeats a run.
"""

import asyncio
import os
import random
import secrets
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from aura_agent.daemon.scheduler import Scheduler, Timed
from aura_agent.errors import ScheduleError
from aura_agent.schedule.plan import Schedule, build
from tests.daemon.stores import Seen, opened
from tests.daemon.travel import TravellingClock, TravellingLoop
from tests.schedule import cronie
from tests.schedule.test_differential import random_job

_DAYS = int(os.environ.get("AURA_SCHEDULE_DAYS") or 14)
_START = datetime(2026, 10, 21, tzinfo=UTC) if _DAYS < 300 else datetime(2026, 1, 1, tzinfo=UTC)
_END = _START + timedelta(days=_DAYS)
_JOBS = 50
_RESTARTS = 100
_MOST_A_DAY = 24  # of one job: what matters is when, not how often
_ZONES = (
    *("Europe/Berlin", "Europe/London", "America/New_York", "America/Santiago", "Australia/Lord_Howe"),
    *("Africa/Casablanca", "Africa/Cairo", "Pacific/Apia", "Asia/Kolkata", "UTC"),
)


@pytest.mark.timeout(3600)
def test_each_slot_runs_once_whatever_restarts_and_clocks_do(tmp_path: Path) -> None:
    """50 jobs in ten zones start at exactly the fire times of cronie's loop, each once, over 100 restarts with down
    times, while the clock is set forward and back.
    """
    seed = int(os.environ.get("AURA_SCHEDULE_SEED") or secrets.randbelow(1 << 32))
    print(f"AURA_SCHEDULE_SEED={seed} AURA_SCHEDULE_DAYS={_DAYS}")
    rng = random.Random(seed)
    jobs = dict(_jobs(rng))

    loop = TravellingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        started = runner.run(_live(rng, {name: schedule for name, (_, schedule) in jobs.items()}, loop, tmp_path))

    tables = {zone: cronie.minutes_from(ZoneInfo(zone), _START, _END) for zone in _ZONES}
    count = 0
    for number, (name, (job, _)) in enumerate(jobs.items()):
        golden = list(cronie.fires(job, tables[_zone(number)]))
        assert started[name] == golden, f'"{job.text}" in {_zone(number)}'
        count += len(golden)
    print(f"{count} fire times")


async def _live(
    rng: random.Random, schedules: dict[str, Schedule], loop: TravellingLoop, directory: Path
) -> dict[str, list[datetime]]:
    """Let daemons come and go until the end; return what each job's runs were for, in the order of their starts."""
    clock = TravellingClock(loop, _START)
    started: dict[str, list[datetime]] = defaultdict(list)
    timed = {
        name: Timed(
            name,
            schedule,
            lambda at, _why, name=name: started[name].append(at) if at < _END else None,  # type: ignore[misc]
            catch_up="all",
            limit=1000,
        )
        for name, schedule in schedules.items()
    }
    life_s = _DAYS * 86400 / _RESTARTS
    async with opened(directory) as worker:
        while True:
            scheduler = Scheduler(worker, clock, Seen(), "boot")
            await scheduler.load()
            scheduler.replace(timed)
            running = asyncio.create_task(scheduler.run())
            await asyncio.sleep(rng.uniform(0, 0.9 * life_s))
            clock.step_s += rng.choice((0, 0, 1)) * rng.randrange(-7200, 7200)
            await asyncio.sleep(rng.uniform(0, 0.9 * life_s))
            scheduler.end()
            await running
            if clock.wall > _END + timedelta(minutes=1):
                return started
            await asyncio.sleep(rng.uniform(0, 0.2 * life_s))  # nobody is there


def _jobs(rng: random.Random) -> list[tuple[str, tuple[cronie.Job, Schedule]]]:
    jobs: list[tuple[str, tuple[cronie.Job, Schedule]]] = []
    while len(jobs) < _JOBS:
        job = random_job(rng, _START + timedelta(days=rng.randrange(_DAYS)))
        if job.seconds is not None or len(job.minutes) * len(job.hours) > _MOST_A_DAY:
            continue
        name = f"job-{len(jobs)}"
        try:
            schedule = build(job.text, None, job=name, zone=ZoneInfo(_zone(len(jobs))))
        except ScheduleError:
            continue  # it never fires
        jobs.append((name, (job, schedule)))
    return jobs


def _zone(number: int) -> str:
    return _ZONES[number % len(_ZONES)]

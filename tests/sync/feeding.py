"""Feeders of jobs as a config writes them, and heartbeats as Aura lists them, on a day in November 2026."""

from datetime import UTC, datetime
from typing import Any

from aura_agent.api import Heartbeat
from aura_agent.config.models import AgentSettings, Config, Job
from aura_agent.schedule.plan import Schedule, build
from aura_agent.schedule.zones import zone
from aura_agent.sync.feeders import Feeder, declared_feeders
from aura_agent.sync.timing import Timing

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
UUID = "0b8ad9a2-5c6e-4d0e-9a55-0f6a5b1f7c11"


def schedule_of(name: str, job: Job) -> Schedule | None:
    if job.schedule is None and job.every is None:
        return None
    return build(job.schedule, job.every, job=name, zone=zone(job.timezone or "Europe/Berlin"))


def feeders(*, agent: str | None = None, now: datetime = NOW, **jobs: Job) -> list[Feeder]:
    return declared_feeders(Config(agent=AgentSettings(heartbeat=agent), jobs=jobs), schedule_of, now)


def timing(*, now: datetime = NOW, **keys: Any) -> Timing:
    """Return the timing of a job with these keys, which has one."""
    (feeder,) = feeders(now=now, any=Job(**keys))
    assert feeder.timing is not None
    return feeder.timing


def heartbeat(
    name: str, interval_s: float | None = 86400, grace_s: float | None = 3600, *, identity: str = "", status: str = "up"
) -> Heartbeat:
    return Heartbeat(
        id=identity or f"id-of-{name}",
        name=name,
        status=status,
        expected_interval_s=interval_s,
        grace_period_s=grace_s,
    )

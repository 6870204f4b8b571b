"""What ``sync`` and ``check --online`` share: the heartbeats that a config declares, and those that Aura has."""

import os
from dataclasses import dataclass

from aura_agent.api import AuraClient, Heartbeat
from aura_agent.cli.next import schedule_of
from aura_agent.clock import SystemClock
from aura_agent.config.load import Examined, examine_config
from aura_agent.config.models import Config, Job
from aura_agent.config.settings import config_path
from aura_agent.errors import ConfigError
from aura_agent.schedule.plan import Schedule
from aura_agent.sync.feeders import declared_feeders
from aura_agent.sync.plan import FedHeartbeat, Finding, Step, find_targets, plan_steps


@dataclass(frozen=True, slots=True)
class Declared:
    """What the config names, beside what Aura has. ``unclear``: names that stand for several; ``impossible``: what
    sync can't do.
    """

    listed: list[Heartbeat]
    targets: list[FedHeartbeat]
    steps: list[Step]
    unclear: list[Finding]
    impossible: list[Finding]


def examine(config_file: str | None) -> tuple[Examined, Config]:
    """Return the config that *config_file*, AURA_CONFIG or the usual place names. Raises AuraError: none, or broken."""
    examined = examine_config(config_path(config_file, os.environ))
    if examined.config is None:
        raise ConfigError(examined.problems)
    return examined, examined.config


async def look_up(config: Config, client: AuraClient) -> Declared:
    """List what Aura has, and hold the config against it. Raises ApiError, ScheduleError."""
    listed = [heartbeat async for heartbeat in client.list_heartbeats()]
    targets, unclear = find_targets(declared_feeders(config, _schedule, SystemClock().read().wall), listed)
    steps, impossible = plan_steps(targets, listed)
    return Declared(listed, targets, steps, unclear, impossible)


def _schedule(name: str, job: Job) -> Schedule | None:
    return None if job.schedule is None and job.every is None else schedule_of(name, job)[0]

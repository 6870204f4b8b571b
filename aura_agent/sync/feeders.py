"""Who feeds which heartbeat, as the config declares it: the jobs that are enabled, and the agent itself. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aura_agent.config.lines import Path
from aura_agent.config.models import Config, Job
from aura_agent.schedule.plan import Schedule
from aura_agent.sync.timing import Timing, timing_of

AGENT_INTERVAL_S = 60.0  # how often a healthy agent pings its own heartbeat


@dataclass(frozen=True, slots=True)
class Feeder:
    """One job, or the agent, and what it asks of its heartbeat.

    ``heartbeat`` is an id or a name, ``path`` the key that says so. ``timing`` is None if nothing is known of when its
    pings come; ``grace_s`` is None only then, and if the config doesn't say it. ``through_outbox``: its pings are on
    record in the store (those of a watch and of the agent aren't).
    """

    path: Path
    heartbeat: str
    timing: Timing | None
    grace_s: int | None
    through_outbox: bool

    @property
    def label(self) -> str:
        return ".".join(map(str, self.path[:-1]))

    @property
    def interval_s(self) -> int | None:
        return None if self.timing is None else self.timing.whole_interval_s()


def declared_feeders(config: Config, schedule_of: Callable[[str, Job], Schedule | None], now: datetime) -> list[Feeder]:
    """Return the feeders in the order of the config, the agent first; *schedule_of* is None for what has no fire times.

    Raises what *schedule_of* raises.
    """
    feeders = []
    if config.agent.heartbeat is not None:
        timing = Timing(AGENT_INTERVAL_S, AGENT_INTERVAL_S, "a healthy agent pings every minute")
        path: Path = ("agent", "heartbeat")
        feeders.append(Feeder(path, config.agent.heartbeat, timing, timing.default_grace_s(), through_outbox=False))
    for name, job in config.jobs.items():
        if not job.enabled:
            continue
        timed = timing_of(job, schedule_of(name, job), now)
        feeders.append(
            Feeder(
                path=("jobs", name, "heartbeat"),
                heartbeat=job.heartbeat or name,
                timing=timed,
                grace_s=_grace_s(job, timed),
                through_outbox=job.watch is None,
            )
        )
    return feeders


def _grace_s(job: Job, timing: Timing | None) -> int | None:
    if job.grace is not None:
        return round(job.grace)
    return None if timing is None else timing.default_grace_s()

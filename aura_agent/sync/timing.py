"""What a job's schedule and limits mean for its heartbeat: how often it is pinged, and how long a healthy job may be
silent. docs/heartbeats.md tells the same to users.

Pure; lengths are seconds. A ping arrives when a run ends, so between two pings lies the time between two fire times,
plus all by which the second run may take longer than the first.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from aura_agent.config.models import Job
from aura_agent.config.schema import write_duration
from aura_agent.schedule.gaps import Gap, changed_gaps, clock_changes_s, coming_gaps, nominal_interval_s
from aura_agent.schedule.plan import Schedule
from aura_agent.schedule.retry import all_retries_s

# A try that fails is repeated after five minutes at the latest (delivery.backoff); nobody is to be woken for one.
DELIVERY_S = 300.0
_ROUND_UP_TO_S = 300
# What a run is granted that has no time-out: a tenth of the interval, but no more than an hour.
_UNKNOWN_RUN_SHARE, _UNKNOWN_RUN_MAX_S = 0.1, 3600.0
_DAY_S = 86_400.0
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When the pings of one feeder come, if it is healthy.

    ``interval_s`` is the longest time between two fire times by the calendar, ``gap_s`` the longest that really comes,
    ``clock_changes_s`` by how much changes of the clocks may lengthen the interval. ``run_s`` is the longest run that
    ends well, None if it has no limit. ``gap_text`` and ``run_text`` tell of them in words; ``gaps_s`` are the next
    49 times between two fire times.
    """

    interval_s: float
    gap_s: float
    gap_text: str
    clock_changes_s: float = 0.0
    run_s: float | None = 0.0
    run_text: str = ""
    jitter_s: float = 0.0
    gaps_s: tuple[float, ...] = ()

    @property
    def silence_s(self) -> float:
        """The longest time between two pings of a healthy job; without a limit of the run, of one that takes none."""
        return max(self.gap_s, self.interval_s + self.clock_changes_s) + (self.run_s or 0.0) + self.jitter_s

    def whole_interval_s(self) -> int:
        """Return the interval as Aura takes it: whole seconds, and at least one."""
        return max(1, math.ceil(self.interval_s))

    def default_grace_s(self) -> int:
        """Return the grace that no healthy job exceeds, the same all year, in whole five minutes."""
        unknown_s = min(self.interval_s * _UNKNOWN_RUN_SHARE, _UNKNOWN_RUN_MAX_S) if self.run_s is None else 0.0
        late_s = self.silence_s - self.interval_s + unknown_s + DELIVERY_S
        return math.ceil(late_s / _ROUND_UP_TO_S) * _ROUND_UP_TO_S

    def text(self) -> str:
        """Return in words what the longest silence is made of."""
        parts = [self.gap_text]
        more_s = self.interval_s + self.clock_changes_s - self.gap_s
        if more_s > 0:
            parts.append(f"up to {write_duration(more_s)} more when the clocks are changed")
        if self.jitter_s:
            parts.append(f"starts up to {write_duration(self.jitter_s)} later (jitter)")
        if self.run_s is None:
            parts.append("a run may take any time (no timeout)")
        elif self.run_s:
            parts.append(self.run_text)
        return ", ".join(parts)


def timing_of(job: Job, schedule: Schedule | None, now: datetime) -> Timing | None:
    """Return the timing of *job*, from *now* on; *schedule* is None if something else runs it.

    None: nothing can be said, as for a bare @reboot, or a job that something else runs without ``expected_interval``.
    """
    if job.watch is not None:
        assert job.every is not None
        every = write_duration(job.every)
        return Timing(interval_s=job.every, gap_s=job.every, gap_text=f"is looked at every {every}")
    run_s, run_text = _longest_run(job)
    if schedule is None:
        if job.expected_interval is None:
            return None
        text = f"runs every {write_duration(job.expected_interval)}"
        # Whoever runs it likely goes by the clock on the wall, whose days have up to 25 hours.
        changes_s = _HOUR_S if job.expected_interval >= _DAY_S else 0.0
        return Timing(job.expected_interval, job.expected_interval, text, changes_s, run_s, run_text)
    interval_s = nominal_interval_s(schedule)
    if interval_s is None:
        return None
    coming = coming_gaps(schedule, now)
    longest = max([*coming, *changed_gaps(schedule, now)], key=lambda gap: gap.seconds)
    if job.overlap == "replace" and run_s is not None and run_s > longest.seconds:
        run_s, run_text = longest.seconds, f"a run may take {write_duration(longest.seconds)} (the next replaces it)"
    return Timing(
        interval_s=interval_s,
        gap_s=longest.seconds,
        gap_text=_gap_text(schedule, longest),
        clock_changes_s=clock_changes_s(schedule, now),
        run_s=run_s,
        run_text=run_text,
        jitter_s=job.jitter,
        gaps_s=tuple(gap.seconds for gap in coming),
    )


def gap_times(gap: Gap, zone: ZoneInfo) -> str:
    """Return when *gap* begins and ends, on the wall of *zone*."""
    return " → ".join(f"{at.astimezone(zone):%a %Y-%m-%d %H:%M}" for at in (gap.start, gap.end))


def _gap_text(schedule: Schedule, gap: Gap) -> str:
    if not schedule.expressions:
        return f"runs every {write_duration(gap.seconds)}"
    return f"fires up to {write_duration(gap.seconds)} apart ({gap_times(gap, schedule.expressions[0].zone)})"


def _longest_run(job: Job) -> tuple[float | None, str]:
    """Return how long a run may take that ends well, None without a limit; and that in words.

    Only the last attempt ends well: each one before it may have been ended by force at its time-out.
    """
    if job.timeout is None:
        return None, ""
    waits_s = all_retries_s(job.retries, job.retry_delay, job.retry_backoff, job.retry_max_delay)
    run_s = job.timeout + job.retries * (job.timeout + job.kill_after) + waits_s
    retries = {0: "", 1: " and 1 retry"}.get(job.retries, f" and {job.retries} retries")
    return run_s, f"a run may take {write_duration(run_s)} (timeout{retries})"

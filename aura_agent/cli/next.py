"""``aura-agent next JOB``: when a job will run, and why then. Needs the config, not the daemon."""

import os
import socket
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from difflib import get_close_matches
from zoneinfo import ZoneInfo

import click

from aura_agent.cli.output import say
from aura_agent.cli.settings import (
    config_option,
    json_option,
    print_json,
    print_table,
    read_config_to_look,
    store_directory,
)
from aura_agent.clock import SystemClock
from aura_agent.config.load import no_config
from aura_agent.config.models import Job
from aura_agent.config.settings import config_path
from aura_agent.errors import AuraError, ConfigError, ScheduleError, StoreError, UsageError
from aura_agent.outbox.database import open_to_read
from aura_agent.outbox.jobs import JobMarks
from aura_agent.schedule.jitter import stable_jitter_s
from aura_agent.schedule.plan import Schedule, build
from aura_agent.schedule.zones import zone as zone_named
from aura_agent.units import format_duration

_FIRST_YEAR, _LAST_YEAR = 1900, 9000  # the calendar itself ends with 9999


@click.command("next")
@click.argument("job")
@click.option("-n", "count", default=5, show_default=True, type=click.IntRange(1, 10_000), help="How many fire times.")
@click.option(
    "--at", "at_text", metavar="TIME", help="As if it were TIME now; without an offset, the job's local time."
)
@config_option
@json_option
def next_(job: str, count: int, at_text: str | None, config_file: str | None, as_json: bool) -> None:
    """Show when JOB will run next, and why then.

    Example: aura-agent next backup -n 3 --at 2027-03-28T00:00
    """
    read = read_config_to_look(config_file, needs_store=False)
    found = read.config.jobs.get(job)
    if not (read.is_whole("jobs", job) and read.is_whole("defaults")):
        raise ConfigError(read.problems)
    if found is None and config_path(config_file, os.environ) is None:
        raise no_config()
    if found is None:
        raise unknown_job(job, read.config.jobs)
    schedule, zone = schedule_of(job, found)
    now = SystemClock().read().wall if at_text is None else parse_at(at_text, zone)
    later_s = stable_jitter_s(socket.gethostname(), job, found.jitter) if found.jitter else 0.0
    fires = fire_times(schedule, now, count, later_s)
    if as_json:
        print_json([{"at": fire.astimezone(zone).isoformat(), "reason": reason} for fire, reason in fires])
    else:
        print_table(
            [f"{zone.key} time", "in", "why"],
            [
                [
                    f"{fire.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}",
                    format_duration((fire - now).total_seconds()),
                    reason,
                ]
                for fire, reason in fires
            ],
            empty=f"{job} has no fire time but the boot of the host",
        )
    if schedule.at_reboot and fires:
        say(f"{job} also runs once at each boot of the host", err=as_json)
    if read.knows_place("state_dir") and _is_paused(job, store_directory(read.config)):
        say(f"{job} is paused: these runs are skipped until `aura-agent resume {job}`", err=as_json)
    if not found.enabled:
        say(f"{job} has enabled = false: the daemon lets these times pass", err=as_json)


def _is_paused(job: str, directory: str) -> bool:
    """Whether the store says so; false where it can't be read."""
    path = os.path.join(directory, "outbox.db")
    if not os.access(path, os.R_OK):
        return False
    try:
        with closing(open_to_read(path)) as connection:
            return job in JobMarks(connection, lambda: None).paused()
    except StoreError:
        return False


def fire_times(schedule: Schedule, after: datetime, count: int, later_s: float = 0.0) -> list[tuple[datetime, str]]:
    """Return the next *count* fire times after *after*, each with its reason; *later_s* is the job's jitter."""
    fires: list[tuple[datetime, str]] = []
    delay = f"; starts {format_duration(later_s)} later (jitter)" if later_s else ""
    at = schedule.next_after(after)
    while at is not None and len(fires) < count:
        fires.append((at, schedule.explain(at) + delay))
        at = schedule.next_after(at)
    return fires


def parse_at(text: str, zone: ZoneInfo) -> datetime:
    """Return *text* (RFC 3339; a day, or a time without an offset, is local to *zone*) in UTC. Raises UsageError."""
    try:
        at = datetime.fromisoformat(text.strip())
        at = (at if at.tzinfo is not None else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f'--at "{text}" is not a time; write one such as 2027-03-28T02:30:00+01:00') from exc
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise UsageError(f'--at "{text}" is too far away; write a year from {_FIRST_YEAR} to {_LAST_YEAR}')
    return at


def schedule_of(name: str, job: Job) -> tuple[Schedule, ZoneInfo]:
    """Return the job's schedule and the zone that it is read in. Raises AuraError: it has none, or a bad one."""
    if job.schedule is None and job.every is None:
        raise AuraError(f'job "{name}" has neither schedule nor every: something else runs it')
    try:
        zone = zone_named(job.timezone, tz_env=os.environ.get("TZ"), tz_dir=os.environ.get("TZDIR"))
        return build(job.schedule, job.every, job=name, zone=zone), zone
    except ScheduleError as exc:
        raise ScheduleError(f"job {name}: {exc}") from exc


def unknown_job(name: str, known: Iterable[str]) -> AuraError:
    """Return the error for a job that the config doesn't have, with the nearest one that it has."""
    near = get_close_matches(name, known, 1, 0.5)
    return AuraError(f'no job "{name}" in the config' + (f'; did you mean "{near[0]}"?' if near else ""))

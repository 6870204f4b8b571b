"""``aura-agent next JOB``: when a job will run, and why then. Needs the config, not the daemon."""

import json
import os
import sys
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from aura_agent.errors import AuraError, ScheduleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from aura_agent.schedule.plan import Schedule

_EXAMPLE = """\b
Examples:
  aura-agent next backup -n 3
  aura-agent next backup --at 2027-03-28T00:00 --json
"""


@click.command("next", epilog=_EXAMPLE)
@click.argument("job")
@click.option("-c", "--config", "config_file", metavar="FILE", help="The config; default: the usual place.")
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=5, show_default=True, help="How many fire times.")
@click.option("--at", "at_text", metavar="TIME", help="As if it were TIME now (RFC 3339; local to the job if bare).")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects with `at` and `reason`.")
def next_command(job: str, config_file: str | None, count: int, at_text: str | None, *, as_json: bool) -> None:
    """Show when JOB will run next, and why then."""
    from aura_agent.clock import SystemClock

    schedule, zone = _load(job, config_file)
    now = SystemClock().read().wall if at_text is None else parse_at(at_text, zone)
    fires = fire_times(schedule, now, count)
    if as_json:
        rows = [{"at": fire.astimezone(zone).isoformat(), "reason": reason} for fire, reason in fires]
        click.echo(json.dumps(rows, indent=2))
    elif fires:
        _print_table(fires, now, zone)
    if schedule.at_reboot:
        click.echo(f"{job} also runs once at each boot" if fires else f"{job} runs once at each boot", err=as_json)


def fire_times(schedule: "Schedule", after: datetime, count: int) -> list[tuple[datetime, str]]:
    """Return the next *count* fire times after *after*, each with its reason."""
    fires: list[tuple[datetime, str]] = []
    at = schedule.next_after(after)
    while at is not None and len(fires) < count:
        fires.append((at, schedule.explain(at)))
        at = schedule.next_after(at)
    return fires


def parse_at(text: str, zone: "ZoneInfo") -> datetime:
    """Return *text* (RFC 3339; a day, or a time without an offset, is local to *zone*) in UTC."""
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo is not None else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"--at {text!r} is not a time; write one such as 2027-03-28T02:30:00+01:00") from exc


def unknown_job(name: str, known: "Iterable[str]") -> AuraError:
    """Return the error for a job that the config doesn't have, with the nearest one that it has."""
    near = get_close_matches(name, known, 1, 0.5)
    guess = f'did you mean "{near[0]}"?' if near else "see aura-agent status, or the config, for the names"
    return AuraError(f'no job "{name}" in the config; {guess}')


def _load(name: str, config_file: str | None) -> "tuple[Schedule, ZoneInfo]":
    from aura_agent.config.load import load_config
    from aura_agent.config.settings import config_path
    from aura_agent.schedule.plan import build
    from aura_agent.schedule.zones import zone as zone_named

    config = load_config(config_path(config_file, os.environ))
    job = config.jobs.get(name)
    if job is None:
        raise unknown_job(name, config.jobs)
    if job.schedule is None and job.every is None:
        raise AuraError(f'job "{name}" has no schedule and no every: something else runs it')
    try:
        zone = zone_named(job.timezone, tz_env=os.environ.get("TZ"))
        return build(job.schedule, job.every, job=name, zone=zone), zone
    except ScheduleError as exc:
        raise ScheduleError(f"job {name}: {exc}") from exc


def _print_table(fires: list[tuple[datetime, str]], now: datetime, zone: "ZoneInfo") -> None:
    from rich.console import Console
    from rich.table import Table

    from aura_agent.units import format_duration

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{zone.key} time", no_wrap=True)
    table.add_column("in", justify="right", no_wrap=True)
    table.add_column("why")
    for fire, reason in fires:
        local = fire.astimezone(zone)
        table.add_row(f"{local:%a %Y-%m-%d %H:%M:%S %Z}", format_duration((fire - now).total_seconds()), reason)
    console.print(table)

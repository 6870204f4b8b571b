"""``aura-agent history``: what ran, from the store; no daemon is needed."""

from dataclasses import asdict, replace
from functools import partial

import click

from aura_agent.cli.settings import (
    config_option,
    json_option,
    local,
    open_to_look,
    print_json,
    print_table,
    read_config_to_look,
)
from aura_agent.outbox.run_history import RunRow, run_owners, run_rows
from aura_agent.outbox.run_owner import Source
from aura_agent.units import format_duration, format_size


@click.command()
@click.argument("job", required=False)
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many runs.")
@config_option
@json_option
def history(job: str | None, count: int, config_file: str | None, as_json: bool) -> None:
    """Show the newest runs, newest first: all, or those of one JOB or heartbeat.

    Example: aura-agent history backup -n 5
    """
    read = read_config_to_look(config_file)
    outbox = open_to_look(read, "history")
    try:
        owners = run_owners(outbox, read.config.heartbeats())
        chosen = None if job is None else partial(owners.is_of, wanted=job)
        found = run_rows(outbox, chosen=chosen, limit=count)
        rows = [replace(row, job=owners.of(Source(row.job, row.heartbeat)) or row.job) for row in found]
    finally:
        outbox.close()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ["started", "job", "heartbeat", "outcome", "took", "used", "ping", "why"],
        [
            [
                local(row.started_at),
                row.job,
                row.heartbeat,
                row.outcome,
                format_duration(row.duration_s),
                _used(row),
                row.ping or "",
                row.reason,
            ]
            for row in rows
        ],
        empty="no runs" if job is None else f"no runs of {job}",
    )


def _used(row: RunRow) -> str:
    """Return what the run's processes took of the host, in a few words; empty if nobody has measured it."""
    if row.cpu_s is None:
        return ""
    memory = "" if row.max_rss_bytes is None else f", {format_size(row.max_rss_bytes)}"
    return f"{format_duration(row.cpu_s)} CPU{memory}"

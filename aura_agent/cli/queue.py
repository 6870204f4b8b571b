"""``aura-agent queue``: what waits in the outbox and why, and delivering it now."""

import asyncio
import sys
import time
from dataclasses import asdict
from typing import Self

import click

from aura_agent.cli.settings import (
    config_option,
    json_option,
    local,
    open_store,
    print_json,
    print_table,
    read_config,
    service,
)
from aura_agent.config.models import Config
from aura_agent.outbox.queries import leased_count, queue_rows
from aura_agent.outbox.store import Outbox
from aura_agent.units import format_duration

_FLUSH_TIMEOUT_S = 600.0
_OTHERS_S = 30.0  # no attempt takes longer; a lease that outlasts this is a dead process's
_LOOK_AGAIN_S = 0.2


@click.group()
def queue() -> None:
    """The outbox: pings that wait, and what became of the others.

    Example: aura-agent queue list --all
    """


@queue.command("list")
@click.option("--all", "ended", is_flag=True, help="Also what waits no more, with the reason.")
@config_option
@json_option
def list_(ended: bool, config_file: str | None, as_json: bool) -> None:
    """Show the pings that wait, oldest first.

    Example: aura-agent queue list --all
    """
    outbox = open_store(read_config(config_file), "list")
    try:
        outbox.take_spool()
        rows = queue_rows(outbox, ended=ended)
    finally:
        outbox.close()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ["id", "heartbeat", "job", "ended", "state", "tries", "next try", "why"],
        [
            [
                str(row.id),
                row.heartbeat,
                row.job,
                local(row.ended_at),
                row.state,
                str(row.tries),
                "" if row.next_try_s is None else f"in {format_duration(row.next_try_s)}",
                row.reason,
            ]
            for row in rows
        ],
        empty="nothing waits" if not ended else "the outbox is empty",
    )


@queue.command()
@config_option
@json_option
def flush(config_file: str | None, as_json: bool) -> None:
    """Deliver now all that may be sent, without waiting for back-off; exit 1 if anything is left.

    Example: aura-agent queue flush
    """
    left = asyncio.run(_flush(read_config(config_file), quiet=as_json))
    if as_json:
        print_json({"left": left})
    elif left:
        click.echo(f"{left} left: aura-agent queue list says why", err=True)
    sys.exit(1 if left else 0)


async def _flush(config: Config, *, quiet: bool) -> int:
    from aura_agent.delivery.inline import courier_for

    outbox = open_store(config, "flush")
    outbox.take_spool()
    outbox.hurry()
    with _Progress(outbox.waiting_count(), quiet=quiet) as progress:
        async with courier_for(outbox, service(config), progress) as (courier, worker):
            await courier.drain(_FLUSH_TIMEOUT_S, retry=False)
            # What the daemon is sending at this moment isn't left: see how that ends, and what comes after it.
            deadline = time.monotonic() + _OTHERS_S
            while await worker.call(leased_count) and time.monotonic() < deadline:  # another process
                await asyncio.sleep(_LOOK_AGAIN_S)
                await courier.drain(_FLUSH_TIMEOUT_S, retry=False)
            return await worker.call(Outbox.waiting_count)


class _Progress:
    """A bar on a terminal, one line of sums elsewhere; counts what delivery tells."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("delivering"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self._counts: dict[str, int] = {}

    def note(self, event: str, **facts: object) -> None:
        if not event.startswith("ping."):
            return
        what = event.removeprefix("ping.")
        self._counts[what] = self._counts.get(what, 0) + 1
        ended = what not in ("postponed", "parked")
        self._bar.update(self._task, advance=int(ended), description=str(facts.get("heartbeat", "")))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()
        if not self._quiet:
            sums = ", ".join(f"{count} {what}" for what, count in sorted(self._counts.items()))
            click.echo(sums or "nothing waits")

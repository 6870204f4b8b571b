"""``aura-agent demo``."""

import asyncio
import sys

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave it running and print the URLs.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON; the story goes to stderr.")
def demo(keep: bool, as_json: bool) -> None:
    """Show everything at once on an embedded Aura, in under a minute.

    A cron job, an interval job and a failing job run; aura-run wraps a fourth by hand; Aura goes away and comes back.
    Exits 0 only if each newest success reached Aura, nothing is left, and the failing job never pinged.

    Example: aura-agent demo --keep
    """
    from aura_agent.demo import run_demo

    sys.exit(0 if asyncio.run(run_demo(keep=keep, as_json=as_json)) else 1)

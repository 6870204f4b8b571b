"""``aura-agent run``."""

import asyncio
import os

import click

from aura_agent.app import run_agent
from aura_agent.cli.settings import config_option, read_config
from aura_agent.telemetry.logging import set_up_logging


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the daemon in the foreground. SIGTERM ends it, SIGHUP reloads its config.

    Example: aura-agent run -c /etc/aura-agent/config.toml
    """
    config = read_config(config_file)
    os.umask(0o077)
    set_up_logging(config.agent.log_level)
    asyncio.run(run_agent(config, lambda: read_config(config_file)))

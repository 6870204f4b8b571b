"""``aura-agent run``."""

import asyncio
import os
import sys

import click

from aura_agent.cli.settings import config_option, read_config
from aura_agent.config.settings import config_path


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the daemon in the foreground. SIGTERM ends it, SIGHUP reloads its config.

    Example: aura-agent run -c /etc/aura-agent/config.toml
    """
    # httpx and structlog load rich where it is to be had, for a command line and tracebacks that the daemon has no use
    # for: a third of its start, and 4 MiB.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from aura_agent.app import run_agent
    from aura_agent.telemetry.logging import configure_logging, log_crashes
    from aura_agent.telemetry.redact import Redactor

    config = read_config(config_file)
    os.umask(0o077)
    redactor = Redactor()
    configure_logging(redactor, level=config.agent.log_level)
    log_crashes()
    path = config_path(config_file, os.environ)
    asyncio.run(run_agent(config, path, lambda: read_config(config_file), redactor))

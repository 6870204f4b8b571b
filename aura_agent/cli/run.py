"""``aura-agent run``."""

import asyncio
import atexit
import os
import sys

import click

from aura_agent.cli.settings import config_option, read_config
from aura_agent.config.settings import config_path
from aura_agent.errors import ConfigError

_UNREADABLE_CONFIG = 78  # EX_CONFIG of sysexits(3): who starts us can tell it from other failures
_FLUSH_LOG_S = 1.0  # at exit: who reads the log may be slow, or gone


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the daemon in the foreground. SIGTERM ends it, SIGHUP reloads its config.

    Exit status 78: the config can't be read, or is wrong.

    Example: aura-agent run -c /etc/aura-agent/config.toml
    """
    # httpx and structlog load rich where it is to be had, for a command line and tracebacks that the daemon has no use
    # for: a third of its start, and 4 MiB.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from aura_agent.process.kernel import forbid_dumps
    from aura_agent.telemetry.logging import configure_logging, open_stderr, take_stderr
    from aura_agent.telemetry.redact import Redactor

    forbid_dumps()
    redactor, log = Redactor(), open_stderr()
    configure_logging(redactor, log)
    take_stderr(log, redactor)  # from here on nothing waits for who reads our stderr, errors of the start included
    atexit.register(log.flush, _FLUSH_LOG_S)
    from aura_agent.app import run_agent

    try:
        config = read_config(config_file)
        os.umask(0o077)
        configure_logging(redactor, log, level=config.agent.log_level)
        path = config_path(config_file, os.environ)
        asyncio.run(run_agent(config, path, lambda: read_config(config_file), redactor, log))
    except ConfigError as problem:
        problem.exit_status = _UNREADABLE_CONFIG
        raise

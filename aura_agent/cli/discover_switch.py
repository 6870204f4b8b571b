"""Hand jobs from cron to the daemon, or back: at a quiet moment, as a whole, and with the daemon's word for it.

The order is: cron's lines, then the config, then the daemon's reload. A job never has two masters, and no fire time
falls into the instant in which it has none.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from aura_agent.cli.daemon import ask_daemon
from aura_agent.clock import SystemClock
from aura_agent.discover.quiet_moment import wait_s
from aura_agent.errors import DaemonError

_ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


@contextmanager
def quiet_moment() -> Iterator[None]:
    """Wait for the part of a minute in which no job of cron's is due; signals that end us wait for the end of it."""
    now = SystemClock().read().wall
    delay_s = wait_s(now.second + now.microsecond / 1e6)
    if delay_s:
        click.echo(f"aura-agent: waiting {delay_s:.0f} s: no job may be due while it changes hands", err=True)
        time.sleep(delay_s)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def why_no_daemon(config_file: str | None) -> str:
    """Return why no daemon answers; empty if one does."""
    try:
        ask_daemon(config_file, "GET", "/status")
    except DaemonError as problem:
        return str(problem)
    return ""


def reload_daemon(config_file: str | None, wanted: Mapping[str, str]) -> str:
    """Reload the daemon; return why it doesn't run the jobs *wanted* (name → heartbeat) now, empty if it does."""
    try:
        ask_daemon(config_file, "POST", "/reload")
        state = ask_daemon(config_file, "GET", "/status")
    except DaemonError as problem:
        return str(problem)
    there = {(job["name"], job["heartbeat"]) for job in state["jobs"]}
    missing = sorted(name for name, heartbeat in wanted.items() if (name, heartbeat) not in there)
    if missing:
        return f"the daemon has no job {', '.join(missing)} after a reload: it runs on another config"
    return ""

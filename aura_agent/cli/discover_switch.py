"""What happens around a write of ``discover``: where backups are, and who must know.

Jobs go from cron to the daemon, or back, at a quiet moment, as a whole, and with the daemon's word for it. The order to
it is: cron's lines, then the config, then the daemon's reload. A job never has two masters, and no fire time falls into
the instant in which it has none.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from aura_agent.cli.daemon import ask_daemon
from aura_agent.cli.output import say
from aura_agent.clock import SystemClock
from aura_agent.discover.quiet_moment import wait_s
from aura_agent.errors import DaemonError
from aura_agent.report.places import state_dir

_BACKUPS = "/var/backups/aura-agent"  # of root; others have theirs with their store
_ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


def backups_of(root: str) -> str:
    """Return where the backups of what is written below *root* are, as a path of that host."""
    if root != "/" or os.geteuid() == 0:
        return _BACKUPS
    return os.path.join(state_dir(os.environ, None, os.geteuid()), "discover")


def new_stamp() -> str:
    """Return a name for a backup, by the time."""
    return f"{SystemClock().read().wall:%Y%m%dT%H%M%S.%fZ}"


def reload_units(root: str, paths: Iterable[str]) -> None:
    """Let systemd know of unit files that were written or removed."""
    if root != "/" or not any("/systemd/" in path for path in paths) or not os.path.isdir("/run/systemd/system"):
        return
    done = subprocess.run(["systemctl", "daemon-reload"], capture_output=True, check=False)
    if done.returncode != 0:
        say("aura-agent: systemctl daemon-reload failed; until it is done, timers run as before", err=True)


@contextmanager
def quiet_moment() -> Iterator[None]:
    """Wait for the part of a minute in which no job of cron's is due; signals that end us wait for the end of it."""
    now = SystemClock().read().wall
    delay_s = wait_s(now.second + now.microsecond / 1e6)
    if delay_s:
        say(f"aura-agent: waiting {delay_s:.0f} s: no job may be due while it changes hands", err=True)
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

"""Where the store and the daemon's socket are: flag or variable, then config, then the usual place.

Imported by aura-run beside the job: ``os`` only.
"""

import os

SYSTEM_CONFIG = "/etc/aura-agent/config.toml"
SYSTEM_STATE_DIR = "/var/lib/aura-agent"
SYSTEM_SOCKET = "/run/aura-agent/agent.sock"
DAEMON_LOCK = "daemon.lock"  # in a store that a daemon serves, or has served
CONTROL_SOCKET = "control.sock"  # beside the socket for reports


def state_dir(environ: "os._Environ[str] | dict[str, str]", configured: str | None, euid: int) -> str:
    """Return the store: AURA_STATE_DIR, else *configured*, else root's or the user's own (XDG base directories)."""
    said = environ.get("AURA_STATE_DIR") or configured
    if said:
        return os.path.abspath(said)
    if euid == 0:
        return SYSTEM_STATE_DIR
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "/", ".local/state")
    return os.path.join(base, "aura-agent")


def socket_path(environ: "os._Environ[str] | dict[str, str]", configured: str | None) -> str:
    """Return the daemon's socket: AURA_SOCKET, else *configured*, else the system's."""
    return environ.get("AURA_SOCKET") or configured or SYSTEM_SOCKET

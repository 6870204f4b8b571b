"""Where the store and the daemon's socket are: flag or variable, then config, then the usual place.

Imported by aura-run beside the job: ``os`` only.
"""

import os

SYSTEM_CONFIG = "/etc/aura-agent/config.toml"
SYSTEM_STATE_DIR = "/var/lib/aura-agent"
SYSTEM_SOCKET = "/run/aura-agent/agent.sock"
DAEMON_LOCK = "daemon.lock"  # in a store that a daemon serves, or has served
UNJUDGED_SUFFIX = ".unjudged"  # in the spool: a success that only a daemon may take, which knows the job's settings
CONTROL_SOCKET = "control.sock"  # beside the socket for reports


def state_dir(environ: "os._Environ[str] | dict[str, str]", configured: str | None, euid: int) -> str:
    """Return the store: AURA_STATE_DIR, else *configured*, else root's or the user's own (XDG base directories)."""
    said = environ.get("AURA_STATE_DIR") or configured
    if said:
        return _absolute(said)
    if euid == 0:
        return SYSTEM_STATE_DIR
    base = environ.get("XDG_STATE_HOME") or ""
    if not os.path.isabs(base):  # the base directory specification: anything else is to be ignored
        base = os.path.join(_home(environ, euid), ".local/state")
    return os.path.join(base, "aura-agent")


def own_state_dir(environ: "os._Environ[str] | dict[str, str]", configured: str | None, euid: int) -> str:
    """Return a wrapper's store: *configured* is the daemon's, and so only for who owns it, or may make it."""
    if not configured or environ.get("AURA_STATE_DIR"):
        return state_dir(environ, None, euid)
    try:
        ours = os.stat(configured).st_uid == euid
    except FileNotFoundError:
        ours = os.access(os.path.dirname(_absolute(configured)), os.W_OK)
    except OSError:
        ours = False
    return state_dir(environ, configured if ours or euid == 0 else None, euid)


def socket_path(environ: "os._Environ[str] | dict[str, str]", configured: str | None) -> str:
    """Return the daemon's socket: AURA_SOCKET, else *configured*, else the system's."""
    return environ.get("AURA_SOCKET") or configured or SYSTEM_SOCKET


def _home(environ: "os._Environ[str] | dict[str, str]", euid: int) -> str:
    """Return the home directory: what HOME says, unless that is none; then the user's, if he has one."""
    home = environ.get("HOME") or ""
    if not os.path.isabs(home):
        import pwd

        try:
            home = pwd.getpwuid(euid).pw_dir
        except KeyError:
            home = ""
    return home if os.path.isabs(home) else "/"


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return path  # our working directory is gone: whoever opens a file there says so, and the job runs

"""What a job must not find in its environment. Nothing is imported: aura-run needs this before the job starts.

Two kinds of variables are held back. SECRETS would let a nested aura-run ping its parent's heartbeat, or hand the
token to the job. SUPERVISION speaks to systemd on behalf of the daemon: a job that inherited NOTIFY_SOCKET could say
that the daemon is ready, or feed its watchdog. Under aura-run they are the job's own and stay.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing's own constant would cost aura-run the import of typing and re
    from collections.abc import Mapping

SECRETS = frozenset({"AURA_TOKEN", "AURA_PING_URL", "AURA_HEARTBEAT", "AURA_JOB", "CREDENTIALS_DIRECTORY"})
# sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). By name, not LISTEN_*: LISTEN_ADDRESS may be a job's own.
SUPERVISION = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    }
)


def without_secrets(environment: "Mapping[str, str]") -> dict[str, str]:
    """Return a copy of *environment* without SECRETS."""
    return {name: value for name, value in environment.items() if name not in SECRETS}

"""Whose rights a job's process has. Pure."""

from dataclasses import dataclass

from aura_agent.discover.units import Settings


@dataclass(frozen=True, slots=True)
class Account:
    """A user by name or number; ``group``: another than the user's own; ``dynamic``: systemd makes up what isn't there.

    An empty name is a user that systemd makes up for the unit.
    """

    name: str
    group: str = ""
    dynamic: bool = False

    def __str__(self) -> str:
        return self.name or "a dynamic user"


def service_account(service: Settings) -> Account:
    """Return the account of a service's main process."""
    dynamic = _last(service, "DynamicUser").lower() in ("1", "yes", "true", "on", "y", "t")
    user = _last(service, "User")
    return Account(user or ("" if dynamic else "root"), _last(service, "Group"), dynamic)


def _last(service: Settings, key: str) -> str:
    return next(reversed(service.get(("Service", key), [])), "")

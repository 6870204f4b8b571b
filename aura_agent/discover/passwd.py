"""Who has an account on a host, or on a copy of one."""

import pwd
from collections.abc import Callable

from aura_agent.discover.cronfiles import names_all_accounts, read_accounts


class Accounts:
    """The accounts of a host; of a copy those in its /etc/passwd, if these are all."""

    def __init__(self, known: dict[str, tuple[int, str]] | None, *, live: bool) -> None:
        self._known = known
        self._live = live

    @classmethod
    def of_host(cls, root: str, read: Callable[[str], str | None]) -> "Accounts":
        """Return those of the host below *root*; *read* returns a file of it, None if it isn't there."""
        if root == "/":
            return cls(None, live=True)
        passwd = read("/etc/passwd")
        complete = passwd is not None and names_all_accounts(read("/etc/nsswitch.conf") or "")
        return cls(read_accounts(passwd) if complete and passwd is not None else None, live=False)

    def uid(self, name: str) -> int | None:
        """Return the uid of an account; None if there is none, or none is known."""
        account = self._account(name)
        return None if account is None else account[0]

    def home(self, name: str) -> str | None:
        """Return the home of an account; None if there is no such account, or none is known."""
        account = self._account(name)
        return None if account is None else account[1]

    def may_know(self, name: str) -> bool:
        """Whether there is such an account, or may be one."""
        return (not self._live and self._known is None) or self._account(name) is not None

    def _account(self, name: str) -> tuple[int, str] | None:
        if not self._live:
            return None if self._known is None else self._known.get(name)
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            return None
        return entry.pw_uid, entry.pw_dir

"""An embedded Aura full of organizations: each call of the contract's table gets one of its own."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from aura_agent.devserver.permissions import Role, Scope
from aura_agent.devserver.threaded import ThreadedDevServer
from tests.waiting import wait_until

Kind = Literal["monitor", "heartbeat", "incident", "integration"]


@dataclass(frozen=True, slots=True)
class Given:
    """What a call is made with: *id* goes into the path, *fields* are what is written."""

    token: str = field(repr=False)
    id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


class World:
    """Makes what calls need."""

    def __init__(self, server: ThreadedDevServer) -> None:
        self.server = server
        self._numbers = itertools.count()

    def organization(self) -> str:
        return f"organization-{next(self._numbers)}"

    def token(
        self, organization: str, scope: Scope = "write", role: Role = "owner", teams: tuple[str, ...] = ()
    ) -> str:
        """Return a token of a new member. A viewer's that is read & write is one that was there before the downgrade."""
        token = self.server.create_token(
            scope, organization, role="owner" if (role, scope) == ("viewer", "write") else role, teams=teams
        )
        self.server.set_role(token, role)
        return token

    def make(self, kind: Kind, organization: str, team: str | None = None) -> str:
        """Return the id of a new object; a monitor has been probed, and its URL was down."""
        match kind:
            case "heartbeat":
                return self.server.create_heartbeat("nightly", 86_400, 600, organization=organization, team=team).id
            case "integration":
                self.server.create_integration("slack", "https://hooks.slack.example/T0/secret", organization)
                return ""
        # The API's own 401, since the probe has no token.
        url = f"{self.server.base_url}/monitors"
        monitor = self.server.create_monitor("site", url, 86_400, organization=organization, team=team)
        wait_until(lambda: self.server.checks(monitor.id), what="the first check")
        if kind == "monitor":
            return monitor.id
        wait_until(lambda: self.server.incidents(monitor.id), what="an incident")
        return self.server.incidents(monitor.id)[0].id

    def ask(self, token: str, method: str, path: str) -> None:
        """Make a call that succeeds."""
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.request(method, self.server.base_url + path, headers=headers, trust_env=False).is_success

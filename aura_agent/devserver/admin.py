"""What can be done to an embedded Aura past its API: make users, tokens, heartbeats and trouble, look at what came in.

Written once for both servers: each method runs on the server's event loop, and how it gets there is theirs to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from aura_agent.devserver.database import transaction
from aura_agent.devserver.faults import Fault, Kind, Target
from aura_agent.devserver.permissions import Role, Scope, may_hold
from aura_agent.devserver.received import ReceivedPing, ReceivedRequest
from aura_agent.devserver.routes import (
    checks as check_routes,
    heartbeats as heartbeat_routes,
    monitors as monitor_routes,
)
from aura_agent.devserver.routes.checks import CheckOut
from aura_agent.devserver.routes.heartbeats import HeartbeatOut
from aura_agent.devserver.routes.incidents import IncidentOut, shown as shown_incident
from aura_agent.devserver.routes.monitors import MonitorOut
from aura_agent.devserver.service import Service
from aura_agent.devserver.tables import (
    checks,
    heartbeats,
    incidents,
    integrations,
    monitors,
    organizations,
    tokens,
    users,
)
from aura_agent.devserver.tables.heartbeats import HeartbeatRow
from aura_agent.devserver.tables.monitors import MonitorRow
from aura_agent.devserver.tables.organizations import FIRST
from aura_agent.devserver.tables.tokens import Caller

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="Admin")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat and the URL that its pings go to."""

    id: str
    name: str
    expected_interval: int
    grace_period: int
    ping_url: str = field(repr=False)


def _on_the_loop(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], T]:
    """Let the server run *method* on its event loop."""

    @wraps(method)
    def calling(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run_on_the_loop(partial(method, self, *args, **kwargs))

    return calling


class Admin(ABC):
    """The methods that DevServer and ThreadedDevServer have in common."""

    @property
    @abstractmethod
    def service(self) -> Service:
        """What the server works with; to be used on its event loop alone."""

    @abstractmethod
    def run_on_the_loop(self, act: Callable[[], T]) -> T:
        """Return what *act* returns, called on the server's event loop."""

    @_on_the_loop
    def create_token(
        self,
        scope: Scope = "read",
        organization: str = FIRST,
        *,
        role: Role = "owner",
        teams: Iterable[str] = (),
    ) -> str:
        """Return a new token whose owner is a new user with *role*, in the *teams* of these names.

        Organization and teams are created if missing. Raises ValueError: a viewer's token can't be read & write.
        """
        if not may_hold(role, scope):
            raise ValueError("a viewer's token can't be read & write")
        db, now_us = self.service.db, self.service.now_us()
        with transaction(db):
            organization_id = organizations.ensure(db, organization, now_us)
            user_id = users.add_unnamed(db, now_us)
            users.set_role(db, user_id, organization_id, role)
            self._put_into_teams(user_id, organization_id, teams, now_us)
            return tokens.generate(db, organization_id, user_id, now_us, scope)

    @_on_the_loop
    def revoke_token(self, token: str) -> None:
        """The token answers 401 from now on. Raises LookupError."""
        if not tokens.revoke(self.service.db, token):
            raise LookupError("no such token")

    @_on_the_loop
    def set_role(self, token: str, role: Role | None) -> None:
        """Give the token's owner another role in its organization; None: they leave it. Raises LookupError."""
        caller = self._caller(token)
        users.set_role(self.service.db, caller.user_id, caller.organization_id, role)

    @_on_the_loop
    def set_teams(self, token: str, teams: Iterable[str]) -> None:
        """Put the token's owner into the teams of these names and no other. Raises LookupError: no such token."""
        caller = self._caller(token)
        with transaction(self.service.db):
            self._put_into_teams(caller.user_id, caller.organization_id, teams, self.service.now_us())

    @_on_the_loop
    def create_team(self, name: str, organization: str = FIRST) -> str:
        """Return the id of the team *name*, which is created if missing."""
        db, now_us = self.service.db, self.service.now_us()
        return users.ensure_team(db, organizations.ensure(db, organization, now_us), name, now_us)

    @_on_the_loop
    def set_plan(
        self, organization: str = FIRST, *, max_monitors: int | None = None, max_heartbeats: int | None = None
    ) -> None:
        """Change what the organization's plan allows; None leaves a limit as it is."""
        db = self.service.db
        organization_id = organizations.ensure(db, organization, self.service.now_us())
        organizations.set_plan(db, organization_id, max_monitors=max_monitors, max_heartbeats=max_heartbeats)

    @_on_the_loop
    def create_heartbeat(
        self,
        name: str,
        expected_interval: int = 60,
        grace_period: int = 60,
        *,
        organization: str = FIRST,
        team: str | None = None,
    ) -> Heartbeat:
        """Create a heartbeat, whatever the plan says; lengths in seconds, *team* is created if missing."""
        db, now_us = self.service.db, self.service.now_us()
        organization_id = organizations.ensure(db, organization, now_us)
        row = heartbeats.create(
            db,
            organization_id,
            name=name,
            expected_interval=expected_interval,
            grace_period=grace_period,
            team_id=None if team is None else users.ensure_team(db, organization_id, team, now_us),
            now_us=now_us,
        )
        return self._heartbeat(row)

    @_on_the_loop
    def update_heartbeat(
        self,
        name_or_id: str,
        *,
        name: str | None = None,
        expected_interval: int | None = None,
        grace_period: int | None = None,
    ) -> Heartbeat:
        """Change a heartbeat's name or lengths (s). Raises LookupError."""
        wanted: dict[str, Any] = {
            "name": name,
            "expected_interval": expected_interval,
            "grace_period": grace_period,
        }
        changes = {key: value for key, value in wanted.items() if value is not None}
        return self._change(name_or_id, lambda row: replace(row, **changes))

    @_on_the_loop
    def change_ping_url(self, name_or_id: str) -> Heartbeat:
        """Give a heartbeat another ping URL; the old one answers 404 from now on. Raises LookupError."""
        return self._change(name_or_id, heartbeats.with_new_key)

    @_on_the_loop
    def delete_heartbeat(self, name_or_id: str) -> None:
        """Raises LookupError."""
        heartbeats.delete(self.service.db, self._row(name_or_id))

    @_on_the_loop
    def heartbeat(self, name_or_id: str) -> Heartbeat:
        """Return the heartbeat with this id, or else the one with this name. Raises LookupError: none, or several."""
        return self._heartbeat(self._row(name_or_id))

    @_on_the_loop
    def status(self, name_or_id: str) -> HeartbeatOut:
        """Return the heartbeat as the API shows it now. Raises LookupError."""
        row = self._row(name_or_id)
        return heartbeat_routes.shown(self.service, row, self.service.settled_us())

    @_on_the_loop
    def create_monitor(
        self,
        name: str,
        url: str,
        check_interval: int = 60,
        *,
        organization: str = FIRST,
        team: str | None = None,
    ) -> MonitorOut:
        """Create a monitor, whatever the plan says; *check_interval* in seconds, *team* is created if missing."""
        db, now_us = self.service.db, self.service.now_us()
        organization_id = organizations.ensure(db, organization, now_us)
        row = monitors.create(
            db,
            organization_id,
            name=name,
            url=url,
            check_interval=check_interval,
            team_id=None if team is None else users.ensure_team(db, organization_id, team, now_us),
            now_us=now_us,
        )
        self.service.prober.expect(row.due_us)
        return monitor_routes.shown(row)

    @_on_the_loop
    def monitor(self, name_or_id: str) -> MonitorOut:
        """Return the monitor as the API shows it now. Raises LookupError: none, or several."""
        self.service.settled_us()
        return monitor_routes.shown(self._monitor_row(name_or_id))

    @_on_the_loop
    def checks(self, name_or_id: str) -> list[CheckOut]:
        """Return the monitor's checks, oldest first. Raises LookupError."""
        self.service.settled_us()
        rows = checks.all_of(self.service.db, self._monitor_row(name_or_id).id)
        return [check_routes.shown(row) for row in rows]

    @_on_the_loop
    def create_integration(self, platform: str, url: str, organization: str = FIRST) -> None:
        """Create an integration; of *url* nothing but the host is kept."""
        db, now_us = self.service.db, self.service.now_us()
        integrations.ensure(db, organizations.ensure(db, organization, now_us), platform, url, now_us)

    @_on_the_loop
    def incidents(self, name_or_id: str | None = None) -> list[IncidentOut]:
        """Return the incidents (of one heartbeat or monitor), oldest first. Raises LookupError."""
        self.service.settled_us()
        rows = incidents.all_of(self.service.db)
        if name_or_id is not None:
            wanted = self._row_of_either(name_or_id).id
            rows = [row for row in rows if wanted in (row.heartbeat_id, row.monitor_id)]
        return [shown_incident(row) for row in rows]

    @_on_the_loop
    def pings(self, name_or_id: str | None = None) -> list[ReceivedPing]:
        """Return the pings that arrived (for one heartbeat), in order, those that a fault kept from counting too."""
        return self.service.received.pings(name_or_id)

    @_on_the_loop
    def requests(self) -> list[ReceivedRequest]:
        """Return the requests to the API and to ping URLs, in order."""
        return self.service.received.requests()

    @_on_the_loop
    def clear_received(self) -> None:
        """Forget the pings and requests listed so far; heartbeats keep their state."""
        self.service.received.clear()

    @_on_the_loop
    def set_fault(
        self,
        kind: Kind,
        *,
        target: Target = "all",
        heartbeat: str | None = None,
        times: int | None = None,
        for_s: float | None = None,
        status: int = 500,
        retry_after: int | str | None = None,
        location: str | None = None,
        delay_s: float = 0.0,
        drip_s: float = 0.0,
    ) -> str:
        """Put a fault to work (``faults.py`` says what each does) and return its id. Raises ValueError."""
        wanted = {
            "kind": kind,
            "target": target,
            "heartbeat": heartbeat,
            "times": times,
            "for_s": for_s,
            "status": status,
            "retry_after": retry_after,
            "location": location,
            "delay_s": delay_s,
            "drip_s": drip_s,
        }
        return self.service.order(msgspec.convert(wanted, Fault))

    @_on_the_loop
    def clear_faults(self) -> None:
        """End all faults but ``refuse``; requests that they hold are freed (a hung connection is closed)."""
        self.service.faults.clear()

    def _caller(self, token: str) -> Caller:
        caller = tokens.find(self.service.db, token)
        if caller is None:
            raise LookupError("no such token")
        return caller

    def _put_into_teams(self, user_id: str, organization_id: str, names: Iterable[str], now_us: int) -> None:
        db = self.service.db
        team_ids = [users.ensure_team(db, organization_id, name, now_us) for name in names]
        users.set_teams(db, user_id, organization_id, team_ids)

    def _row(self, name_or_id: str) -> HeartbeatRow:
        return _only(heartbeats.find_by_id_or_name(self.service.db, name_or_id), name_or_id, "heartbeats")

    def _monitor_row(self, name_or_id: str) -> MonitorRow:
        return _only(monitors.find_by_id_or_name(self.service.db, name_or_id), name_or_id, "monitors")

    def _row_of_either(self, name_or_id: str) -> HeartbeatRow | MonitorRow:
        db = self.service.db
        rows: list[HeartbeatRow | MonitorRow] = [
            *heartbeats.find_by_id_or_name(db, name_or_id),
            *monitors.find_by_id_or_name(db, name_or_id),
        ]
        return _only(rows, name_or_id, "heartbeats and monitors")

    def _change(self, name_or_id: str, change: Callable[[HeartbeatRow], HeartbeatRow]) -> Heartbeat:
        now_us = self.service.settled_us()
        with transaction(self.service.db):
            row = heartbeats.update(self.service.db, change(self._row(name_or_id)), now_us)
        self.service.judge.expect(row.deadline_us)
        return self._heartbeat(row)

    def _heartbeat(self, row: HeartbeatRow) -> Heartbeat:
        url = self.service.ping_url(row.ping_key)
        return Heartbeat(row.id, row.name, row.expected_interval, row.grace_period, url)


def _only(rows: list[T], wanted: str, what: str) -> T:
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} {what} have the id or name {wanted!r}")
    return rows[0]

"""Puts a seed into the database.

Doing it twice changes nothing: organizations, users, teams and integrations are known by their names, tokens by what
they are, monitors and heartbeats by their ids, or without one by their names.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from aura_agent.devserver.seed import Seed, SeedHeartbeat, SeedMonitor
from aura_agent.devserver.tables import heartbeats, integrations, monitors, organizations, tokens, users
from aura_agent.errors import AuraError


class _Row(Protocol):
    @property
    def organization_id(self) -> str: ...


R = TypeVar("R", bound=_Row)


def plant(db: sqlite3.Connection, seed: Seed, now_us: int) -> None:
    """Put *seed* into the database. Raises AuraError: an id in it is another organization's."""
    planter = _Planter(db, now_us)
    for plan in seed.organizations:
        organizations.set_plan(
            db, planter.organization(plan.name), max_monitors=plan.max_monitors, max_heartbeats=plan.max_heartbeats
        )
    for team in seed.teams:
        users.ensure_team(db, planter.organization(team.organization), team.name, now_us, team_id=team.id)
    for user in seed.users:
        user_id, organization_id = users.ensure(db, user.name, now_us), planter.organization(user.organization)
        users.set_role(db, user_id, organization_id, user.role)
        users.set_teams(db, user_id, organization_id, [planter.team(user.organization, name) for name in user.teams])
    for token in seed.tokens:
        organization_id = planter.organization(token.organization)
        owner_id = users.ensure(db, token.user, now_us)
        tokens.put(db, organization_id, owner_id, token.token, label=token.label, scope=token.scope, now_us=now_us)
    for monitor in seed.monitors:
        planter.monitor(monitor)
    for heartbeat in seed.heartbeats:
        planter.heartbeat(heartbeat)
    for integration in seed.integrations:
        organization_id = planter.organization(integration.organization)
        integrations.ensure(db, organization_id, integration.platform, integration.url, now_us)


class _Planter:
    """What the tables of a seed need of each other."""

    def __init__(self, db: sqlite3.Connection, now_us: int) -> None:
        self._db, self._now_us = db, now_us

    def organization(self, name: str) -> str:
        return organizations.ensure(self._db, name, self._now_us)

    def team(self, organization: str, name: str) -> str:
        return users.ensure_team(self._db, self.organization(organization), name, self._now_us)

    def monitor(self, wanted: SeedMonitor) -> None:
        organization_id = self.organization(wanted.organization)
        team_id = None if wanted.team is None else self.team(wanted.organization, wanted.team)
        known = _known(monitors.find_by_id_or_name(self._db, wanted.id or wanted.name), organization_id, wanted.id)
        if known is None:
            monitors.create(
                self._db,
                organization_id,
                name=wanted.name,
                url=wanted.url,
                check_interval=wanted.check_interval,
                team_id=team_id,
                monitor_id=wanted.id,
                now_us=self._now_us,
            )
        else:
            after = replace(
                known, name=wanted.name, url=wanted.url, check_interval=wanted.check_interval, team_id=team_id
            )
            monitors.update(self._db, known, after, self._now_us)

    def heartbeat(self, wanted: SeedHeartbeat) -> None:
        organization_id = self.organization(wanted.organization)
        team_id = None if wanted.team is None else self.team(wanted.organization, wanted.team)
        known = _known(heartbeats.find_by_id_or_name(self._db, wanted.id or wanted.name), organization_id, wanted.id)
        if known is None:
            heartbeats.create(
                self._db,
                organization_id,
                name=wanted.name,
                expected_interval=wanted.expected_interval,
                grace_period=wanted.grace_period,
                team_id=team_id,
                heartbeat_id=wanted.id,
                now_us=self._now_us,
            )
        else:
            after = replace(
                known,
                name=wanted.name,
                expected_interval=wanted.expected_interval,
                grace_period=wanted.grace_period,
                team_id=team_id,
            )
            heartbeats.update(self._db, after, self._now_us)


def _known(rows: Sequence[R], organization_id: str, wanted_id: str | None) -> R | None:
    """Return the row that the seed means. Raises AuraError: the id is another organization's."""
    ours = [row for row in rows if row.organization_id == organization_id]
    if rows and not ours and wanted_id is not None:
        raise AuraError(f"the seed's id {wanted_id} belongs to another organization in this database; give it another")
    return ours[0] if ours else None

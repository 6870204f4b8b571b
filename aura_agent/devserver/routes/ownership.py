"""What creating and changing monitors and heartbeats asks for besides the role: the plan's room and the team."""

from aura_agent.devserver.permissions import team_objection
from aura_agent.devserver.refusal import Refusal
from aura_agent.devserver.routes.call import Call
from aura_agent.devserver.tables import organizations, users
from aura_agent.devserver.tables.organizations import Limited


def require_room(call: Call, what: Limited) -> None:
    """Refusal 409: the organization's plan allows no more of *what*."""
    limit = organizations.plan_limit(call.service.db, call.caller.organization_id, what)
    if limit is not None:
        raise Refusal(409, f"plan limit: this organization may have {limit} {what}")


def require_team(call: Call, *team_ids: str | None) -> None:
    """Refusal 409: one of *team_ids* is no team of the organization; 403: the token's owner isn't in one of them."""
    for team_id in team_ids:
        if team_id is not None and not users.team_exists(call.service.db, call.caller.organization_id, team_id):
            raise Refusal(409, "team_id names no team of this organization")
        objection = team_objection(call.caller.teams, team_id)
        if objection is not None:
            raise Refusal(403, objection)

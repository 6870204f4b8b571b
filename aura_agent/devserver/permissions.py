"""Who may do what: the reference's "Token permissions" as a table. Pure; evaluated anew for each request.

A token acts on behalf of its owner: its scope must allow the write, and so must the owner's role in the token's
organization. What belongs to a team may be created, changed and deleted by members of that team only, owners and
admins of the organization included; everything may be read by every role.
"""

from enum import Enum
from typing import Literal

Scope = Literal["read", "write"]
Role = Literal["owner", "admin", "member", "viewer"]


class Action(Enum):
    """A row of the reference's table."""

    READ = "read"
    CHANGE = "create or update a monitor or heartbeat"
    DELETE = "delete a monitor or heartbeat"
    RESOLVE = "resolve an incident"


ALLOWED: dict[Action, tuple[Role, ...]] = {
    Action.READ: ("owner", "admin", "member", "viewer"),
    Action.CHANGE: ("owner", "admin", "member"),
    Action.DELETE: ("owner", "admin"),
    Action.RESOLVE: ("owner", "admin", "member"),
}


def scope_objection(scope: Scope, *, writes: bool) -> str | None:
    """Return why *scope* forbids a request; None: it doesn't."""
    return "the token's scope is read only: it may not write" if writes and scope != "write" else None


def role_objection(role: Role | None, action: Action) -> str | None:
    """Return why *role* forbids *action*; None: it doesn't. No role: the owner has left the organization."""
    if role is None:
        return "the token's owner has no role in its organization any more"
    if role in ALLOWED[action]:
        return None
    return f"the role of the token's owner, {role}, may not {action.value}: that takes {_any_of(ALLOWED[action])}"


def team_objection(own: frozenset[str], team_id: str | None) -> str | None:
    """Return why somebody whose teams are *own* may not create or change what belongs to *team_id*; None: they may."""
    if team_id is None or team_id in own:
        return None
    return f"the token's owner is not in the team {team_id}, to which this belongs"


def may_hold(role: Role, scope: Scope) -> bool:
    """Tell whether a token with *scope* may be given to somebody with *role*: a viewer's can't be read & write."""
    return role != "viewer" or scope == "read"


def _any_of(roles: tuple[Role, ...]) -> str:
    return " or ".join((", ".join(roles[:-1]), roles[-1]))

"""What the API's routes are declared with: one Operation for each method of a path.

The declaration is what serves the call and what the published document says of it (``openapi.py``), so that the two
can't tell different stories.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from aura_agent.devserver import paging
from aura_agent.devserver.permissions import Action, role_objection
from aura_agent.devserver.refusal import Refusal
from aura_agent.devserver.routes.call import Call, Handler, Reply

T = TypeVar("T")


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list. *next_cursor* is null at the end."""

    data: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path: who may call it, what it takes and gives. It is itself a handler.

    *reply* is the type of a 2xx's body, None for 204; *query* holds OpenAPI's parameter objects; *body* is the type of
    the body, if it takes one; *conflicts*: it may answer 409.
    """

    summary: str
    action: Action
    handler: Handler
    reply: Any = None
    status: int = 200
    query: tuple[Mapping[str, Any], ...] = ()
    body: type | None = None
    body_required: bool = True
    conflicts: bool = False

    def __call__(self, call: Call) -> Reply:
        """Answer *call*, if the role of the token's owner allows it.

        Refusal 403; 400: a parameter that isn't one, since ignoring a misspelt one would look like obeying it.
        """
        objection = role_objection(call.caller.role, self.action)
        if objection is not None:
            raise Refusal(403, objection)
        known = [parameter["name"] for parameter in self.query]
        if any(name not in known for name in call.query):
            raise Refusal(400, f"unknown query parameter; known here: {', '.join(known) or 'none'}")
        return self.handler(call)


@dataclass(frozen=True, slots=True)
class Resource:
    """A path under the API's base path, and its methods."""

    path: str
    operations: Mapping[str, Operation]


def listing(summary: str, of: type, handler: Handler, *query: Mapping[str, Any]) -> Operation:
    """Return the operation that lists *of*, by pages; *query* are parameters besides those of paging."""
    return Operation(
        summary=summary,
        action=Action.READ,
        handler=handler,
        reply=Listing[of],  # type: ignore[valid-type]
        query=(*query, *paging.PARAMETERS),
    )


def taking(
    shape: type[T],
    handler: Callable[[Call, T], Reply],
    *,
    summary: str,
    action: Action,
    reply: Any,
    status: int = 200,
    conflicts: bool = False,
    empty: T | None = None,
) -> Operation:
    """Return an operation whose handler gets the body as *shape*; no body at all means *empty*, if that is given."""

    def decoding(call: Call) -> Reply:
        wanted = empty if empty is not None and not call.body else call.decode(shape)
        return handler(call, wanted)

    return Operation(
        summary=summary,
        action=action,
        handler=decoding,
        reply=reply,
        status=status,
        body=shape,
        body_required=empty is None,
        conflicts=conflicts,
    )

"""The client of Aura's REST API, usable as a library.

    async with AuraClient(BASE_URL, Secret(token)) as client:
        async for heartbeat in client.list_heartbeats():
            ...

Names are imported when they are first used: httpx alone costs a tenth of a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aura_agent.api.assumptions import BASE_URL
    from aura_agent.api.client import AuraClient
    from aura_agent.api.errors import (
        ApiError,
        ApiGarbled,
        ApiMisconfigured,
        ApiUnreachable,
        BadRequest,
        BudgetSpent,
        Conflict,
        Forbidden,
        InternalError,
        NotFound,
        RateLimited,
        Unauthorized,
    )
    from aura_agent.api.heartbeats import Heartbeat
    from aura_agent.api.incidents import Incident
    from aura_agent.api.integrations import Integration
    from aura_agent.api.ledger import Purpose
    from aura_agent.api.limiter import Limiter
    from aura_agent.api.monitors import Check, Monitor
    from aura_agent.api.wire import Budget

__all__ = [
    "BASE_URL",
    "ApiError",
    "ApiGarbled",
    "ApiMisconfigured",
    "ApiUnreachable",
    "AuraClient",
    "BadRequest",
    "Budget",
    "BudgetSpent",
    "Check",
    "Conflict",
    "Forbidden",
    "Heartbeat",
    "Incident",
    "Integration",
    "InternalError",
    "Limiter",
    "Monitor",
    "NotFound",
    "Purpose",
    "RateLimited",
    "Unauthorized",
]

_HOMES = {
    "BASE_URL": "assumptions",
    "AuraClient": "client",
    "Budget": "wire",
    "Check": "monitors",
    "Heartbeat": "heartbeats",
    "Incident": "incidents",
    "Integration": "integrations",
    "Monitor": "monitors",
    "Limiter": "limiter",
    "Purpose": "ledger",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

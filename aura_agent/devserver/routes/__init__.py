"""The API's resources, one module each. Handlers are plain functions from a Call to what the client gets."""

from starlette.routing import Route

from aura_agent.devserver.routes import heartbeats, incidents
from aura_agent.devserver.service import Service

_RESOURCES = (heartbeats, incidents)


def api_routes(service: Service) -> list[Route]:
    """Return every route under the API's base path."""
    return [route for resource in _RESOURCES for route in resource.routes(service)]

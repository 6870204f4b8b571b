"""The API's resources, one module each. Handlers are plain functions from a Call to what the client gets."""

from starlette.routing import Route

from aura_agent.devserver.routes import checks, heartbeats, incidents, integrations, monitors
from aura_agent.devserver.routes.call import route
from aura_agent.devserver.service import Service

RESOURCES = (
    *monitors.RESOURCES,
    *checks.RESOURCES,
    *heartbeats.RESOURCES,
    *incidents.RESOURCES,
    *integrations.RESOURCES,
)


def api_routes(service: Service) -> list[Route]:
    """Return every route under the API's base path."""
    return [route(service, resource.path, resource.operations) for resource in RESOURCES]

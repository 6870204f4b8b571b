"""The status listener: a page for people, /healthz and /readyz for probes, /metrics for Prometheus.

Loaded only where ``[status] listen`` is set. Everything shown comes from one snapshot of the agent.
"""

from collections.abc import Iterable
from html import escape

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from aura_agent.daemon.agent import Agent
from aura_agent.telemetry.counts import Counts


def status_app(agent: Agent, counts: Counts) -> Starlette:
    """Return the application that shows *agent* and *counts*."""

    async def healthy(_: Request) -> PlainTextResponse:
        problem = agent.unhealthy()
        return PlainTextResponse(problem or "ok", 503 if problem else 200)

    async def ready(_: Request) -> PlainTextResponse:
        problem = "stopping" if agent.stopping else agent.unhealthy()
        return PlainTextResponse(problem or "ok", 503 if problem else 200)

    async def metrics(_: Request) -> Response:
        registry = CollectorRegistry(auto_describe=False)
        snapshot = await agent.snapshot()
        registry.register(_Collector(snapshot, counts))  # type: ignore[arg-type]
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(_page(await agent.snapshot()))

    return Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )

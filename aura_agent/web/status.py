"""The status listener: a page for people, /healthz and /readyz for probes, /metrics for Prometheus.

Loaded only where ``[status] listen`` is set. Everything shown comes from one snapshot of the agent.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

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


class _Collector:
    """The metrics of one scrape; labels come from the config and from fixed words."""

    def __init__(self, snapshot: dict[str, Any], counts: Counts) -> None:
        self._snapshot = snapshot
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily("aura_agent_events", "What happened, by event and job.", labels=["event", "job"])
        for (event, job), count in self._counts.items():
            events.add_metric([event, job], count)
        yield events
        queue = GaugeMetricFamily("aura_agent_outbox_entries", "Entries in the outbox.", labels=["state"])
        for state, count in self._snapshot["queue"].items():
            queue.add_metric([state], count)
        yield queue
        running = GaugeMetricFamily("aura_agent_job_running", "Runs that are going on.", labels=["job"])
        for job in self._snapshot["jobs"]:
            running.add_metric([job["name"]], len(job["running"]))
        yield running
        healthy = GaugeMetricFamily("aura_agent_healthy", "1 while scheduler, store and courier work.")
        healthy.add_metric([], int(self._snapshot["healthy"]))
        yield healthy
        broken = GaugeMetricFamily("aura_agent_config_broken", "1 while the config on disk can't be used.")
        broken.add_metric([], int(bool(self._snapshot["config_problem"])))
        yield broken


def _page(snapshot: dict[str, Any]) -> str:
    rows = "".join(_page_row(job) for job in snapshot["jobs"])
    problems = [*snapshot["problems"], *([snapshot["config_problem"]] if snapshot["config_problem"] else [])]
    trouble = "".join(f"<p class=trouble>{escape(text)}</p>" for text in problems)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>aura-agent</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}table{border-collapse:collapse;width:100%}"
        "td,th{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884}.trouble{color:#b00}"
        "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.trouble{color:#f77}}</style>"
        f"<h1>aura-agent {escape(snapshot['version'])}</h1>{trouble}"
        f"<p>{snapshot['queue']['waiting']} pings wait, {snapshot['in_flight']} in flight; "
        f"since {escape(snapshot['started_at'])}</p>"
        "<table><tr><th>job<th>heartbeat<th>state<th>last<th>ping<th>next</tr>"
        f"{rows}</table></html>"
    )


def _page_row(job: dict[str, Any]) -> str:
    last, watch = job["last"], job.get("watch")
    ended = "" if last is None else f"{last['outcome']} {last['started_at']}"
    ping = "" if last is None else last["ping"] or ""
    if watch is not None:
        ended, ping = watch["reason"], watch["problem"] or watch["pinged_at"] or ""
    state = "paused" if job["paused"] else f"running ({len(job['running'])})" if job["running"] else job["kind"]
    cells = (job["name"], job["heartbeat"], state, ended, ping, job["next"] or "")
    return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"

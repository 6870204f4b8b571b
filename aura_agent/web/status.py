"""The status listener: a page for people, /healthz and /readyz for probes, /metrics for Prometheus.

Loaded only where ``[status] listen`` is set. Everything shown comes from one snapshot of the agent.
"""

from html import escape
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from aura_agent.daemon.agent import Agent
from aura_agent.telemetry.counts import (
    API_DEGRADED,
    CONFIG_PROBLEMS,
    LAST_SUCCESS,
    LOG_LINES_DROPPED,
    OLDEST_WAITING,
    OUTBOX_ENTRIES,
    RUNNING,
    Counts,
)
from aura_agent.telemetry.metrics import CONTENT_TYPE, build_registry, exposition
from aura_agent.web.guard import Guard


def status_app(agent: Agent, counts: Counts, *, local_only: bool) -> Guard:
    """Return the application that shows *agent* and *counts*; *local_only*: it listens on a loopback address."""
    registry = build_registry(counts)

    async def healthy(_: Request) -> PlainTextResponse:
        problem = agent.unhealthy()
        return PlainTextResponse(problem or "ok", 503 if problem else 200)

    async def ready(_: Request) -> PlainTextResponse:
        problem = "stopping" if agent.stopping else agent.unhealthy()
        return PlainTextResponse(problem or "ok", 503 if problem else 200)

    async def metrics(_: Request) -> Response:
        _refresh(counts, await agent.snapshot())
        return Response(exposition(registry), media_type=CONTENT_TYPE)

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(_page(await agent.snapshot()))

    application = Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ]
    )
    return Guard(application, local_only=local_only)


def _refresh(counts: Counts, snapshot: dict[str, Any]) -> None:
    """Bring up to date what is read at each scrape rather than counted as it happens."""
    counts.replace(OUTBOX_ENTRIES, {(state,): count for state, count in snapshot["queue"].items()})
    counts.replace(RUNNING, {(job["name"],): len(job["running"]) for job in snapshot["jobs"]})
    counts.set(OLDEST_WAITING, snapshot["oldest_waiting_s"])
    counts.replace(LAST_SUCCESS, {(job,): at_s for job, at_s in snapshot["last_successes"].items()})
    counts.replace(API_DEGRADED, {(snapshot["degraded"],): 1} if snapshot["degraded"] else {})
    counts.set(CONFIG_PROBLEMS, len(snapshot["config_problem"].splitlines()))
    counts.set(LOG_LINES_DROPPED, snapshot["log_lines_dropped"])


def _page(snapshot: dict[str, Any]) -> str:
    rows = "".join(_page_row(job) for job in snapshot["jobs"])
    problems = [
        *snapshot["problems"],
        *snapshot["warnings"],
        *([snapshot["config_problem"]] if snapshot["config_problem"] else []),
    ]
    trouble = "".join(f"<p class=trouble>{escape(text)}</p>" for text in problems)
    trouble += "".join(f"<p>{escape(text)}</p>" for text in snapshot["notices"])
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
    ping = job["problem"] or ("" if last is None else last["ping"] or "")
    if watch is not None:
        ended, ping = watch["reason"], watch["problem"] or watch["pinged_at"] or ""
    waits = f"waits: {job['waiting']}" if job["waiting"] else job["kind"]
    state = "paused" if job["paused"] else f"running ({len(job['running'])})" if job["running"] else waits
    cells = (job["name"], job["heartbeat"], state, ended, ping, job["next"] or "")
    return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"

"""The control socket's HTTP: what the commands speak that ask or tell the running daemon.

Who may speak is the file system's business: the socket is 0600.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aura_agent.daemon.agent import Agent
from aura_agent.errors import AuraError


def control_app(agent: Agent) -> Starlette:
    """Return the application; every answer is JSON, an error is ``{"error": text}``."""

    async def status(_: Request) -> JSONResponse:
        return JSONResponse(await agent.snapshot())

    async def reload(_: Request) -> JSONResponse:
        problem = await agent.reload()
        if problem:
            return JSONResponse({"error": problem}, 409)
        return JSONResponse({"jobs": len(agent.config.jobs), "needs_restart": agent.needs_restart()})

    async def trigger(request: Request) -> JSONResponse:
        firing = agent.trigger(request.path_params["name"])
        if firing is None:
            return JSONResponse({"state": "looking"})
        if firing.state == "skipped":
            return JSONResponse({"error": f"skipped: {firing.reason}"}, 409)
        return JSONResponse({"state": firing.state, "run": firing.run_id, "reason": firing.reason})

    async def pause(request: Request) -> JSONResponse:
        name, verb = request.path_params["name"], request.path_params["verb"]
        if verb not in ("pause", "resume"):
            return JSONResponse({"error": f"nothing is done to a job by {verb!r}"}, 404)
        await agent.pause(name, paused=verb == "pause")
        return JSONResponse({"job": name, "paused": verb == "pause"})

    async def drop(request: Request) -> JSONResponse:
        asked = await request.json()
        dropped = await agent.drop(asked["ids"], str(asked["reason"]))
        return JSONResponse({"dropped": dropped.dropped, "under_way": dropped.under_way})

    async def no_such_job(request: Request, _: Exception) -> JSONResponse:
        from difflib import get_close_matches

        name = request.path_params.get("name", "")
        near = get_close_matches(name, agent.config.jobs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return JSONResponse({"error": f"no job named {name!r} in the running config{hint}"}, 404)

    async def refused(_: Request, problem: Exception) -> JSONResponse:
        return JSONResponse({"error": str(problem)}, 503)

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/reload", reload, methods=["POST"]),
            Route("/queue/drop", drop, methods=["POST"]),
            Route("/jobs/{name}/trigger", trigger, methods=["POST"]),
            Route("/jobs/{name}/{verb:str}", pause, methods=["POST"]),
        ],
        exception_handlers={KeyError: no_such_job, AuraError: refused},
    )

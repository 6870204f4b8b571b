"""Whether a run has brought about what its job expects, looked at aside from the event loop."""

import asyncio
from functools import partial

from aura_agent.clock import Reading
from aura_agent.config.models import Job
from aura_agent.daemon.aside import aside
from aura_agent.units import format_duration

_EXPECTATION_S = 60.0  # for looking at what the run should have made


async def unmet_expectation(job: Job, started: Reading, ended: Reading) -> str:
    """Return what the run should have brought about and didn't; empty when all is well."""
    if job.expect is None or job.expect.file is None:
        return ""
    wanted = job.expect.file
    try:
        from aura_agent.watch.expect import expect_file

        looking = aside(
            partial(
                expect_file,
                path=wanted.path,
                started_at=started.wall,
                now=ended.wall,
                newer_than_s=None if wanted.newer_than == "start" else wanted.newer_than,
                min_size_bytes=wanted.min_size,
            ),
            "expectation",
        )
        async with asyncio.timeout(_EXPECTATION_S):
            condition = await looking
    except TimeoutError:
        return f"{wanted.path} could not be looked at within {format_duration(_EXPECTATION_S)}: does its disk hang?"
    except Exception as problem:  # noqa: BLE001  # what can't be looked at can't be vouched for
        return f"{wanted.path} can't be looked at: {problem}"
    return "" if condition.healthy else condition.reason

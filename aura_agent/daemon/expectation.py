"""Whether a run has brought about what its job expects, looked at aside from the event loop."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Reading
from aura_agent.config.models import ExpectFile, Job
from aura_agent.report.record import Outcome, Ref, Report
from aura_agent.units import format_duration

_EXPECTATION_S = 60.0  # for looking at what the run should have made


async def unmet_expectation(job: Job, started: Reading, ended: Reading) -> str:
    """Return what the run should have brought about and didn't; empty when all is well."""
    if job.expect is None or job.expect.file is None:
        return ""
    wanted = job.expect.file
    try:
        from aura_agent.watch.expect import expect_file

        looking = run_in_thread(partial(expect_file, **_wanted(wanted, started, ended)), "expectation")
        async with asyncio.timeout(_EXPECTATION_S):
            condition = await looking
    except TimeoutError:
        return f"{wanted.path} could not be looked at within {format_duration(_EXPECTATION_S)}: does its disk hang?"
    except Exception as problem:  # noqa: BLE001  # what can't be looked at can't be vouched for
        return f"{wanted.path} can't be looked at: {problem}"
    return "" if condition.healthy else condition.reason


async def judged(report: Report, name: str, job: Job) -> Report:
    """Return the success *report* as a run of *job*, called *name*: a failure if it doesn't meet what that demands."""
    if report.exit_code not in job.success_codes:
        reason = f"exit status {report.exit_code}"
    else:
        reason = await unmet_expectation(job, report.started, report.ended)
    return replace(
        report,
        outcome=Outcome.FAILED if reason else Outcome.SUCCEEDED,
        reason=reason,
        job=name,
        ref=f"{Ref.HEARTBEAT}{job.heartbeat or name}",
        max_age_s=job.max_age,
        replay_all=job.replay == "all",
        body=None if reason else report.body,
    )


def _wanted(wanted: ExpectFile, started: Reading, ended: Reading) -> dict[str, Any]:
    return {
        "path": wanted.path,
        "started_at": started.wall,
        "now": ended.wall,
        "newer_than_s": None if wanted.newer_than == "start" else wanted.newer_than,
        "min_size_bytes": wanted.min_size,
    }

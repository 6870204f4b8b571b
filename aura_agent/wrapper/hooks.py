"""aura-run's own hooks, where no daemon calls them: of what has come to light since the job ended, for a bounded time.

Exit status and output stay as they are; a hook that fails is a line on stderr, once a day per cause. What it takes to
call one is loaded only when one is due.
"""

import asyncio
import os
from time import monotonic

from aura_agent.config.models import Config
from aura_agent.errors import AuraError, StoreBusyError, StoreError
from aura_agent.outbox.database import reading
from aura_agent.outbox.hooks import HookCall
from aura_agent.outbox.run_history import run_owners, with_owner
from aura_agent.outbox.store import Outbox, open_outbox
from aura_agent.report.record import Report
from aura_agent.wrapper.reporting import Delivery
from aura_agent.wrapper.warnings import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aura_agent.hooks.calling import Surroundings

_AT_ONCE = 20


def call_hooks(what: Delivery, report: Report, wait_s: float) -> None:
    """Call the hooks that are due in the store, or of *report* alone if the store is of no use; for *wait_s*."""
    deadline = monotonic() + wait_s
    config = what.config
    if config is None:
        return
    try:
        outbox = _opened(what, report, wait_s)
    except StoreBusyError:
        return  # others are at it, and take the report in
    except StoreError as problem:
        warn(what.store, "store", str(problem))
        return
    try:
        # Other aura-runs may have taken in our report, and we theirs: whoever comes first calls.
        calls = outbox.take_hook_calls(_AT_ONCE, noted_since_ns=report.ended.wall_ns)
        if calls:
            with reading():
                owners = run_owners(outbox, config.heartbeats())
            calls = [with_owner(call, owners) for call in calls]
            asyncio.run(_call_all(calls, outbox, config, what, deadline))
    except AuraError as problem:
        warn(what.store, "hooks", str(problem))
    finally:
        _close(outbox)


def _opened(what: Delivery, report: Report, wait_s: float) -> Outbox:
    """Return the store with the report in it; one in memory if it has no room. Raises StoreError."""
    if what.path is not None:
        try:
            outbox = open_outbox(what.store, "run", patience_s=wait_s)
            outbox.take_in()
        except StoreBusyError:
            raise
        except StoreError:
            pass  # which delivery has told
        else:
            return outbox
    outbox = open_outbox(None, "run")
    outbox.accept([report])
    return outbox


def _close(outbox: Outbox) -> None:
    try:
        outbox.release_hook_calls()
    except StoreError:
        pass  # our end gives them back, too
    outbox.close()


async def _call_all(calls: list[HookCall], outbox: Outbox, config: Config, what: Delivery, deadline: float) -> None:
    from aura_agent.delivery.post import build_http
    from aura_agent.hooks.calling import Surroundings

    try:
        async with asyncio.timeout(deadline - monotonic()), build_http() as http:
            around = Surroundings(
                host=os.uname().nodename,
                http=lambda: http,
                redact=config.attach.redact,
                allow_insecure=config.api.allow_insecure,
                switches_user=False,
            )
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(_call(call, outbox, config, what, around))
    except TimeoutError:
        warn(what.store, "hooks late", f"hooks were not done within {what.options.wait_s:g} s: see --wait")


async def _call(call: HookCall, outbox: Outbox, config: Config, what: Delivery, around: "Surroundings") -> None:
    from aura_agent.hooks.calling import call_hook
    from aura_agent.hooks.facts import hook_of

    job = config.jobs.get(call.job)
    hook = None if job is None else hook_of(job, call.kind)
    if job is not None and hook is not None:
        for failure in await call_hook(hook, call, job, around):
            text = f"{call.kind} of {call.job} failed: {failure.what}: {failure.reason}"
            warn(what.store, f"{call.kind} {call.job} {failure.what}", text)
    try:
        outbox.end_hook_call(call.id)
    except StoreError:
        pass  # it is given back when we end, and told once more

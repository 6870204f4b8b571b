"""Calling one hook: its command and its webhook side by side, each bounded in time and tried twice.

A command runs as the daemon's jobs do: as the job's user, in a session of its own, with a clean environment; what is
left of its process tree when its time is over, or ours, is killed. Its output goes nowhere but, if it fails, into the
log. No failure leaves this module but as a text, and none holds the webhook's URL.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field

import httpx
import msgspec

from aura_agent.api.trouble import describe
from aura_agent.config.models import Hook, Job
from aura_agent.config.settings import webhook_url
from aura_agent.delivery.post import post
from aura_agent.errors import AuraError
from aura_agent.hooks.facts import VARIABLE, payload, variables
from aura_agent.outbox.hooks import HookCall
from aura_agent.process.account import Account, job_environment, resolve_account
from aura_agent.process.attachment import attachment
from aura_agent.process.child import Child
from aura_agent.process.pump import Pump
from aura_agent.process.spawn import SpawnSpec, spawn
from aura_agent.process.tail import CONTEXT_BYTES, Tail
from aura_agent.secret import Secret
from aura_agent.units import format_duration

RETRY_AFTER_S = 5.0
_KILL_AFTER_S = 2.0
_DRAIN_S = 0.5
_OUTPUT_BYTES = 500  # of a command that failed, for the log
_UMASK = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a call needs besides its hook. *learn* is told each secret before it is used.

    *redact* are the patterns of what must not leave the host; None: nobody knows them. *switches_user*: a command runs
    as its job's user; else as we are. *place* is held by each try while it goes on, by none that waits for its second.
    """

    host: str
    http: Callable[[], httpx.AsyncClient]
    redact: Sequence[str] | None
    allow_insecure: bool
    switches_user: bool
    retry_after_s: float = RETRY_AFTER_S
    learn: Callable[[Secret], None] = lambda _: None
    place: AbstractAsyncContextManager[object] = field(default_factory=nullcontext)


@dataclass(frozen=True, slots=True)
class Failure:
    """What of a hook failed, and why; *output* is the end of what its command wrote."""

    what: str
    reason: str
    output: str = ""


async def call_hook(hook: Hook, call: HookCall, job: Job, around: Surroundings) -> list[Failure]:
    """Tell of *call* by all that *hook* names; return what failed, twice."""
    ways: list[Callable[[], Awaitable[Failure | None]]] = []
    if hook.command:
        command = hook.command
        ways.append(lambda: _run(command, call, job, around, hook.timeout))
    if hook.webhook:
        webhook = hook.webhook
        ways.append(lambda: _post(webhook, call, job, around, hook.timeout))
    ended = await asyncio.gather(*(_twice(way, around) for way in ways))
    return [failure for failure in ended if failure is not None]


async def _twice(way: Callable[[], Awaitable[Failure | None]], around: Surroundings) -> Failure | None:
    async with around.place:
        if await way() is None:
            return None
    await asyncio.sleep(around.retry_after_s)
    async with around.place:
        return await way()


# -- a webhook --------------------------------------------------------------------------------------------------------


async def _post(said: str, call: HookCall, job: Job, around: Surroundings, timeout_s: float) -> Failure | None:
    try:
        url, http = webhook_url(said, allow_insecure=around.allow_insecure), around.http()
    except AuraError as problem:
        return Failure("webhook", str(problem))
    around.learn(url)
    body = msgspec.json.encode(payload(call, around.host, _output(call, job, around.redact)))
    sent = await post(
        http,
        url,
        body,
        content_type="application/json",
        allow_insecure=around.allow_insecure,
        total_s=timeout_s,
    )
    if sent.status is None:
        return Failure("webhook", describe(sent.error or ""))
    return None if 200 <= sent.status <= 299 else Failure("webhook", f"HTTP {sent.status}")


def _output(call: HookCall, job: Job, redact: Sequence[str] | None) -> str | None:
    """Return what of the run's output may leave the host: as much as would go with a ping."""
    if job.attach != "output" or not call.tail:
        return None
    tail = Tail(job.tail_bytes + CONTEXT_BYTES)
    tail.feed(call.tail.encode())
    return attachment(tail, job.tail_bytes, redact).decode()


# -- a command --------------------------------------------------------------------------------------------------------


async def _run(
    argv: tuple[str, ...], call: HookCall, job: Job, around: Surroundings, timeout_s: float
) -> Failure | None:
    tail = Tail(_OUTPUT_BYTES)
    try:
        account = resolve_account(job.user, job.group) if around.switches_user else resolve_account()
        with _tail_file(call.tail, account) as path:
            env = job_environment(account, os.environ, variables(call, around.host))
            if path is not None:
                env[f"{VARIABLE}_OUTPUT_FILE"] = path
            child = spawn(SpawnSpec(argv=argv, env=env, account=account, umask=_UMASK))
            async with _reading(child, tail):
                reason = await _ended(child, timeout_s)
    except AuraError as problem:
        return Failure("command", str(problem))
    return Failure("command", reason, tail.text()) if reason else None


async def _ended(child: Child, timeout_s: float) -> str:
    """Wait for the command; return how it failed, empty if it didn't."""
    from aura_agent.process.tree import ProcessTree  # brings psutil: not before it is needed

    tree = ProcessTree(child.pid, own_group=True)
    try:
        async with asyncio.timeout(timeout_s):
            status = await child.wait()
    except TimeoutError:
        tree.signal(signal.SIGTERM)
        await tree.gone(_KILL_AFTER_S)
        tree.signal(signal.SIGKILL)
        await child.wait()
        return f"timed out after {format_duration(timeout_s)}"
    else:
        return "" if status.code == 0 else str(status)
    finally:
        if child.status is None:  # it is we who have no time
            tree.signal(signal.SIGKILL)
            await child.wait()


@asynccontextmanager
async def _reading(child: Child, tail: Tail) -> AsyncIterator[None]:
    """Read what the command writes into *tail*."""
    pumps = [Pump(fd, tail) for fd in (child.stdout, child.stderr) if fd is not None]
    try:
        yield
        for pump in pumps:
            await pump.drained(_DRAIN_S)
    finally:
        for pump in pumps:
            pump.release()  # a grandchild may hold the other end: it goes on


@contextmanager
def _tail_file(tail: str, account: Account) -> Iterator[str | None]:
    """Hold the run's output in a file that the command's user alone can read; None: there is none, or no room."""
    path = None
    if tail:
        try:
            path = _write_private(tail, account)
        except OSError:
            pass  # what happened is told all the same
    try:
        yield path
    finally:
        if path is not None:
            try:
                os.unlink(path)
            except OSError:
                pass  # the command has removed it


def _write_private(tail: str, account: Account) -> str:
    file, path = tempfile.mkstemp(prefix="aura-hook-")
    try:
        os.fchmod(file, 0o600)  # mkstemp leaves it to the umask
        with open(file, "wb") as stream:
            stream.write(tail.encode())
            if account.switch:
                os.fchown(file, account.uid, account.gid)
    except OSError:
        os.unlink(path)
        raise
    return path

"""A ping that is no entry of the outbox: an answer of now, sent at once, of a watch or by a person's hand.

A success that no disk takes is one, too (``unkept``).

Where its heartbeat's ping URL isn't known, or turns out to be gone, it is asked for, once.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from aura_agent.delivery.answers import Answer, Verdict, classify
from aura_agent.delivery.deadline import Deadline, Instants, system_instants
from aura_agent.delivery.post import TOTAL_S, post_ping
from aura_agent.delivery.resolver import Fresh, PingTarget, Resolver
from aura_agent.errors import StoreSilentError
from aura_agent.outbox.claims import Unresolved
from aura_agent.outbox.queries import stream_of, stream_problem
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.ping_url import host_of
from aura_agent.report.record import Ref
from aura_agent.secret import Secret

_TRIES = 3  # one more for a ping URL that has changed, one for a suspend


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What came of it: *reason* is for people. *heartbeat* is its name, as far as that is known.

    *host* is whom it was sent to, empty if nobody.
    """

    acknowledged: bool
    reason: str
    heartbeat: str
    heartbeat_id: str | None
    stream_id: int
    host: str = ""
    duration_s: float = 0.0
    retry_after_s: float | None = None
    ahead_s: float | None = None  # of our clock, as for ``skew.Skew``


def _host_of(url: Secret) -> str:
    """Return the host of *url*; empty if it is invalid, which whoever sends says."""
    try:
        return host_of(url.reveal())
    except ValueError:
        return ""


async def _none(_: str) -> str:
    return ""


async def _nothing() -> str:
    return ""


class _InTime:
    """Whether a request may be written: by its *deadline*, and by *still*. *is_late*: the deadline was missed."""

    def __init__(self, now: Instants, still: Callable[[], Awaitable[str]]) -> None:
        begun = now()
        self._deadline = Deadline(begun, begun.boot_ns + int(TOTAL_S * 1e9))
        self._now = now
        self._still = still
        self.is_late = False

    async def problem(self) -> str:
        problem = self._deadline.problem(self._now())
        self.is_late = bool(problem)
        return problem or await self._still()


async def ping_now(
    worker: OutboxWorker,
    resolver: Resolver,
    http: httpx.AsyncClient,
    heartbeat: str,
    *,
    allow_insecure: bool,
    body: bytes | None = None,
    objection: Callable[[str], Awaitable[str]] = _none,
    still: Callable[[], Awaitable[str]] = _nothing,
    instant: Instants | None = None,
) -> Sent:
    """Ping *heartbeat*, an id or an exact name, and return what Aura says to it. Raises StoreError.

    *objection* is asked right before each request begins, by its host, and says why it must not; empty: it may. *still*
    is asked likewise right before the request is written, when it may have taken a while to connect. A request that
    could not be written in time, by *instant*, is begun anew.
    """
    now = instant or system_instants()
    stream_id, heartbeat_id, url, name = await _resolved(worker, resolver, heartbeat)

    def not_sent(reason: str) -> Sent:
        return Sent(acknowledged=False, reason=reason, heartbeat=name, heartbeat_id=heartbeat_id, stream_id=stream_id)

    if url is None:
        problem = await worker.read(lambda outbox: stream_problem(outbox, stream_id))
        return not_sent(problem or resolver.problem or f"the ping URL of {heartbeat!r} isn't known yet")
    for _ in range(_TRIES):
        host = _host_of(url)
        if reason := await objection(host):
            return not_sent(reason)
        in_time = _InTime(now, still)
        attempt = await post_ping(http, url, body, allow_insecure=allow_insecure, objection=in_time.problem)
        if attempt.unsent:
            if not in_time.is_late:
                return not_sent(attempt.unsent)
            answer = Answer(Verdict.RETRY, attempt.unsent)
            continue
        answer = classify(attempt.status, attempt.error, attempt.retry_after, datetime.now(UTC))
        if answer.verdict is not Verdict.RESOLVE_ANEW or heartbeat_id is None:
            break
        if await resolver.refresh(heartbeat_id, url) is not Fresh.CHANGED:
            break
        stream_id, heartbeat_id, url, name = await _resolved(worker, resolver, heartbeat)
        if url is None:
            break
    return Sent(
        acknowledged=answer.verdict is Verdict.DELIVERED,
        reason=answer.reason,
        heartbeat=name,
        heartbeat_id=heartbeat_id,
        stream_id=stream_id,
        host=host,
        duration_s=attempt.duration_s,
        retry_after_s=answer.retry_after_s,
        ahead_s=attempt.ahead_s,
    )


async def _resolved(worker: OutboxWorker, resolver: Resolver, heartbeat: str) -> PingTarget:
    """Return where the heartbeat's pings go, as far as that can be found out. Raises StoreError.

    Where it is known it is only read: no full disk, and nobody who keeps the database locked, is in the way; nor, for a
    heartbeat of the config, a disk that does not answer.
    """
    try:
        return await _looked_up(worker, resolver, Ref.HEARTBEAT + heartbeat)
    except StoreSilentError:
        if (target := resolver.targets.get(heartbeat)) is None:
            raise
        return target


async def _looked_up(worker: OutboxWorker, resolver: Resolver, ref: str) -> PingTarget:
    known = await worker.read(lambda outbox: stream_of(outbox, ref))
    if known is None or known[2] is None:
        known = await worker.call(lambda outbox: outbox.stream(ref))
        if known[2] is None:
            await resolver.resolve([Unresolved(known[0], known[1], (ref,), 0)])
            known = await worker.call(lambda outbox: outbox.stream(ref))
    stream_id, heartbeat_id, url = known
    return PingTarget(stream_id, heartbeat_id, url, await worker.read(lambda outbox: outbox.streams.name(stream_id)))

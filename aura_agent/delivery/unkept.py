"""Successes that no disk takes: each is sent from memory, once, if it is then still the newest truth of its heartbeat.

They go beside the queue, at the pace of all pings, a few at once, and to no host that asked to be left alone. One that
isn't sent, or not acknowledged, isn't lost: whoever has it offers it to the disk again, and then it is an entry like
any other.

Everything that can be read is asked first (``contradiction``). Where the disk does not answer nothing can be read, and
memory judges: what nobody has on record yet, and the failures since we started, which is before the run did.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import httpx

from aura_agent.delivery.courier import Courier
from aura_agent.delivery.now import ping_now
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.resolver import Resolver
from aura_agent.errors import StoreError, StoreSilentError
from aura_agent.outbox.contradiction import contradicted_by, contradiction
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Ref, Report

_AT_ONCE = 4
_REMEMBERED = 10_000  # heartbeats that have failed


class Unkept:
    """Sends them, of the store in *directory*.

    *unrecorded* returns the outcomes that are in memory alone; *ending* says whether it is too late to begin a ping.
    """

    def __init__(
        self,
        worker: OutboxWorker,
        directory: str,
        resolver: Resolver,
        courier: Courier,
        http: httpx.AsyncClient,
        observer: Observer,
        *,
        allow_insecure: bool,
        unrecorded: Callable[[], Sequence[Report]],
        ending: Callable[[], bool],
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._resolver = resolver
        self._courier = courier
        self._http = http
        self._observer = observer
        self._allow_insecure = allow_insecure
        self._unrecorded = unrecorded
        self._ending = ending
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._failures: dict[str, Report] = {}  # the newest of each ref

    def remember(self, report: Report) -> None:
        """Remember the outcome *report* if it is one that withdraws successes."""
        if report.ref is None or not report.outcome.withdraws:
            return
        before = self._failures.pop(report.ref, report)
        self._failures[report.ref] = max(before, report, key=lambda failure: failure.started.boot_ns)
        if len(self._failures) > _REMEMBERED:
            del self._failures[next(iter(self._failures))]

    async def send(self, report: Report) -> None:
        """Send the success *report*, unless something that is known by then is against it."""
        if report.ref is None:
            return
        heartbeat = report.ref.removeprefix(Ref.HEARTBEAT)
        acknowledged, reason = False, ""
        try:
            async with self._free:
                sent = await ping_now(
                    self._worker,
                    self._resolver,
                    self._http,
                    heartbeat,
                    allow_insecure=self._allow_insecure,
                    body=report.body,
                    objection=partial(self._objection, report),
                )
            acknowledged, reason = sent.acknowledged, sent.reason
            if sent.acknowledged:
                self._courier.heard_from(sent.host)
            elif sent.retry_after_s is not None:
                self._courier.hold(sent.host, sent.retry_after_s)
        except StoreError as problem:
            reason = str(problem)
        self._observer.note(
            "ping.delivered" if acknowledged else "ping.postponed",
            heartbeat=heartbeat,
            job=report.job,
            run_id=report.run_id,
            reason=reason,
        )

    async def _objection(self, report: Report, host: str) -> str:
        """Wait for the turn of *report*, and return why it must not be sent to *host* then. Raises StoreError."""
        if not self._ending():
            await self._courier.its_turn()
        while True:
            unrecorded = list(self._unrecorded())
            held = await self._courier.held(host)
            try:
                against = await self._worker.read(
                    partial(contradiction, directory=self._directory, report=report, others=unrecorded)
                )
            except StoreSilentError:
                against = self._contradiction_in_memory(report, unrecorded)
            if self._ending():
                return "the agent is stopping"
            if held or against or unrecorded == list(self._unrecorded()):
                return held or against

    def _contradiction_in_memory(self, report: Report, unrecorded: Sequence[Report]) -> str:
        target = self._resolver.targets.get((report.ref or "").removeprefix(Ref.HEARTBEAT))
        if target is None:  # nor is it under which other names a failure may have come
            return "where the ping goes is not in memory"
        names = {target.name, target.heartbeat_id or ""}
        if target.url is not None:
            names.add(target.url.reveal())
        others = [*unrecorded, *self._worker.unwritten, *self._failures.values()]
        return contradicted_by(others, report, names - {""})

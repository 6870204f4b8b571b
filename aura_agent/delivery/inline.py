"""One delivery by hand: a wrapper without a daemon, or ``queue flush``. Builds what the daemon has, for a moment."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from aura_agent.api import AuraClient, Limiter, Purpose
from aura_agent.clock import SystemClock
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.post import build_http
from aura_agent.delivery.resolver import ClientFactory, Resolver
from aura_agent.outbox.contradiction import contradiction_in_any
from aura_agent.outbox.database import BUSY_TIMEOUT_S
from aura_agent.outbox.queries import left_in, state_of, streams_of, waiting_runs
from aura_agent.outbox.rules import State
from aura_agent.outbox.store import Outbox, open_copy_of_store, open_outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import boots
from aura_agent.report.account import Account, account_of
from aura_agent.report.record import Report
from aura_agent.report.spool import prepare
from aura_agent.secret import Secret

_FLUSH_TIMEOUT_S = 600.0
_OTHERS_S = 30.0  # no attempt takes longer; a lease that outlasts this is a dead process's
_RENAMES_S = 2.0  # nothing waits for that, but the caller
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where Aura is and who we are there."""

    base_url: str
    token: Secret | None
    allow_insecure: bool = False
    state_dir: str | None = None  # where the token's budget is; None: each factory's own
    boot_id: str = ""  # what the store there calls this boot, where it is known: then no disk is asked

    @property
    def account(self) -> Account | None:
        """Return how we are named in stores; None without a token."""
        return None if self.token is None else account_of(self.base_url, self.token)

    def client_factory(
        self, on_wait: Callable[[float], None] = lambda _: None, *, refusal_wait_s: float = 0.0
    ) -> ClientFactory | None:
        """Return what opens an API client, None without a token; *on_wait* hears how long (s) a request has to wait.

        *refusal_wait_s* is how long one that was refused with 429 waits to be sent again, and the least patience.
        """
        token = self.token
        if token is None:
            return None
        limiter = Limiter(
            token,
            self.base_url,
            SystemClock(),
            random.Random(),  # spreads waits, protects nothing
            directory=self.state_dir if self.boot_id else self._own_state_dir(),
            boot_id=self.boot_id or boots.identify(self._own_state_dir()),
            on_wait=on_wait,
        )

        def open_client(purpose: Purpose, patience_s: float) -> AuraClient:
            return AuraClient(
                self.base_url,
                token,
                allow_insecure=self.allow_insecure,
                limiter=limiter,
                purpose=purpose,
                patience_s=max(patience_s, refusal_wait_s),
                refusal_wait_s=refusal_wait_s,
            )

        return open_client

    def _own_state_dir(self) -> str | None:
        """Return the state directory if it is ours, made if missing."""
        if self.state_dir is None:
            return None
        try:
            prepare(self.state_dir)
        except OSError:
            return None
        return self.state_dir


@asynccontextmanager
async def courier_for(
    outbox: Outbox,
    service: Service,
    observer: Observer,
    *,
    limit: int = 16,
    withheld: Callable[[], bool] = lambda: False,
) -> AsyncIterator[tuple[Courier, OutboxWorker]]:
    """Wire a courier to *outbox* and close both at the end; *withheld*: as for the courier. Raises StoreError."""
    outbox.enter(service.account)
    rng = random.Random()  # spreads retries, protects nothing
    worker = OutboxWorker(outbox)
    resolver = Resolver(worker, service.client_factory(), SystemClock(), rng, observer)
    try:
        async with build_http() as http:
            courier = Courier(
                worker,
                resolver,
                http,
                rng,
                observer,
                limit=limit,
                allow_insecure=service.allow_insecure,
                withheld=withheld,
            )
            yield courier, worker
    finally:
        await worker.close()


def deliver_now(
    directory: str | None,
    service: Service,
    observer: Observer,
    *,
    wait_s: float,
    run_id: str,
    only_run: bool = False,
    withheld: Callable[[], bool] = lambda: False,
) -> bool:
    """Deliver what waits in the store for *wait_s* at the most; return whether nothing sendable is left of it.

    The stream of the run *run_id* comes first, and with *only_run* nothing else. While *withheld* says so, nothing
    begins.
    """
    outbox = open_outbox(directory, "run", patience_s=min(wait_s, BUSY_TIMEOUT_S))
    first = frozenset((run_id,))

    async def deliver() -> bool:
        async with courier_for(outbox, service, observer, limit=8, withheld=withheld) as (courier, worker):
            began_s = monotonic()
            await courier.drain(wait_s, retry=True, only_runs=first if only_run else None, first=first)
            await courier.look_for_renames(min(_RENAMES_S, wait_s - (monotonic() - began_s)))
            return await worker.call(Outbox.waiting_count) == 0

    return asyncio.run(deliver())


def deliver_from_memory(directory: str, service: Service, observer: Observer, report: Report, *, wait_s: float) -> bool:
    """Deliver *report*, a success that the store in *directory* doesn't take; return whether it was acknowledged.

    All that can be read there counts: its cached ping URLs, and before each attempt what speaks against the success.
    Pings that are queued there are left alone: the store could not note that they were sent.
    """
    outbox = open_copy_of_store(directory, "run")
    only_runs = frozenset((report.run_id,))
    with ExitStack() as stack:
        stores = outbox.readers_of_original()
        for store in stores:
            stack.callback(store.close)

        async def deliver() -> bool:
            async with courier_for(
                outbox,
                service,
                observer,
                limit=8,
                withheld=lambda: bool(contradiction_in_any(stores, directory, report)),
            ) as (courier, worker):
                await worker.call(_drop_queued)
                await worker.accept(report)
                await courier.drain(wait_s, retry=True, only_runs=only_runs)
                return await worker.call(lambda outbox: state_of(outbox, report.run_id)) == State.DELIVERED

        return asyncio.run(deliver())


def _drop_queued(copy: Outbox) -> None:
    """Drop the queued pings of a copy, and keep what its reports say about the order of runs."""
    copy.claim(0)  # ingest inbox and spool
    copy.drop(None, "sent from the store, not from a copy of it")
    copy.claim(0)  # take the notices of dropped pings, which would be logged


async def flush(
    courier: Courier, worker: OutboxWorker, tried: Callable[[], Collection[str]], heartbeat: str | None = None
) -> int:
    """Deliver now all that may be sent, of *heartbeat* or of all; return how much is left. Raises StoreError.

    *tried* returns the runs of the pings that the courier has tried. What other processes are at isn't left: how that
    ends is waited for, and what they didn't get through, or held up meanwhile, has a try of ours. A host that a few
    pings have found down is probed once more before what waits for it is left.
    """

    def streams(outbox: Outbox) -> set[int] | None:
        return None if heartbeat is None else set(streams_of(outbox, heartbeat))

    def begin(outbox: Outbox) -> frozenset[str] | None:
        ours = streams(outbox)
        only_runs = None if ours is None else waiting_runs(outbox, ours)
        outbox.release_held(ours)
        outbox.hurry(only_runs)
        return only_runs

    loop = asyncio.get_running_loop()
    others_until_s, before = loop.time() + _OTHERS_S, None
    only_runs = await worker.call(begin)
    while True:
        await courier.drain(_FLUSH_TIMEOUT_S, retry=False, probe=before is not None, only_runs=only_runs)
        left = await worker.call(lambda outbox: left_in(outbox, streams(outbox), tried()))
        if left.busy and loop.time() < others_until_s:
            await asyncio.sleep(_LOOK_AGAIN_S)
        elif left.busy or not left.untried or (before is not None and left.waiting >= before.waiting):
            break  # the probes found their hosts down, or nothing is left
        else:
            before = left
            await worker.call(partial(Outbox.hurry, only_runs=left.untried))
    return left.waiting if heartbeat is not None else await worker.call(Outbox.waiting_count)

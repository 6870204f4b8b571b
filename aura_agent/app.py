"""The composition root: builds the daemon's objects, wires them, and owns the order in which they start and stop.

Stop order: no new runs; running jobs get their grace; what they report is flushed for a bounded time; the sockets
close; the outbox closes last. What is not delivered by then stays on disk. A second signal cuts every grace short.
"""

import asyncio
import fcntl
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aura_agent.api import ApiError
from aura_agent.clock import SystemClock
from aura_agent.config.addresses import parse_listen
from aura_agent.config.models import Config
from aura_agent.config.settings import base_url, find_token
from aura_agent.daemon.agent import Agent, Parts
from aura_agent.daemon.reports import Desk, ReportServer, bind_socket
from aura_agent.daemon.runner import Runner
from aura_agent.daemon.scheduler import Scheduler
from aura_agent.daemon.watcher import Watcher
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.inline import Service
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.post import build_http
from aura_agent.delivery.resolver import ClientFactory, Resolver
from aura_agent.errors import StoreError
from aura_agent.outbox.store import Outbox, open_outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import boots, places, spool
from aura_agent.report.record import Report
from aura_agent.systemd import Notifier
from aura_agent.telemetry.counts import Counts
from aura_agent.telemetry.observer import LoggingObserver
from aura_agent.telemetry.redact import Redactor
from aura_agent.web.serving import LazyServer

_RELIST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where the daemon listens."""

    reports: str
    control: str


def sockets(config: Config) -> Sockets:
    reports = places.socket_path(os.environ, config.agent.socket)
    return Sockets(reports, os.path.join(os.path.dirname(reports), places.CONTROL_SOCKET))


async def run_agent(config: Config, load: Callable[[], Config], redactor: Redactor) -> None:
    """Run the daemon until SIGTERM or SIGINT. *load* reads the config anew for a reload. Raises AuraError.

    *redactor* learns each secret that the daemon does, so that no log line can hold one.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_stop)
    notifier = Notifier.from_environ(os.environ)
    async with _built(config, load, notifier, redactor) as daemon:
        loop.add_signal_handler(signal.SIGHUP, daemon.reload_soon)
        notifier.ready(f"{len(daemon.agent.config.jobs)} jobs")
        await stop.wait()
        notifier.stopping()
        await daemon.stop(hurry)


@dataclass(frozen=True, slots=True)
class _Daemon:
    """The built daemon: what ``run_agent`` tells it."""

    agent: Agent
    parts: Parts
    reports: ReportServer
    notifier: Notifier
    directory: str
    working: list[asyncio.Task[None]]
    reloading: list[asyncio.Task[None]] = field(default_factory=list)

    def reload_soon(self) -> None:
        """Reload beside what is going on."""
        self.reloading.append(asyncio.create_task(self._reload(), name="reload"))

    async def _reload(self) -> None:
        self.notifier.reloading()
        try:
            problem = await self.agent.reload()
        except StoreError as trouble:
            problem = str(trouble)
        self.notifier.ready(f"config rejected: {problem}" if problem else f"{len(self.agent.config.jobs)} jobs")

    async def stop(self, hurry: asyncio.Event) -> None:
        """End in order; *hurry* cuts the graces short."""
        parts, settings = self.parts, self.agent.config.agent
        self.agent.stopping = True
        parts.observer.note("agent.stopping", running=parts.runner.count)
        scheduler, _, *others = self.working
        for task in (scheduler, *others):
            task.cancel()
        await parts.watcher.close()
        hurrying = asyncio.create_task(_hurry(hurry, parts.runner), name="hurry")
        await parts.runner.finish(settings.stop_grace)
        hurrying.cancel()
        await self.reports.close()
        parts.courier.end()
        await asyncio.gather(*self.working, *self.reloading, return_exceptions=True)
        for report in parts.runner.unrecorded:
            _spool(self.directory, report)
        if hurry.is_set():
            await parts.courier.abandon()
        else:
            flush = asyncio.create_task(parts.courier.drain(settings.flush_timeout, retry=False), name="flush")
            hurried = asyncio.create_task(hurry.wait(), name="hurried")
            await asyncio.wait({flush, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            flush.cancel()
            await asyncio.gather(flush, return_exceptions=True)
        left = await parts.worker.call(Outbox.waiting_count)
        parts.observer.note("agent.stopped", waiting=left)


@asynccontextmanager
async def _built(
    config: Config, load: Callable[[], Config], notifier: Notifier, redactor: Redactor
) -> AsyncIterator[_Daemon]:
    """Build everything, start it, and take it down in the reverse order."""
    clock, rng, counts = SystemClock(), random.Random(), Counts()  # spreads retries, protects nothing
    observer = LoggingObserver(counts)
    directory = places.state_dir(os.environ, config.agent.state_dir, os.geteuid())
    hostname, boot_id = os.uname().nodename, boots.current_boot_id()
    async with AsyncExitStack() as stack:
        outbox = open_outbox(directory, "daemon")
        worker = OutboxWorker(outbox)
        stack.push_async_callback(worker.close)
        _take_lock(directory, stack)
        await worker.call(Outbox.release_dead_daemon)
        await worker.call(Outbox.unpark)
        for job in await worker.call(Outbox.lose_open_runs):
            observer.note("run.lost", job=job)

        def connect(config: Config) -> ClientFactory | None:
            token = find_token(config.api, os.environ, warn=lambda text: observer.note("token.exposed", reason=text))
            if token is not None:
                redactor.add(token.reveal())
            url = base_url(config.api, os.environ)
            return Service(base_url=url, token=token, allow_insecure=config.api.allow_insecure).client_factory()

        for heartbeat in await worker.call(lambda outbox: outbox.streams.cached()):
            if heartbeat.ping_url is not None:
                redactor.add(heartbeat.ping_url.reveal())
        insecure = config.api.allow_insecure
        http = await stack.enter_async_context(build_http(limit=config.agent.max_concurrent_pings))
        resolver = Resolver(worker, connect(config), clock, rng, observer, learn=lambda url: redactor.add(url.reveal()))
        courier = Courier(
            worker, resolver, http, rng, observer, limit=config.agent.max_concurrent_pings, allow_insecure=insecure
        )

        def accepted(report: Report) -> None:
            observer.note(
                "run.finished",
                job=report.job,
                run_id=report.run_id,
                outcome=report.outcome.value,
                duration_s=round(report.duration_s, 3),
                attempts=report.attempts if report.attempts > 1 else None,
                reason=report.reason or None,
            )
            courier.wake()

        runner = Runner(worker, clock, observer, boot_id, accepted)
        watcher = Watcher(worker, resolver, http, clock, rng, observer, allow_insecure=insecure)
        scheduler = Scheduler(worker, clock, observer, boot_id)
        await scheduler.load()
        parts = Parts(worker, scheduler, runner, watcher, courier, resolver, clock, observer)
        agent = Agent(parts, config, load, connect, hostname)
        agent.apply(config)
        reports = ReportServer(Desk(worker, clock, observer, lambda: agent.config, accepted))
        await _listen(agent, reports, counts, observer, stack)
        working = [
            asyncio.create_task(scheduler.run(), name="scheduler"),
            asyncio.create_task(courier.run(), name="courier"),
            asyncio.create_task(_relist_daily(resolver, rng), name="listing"),
            asyncio.create_task(_feed_watchdog(notifier, agent), name="watchdog"),
        ]
        observer.note("agent.started", jobs=len(config.jobs), state_dir=directory)
        yield _Daemon(agent, parts, reports, notifier, directory, working)


async def _listen(
    agent: Agent, reports: ReportServer, counts: Counts, observer: Observer, stack: AsyncExitStack
) -> None:
    """Open the sockets. Raises StoreError: one can't be had."""
    places_ = sockets(agent.config)

    def control() -> Callable[..., object]:
        from aura_agent.web.control import control_app

        return control_app(agent)

    def status() -> Callable[..., object]:
        from aura_agent.web.status import status_app

        return status_app(agent, counts)

    try:
        control_server = LazyServer(bind_socket(places_.control, 0o600), control)
        control_server.listen()
        stack.push_async_callback(control_server.close)
        await reports.listen(places_.reports)
        if agent.config.status.listen is not None:
            bound = _bind_tcp(agent.config.status.listen)
            page = LazyServer(bound, status)
            await page.start()
            stack.push_async_callback(page.close)
            observer.note("status.listening", port=bound.getsockname()[1])
    except OSError as problem:
        where = problem.filename or agent.config.status.listen
        raise StoreError(f"can't listen on {where}: {problem.strerror}: is another daemon running?") from problem


async def _hurry(hurry: asyncio.Event, runner: Runner) -> None:
    await hurry.wait()
    runner.hurry("the agent was told twice to stop")


async def _relist_daily(resolver: Resolver, rng: random.Random) -> None:
    """Renew what is known of the heartbeats (name, interval, grace) about once a day, each agent at its own time."""
    while True:
        await asyncio.sleep(_RELIST_S * rng.uniform(0.75, 1.25))
        try:
            await resolver.list_anew()
        except ApiError:
            continue


async def _feed_watchdog(notifier: Notifier, agent: Agent) -> None:
    """Tell systemd that the loop turns and the agent does its work; without a watchdog, nothing."""
    interval_s = notifier.watchdog_s
    while interval_s is not None:
        if not agent.unhealthy():
            notifier.watchdog()
        await asyncio.sleep(interval_s / 3)


def _take_lock(directory: str, stack: AsyncExitStack) -> None:
    """Hold the store as its daemon, as long as we live. Raises StoreError: another one does."""
    path = os.path.join(directory, places.DAEMON_LOCK)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{directory}: another daemon serves this store: stop it, or set another state_dir") from None


def _bind_tcp(listen: str) -> socket.socket:
    """Return a socket bound to *listen*, ``host:port``. Raises OSError."""
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _spool(directory: str, report: Report) -> None:
    from aura_agent.report import wire

    try:
        spool.write(directory, report.run_id, wire.encode("run", report.to_fields()))
    except OSError:
        pass  # the disk takes nothing, neither here nor there; it has been logged

"""The composition root: builds the daemon's objects, wires them, and owns the order in which they start and stop.

Stop order: no new runs; running jobs get their grace; what they report is flushed for a bounded time; the sockets
close; the outbox closes last. What is not delivered by then stays on disk. A second signal cuts every grace short.

No part of it dies unnoticed (``aura_agent.daemon.vitals``): that stops the daemon in the same order.
"""

import asyncio
import errno
import gc
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from aura_agent.api.transport import http_environment
from aura_agent.background_thread import run_in_thread
from aura_agent.boot_time import NO_BOOT_ID, current_boot_id
from aura_agent.clock import SystemClock, until_beat_s
from aura_agent.config.addresses import is_loopback, parse_listen
from aura_agent.config.models import Config
from aura_agent.config.settings import base_url, find_token
from aura_agent.daemon.agent import Agent, Parts
from aura_agent.daemon.jobspec import withhold_variable
from aura_agent.daemon.last_resort import LastResort, leave
from aura_agent.daemon.late_modules import load_late_modules
from aura_agent.daemon.report_server import ReportServer
from aura_agent.daemon.reports import Desk
from aura_agent.daemon.runner import Runner
from aura_agent.daemon.scheduler import Scheduler
from aura_agent.daemon.sockets import bind_socket, remove_socket
from aura_agent.daemon.store_opener import StoreOpener, take_over
from aura_agent.daemon.vitals import Vitals
from aura_agent.daemon.watcher import Watcher
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.inline import Service
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.post import build_http
from aura_agent.delivery.refresher import Refresher
from aura_agent.delivery.resolver import Resolver
from aura_agent.delivery.skew import Skew
from aura_agent.delivery.unkept import Unkept
from aura_agent.errors import AuraError, DaemonError, Problem, TokenError
from aura_agent.hooks.caller import Caller
from aura_agent.outbox.refs import label, stored
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import SILENT_S, OutboxWorker
from aura_agent.process.orphans import reap_orphans
from aura_agent.report import places
from aura_agent.report.record import Report
from aura_agent.secret import Secret
from aura_agent.systemd import Notifier
from aura_agent.telemetry.counts import Counts
from aura_agent.telemetry.log_writer import LogWriter
from aura_agent.telemetry.logging import Level, configure_logging
from aura_agent.telemetry.observer import LoggingObserver
from aura_agent.telemetry.redact import Redactor
from aura_agent.web.page import Page
from aura_agent.web.serving import LazyServer

_STOP_LEEWAY_S = 5.0  # for what has no limit of its own, such as the last transaction
_RETRY_CAP_S = 60.0  # what the host lacks may come at any time
_FLUSH_LOG_S = 1.0  # at the end: who reads the log may hang, too
_GIVE_WAY_S = 0.001  # a thread that computes gives way to one that answers an aura-run after that; Python's own is 5 ms


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where the daemon listens."""

    reports: str
    control: str


def sockets(config: Config) -> Sockets:
    reports = places.socket_path(os.environ, config.agent.socket)
    return Sockets(reports, os.path.join(os.path.dirname(reports), places.CONTROL_SOCKET))


async def run_agent(
    config: Config, path: str | None, load: Callable[[], Config], redactor: Redactor, log: LogWriter
) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises AuraError.

    *load* reads the config, which is at *path*, anew for a reload.
    *redactor* learns each secret that the daemon does, so that no log line can hold one; *log* writes the lines.
    """
    sys.setswitchinterval(_GIVE_WAY_S)
    signals = _Signals()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, signals.on_stop)
    loop.add_signal_handler(signal.SIGHUP, signals.reload.set)  # one that comes early is heard once all is built
    reap_orphans(loop)
    notifier = Notifier.from_environ(os.environ)
    async with _built(config, path, load, notifier, redactor, log, signals) as daemon:
        if config.agent.reload_on_change and path is not None:
            daemon.vitals.start(_tell_of_changes(path, load, daemon, signals.reload), "config watch")
        notifier.ready(f"{len(daemon.agent.config.jobs)} jobs")
        gc.collect()
        gc.freeze()  # what the daemon is built of stays: a minute full of runs need not look through it again and again
        await signals.stop.wait()
        notifier.stopping()
        last_resort = LastResort()
        last_resort.end_within(_stop_limit_s(daemon.agent.config))
        hurried = asyncio.create_task(_hurry_up(signals.hurry, last_resort, daemon.agent), name="hurried stop")
        await daemon.stop(signals.hurry)
        hurried.cancel()
    if silence := daemon.silence():
        log.flush(_FLUSH_LOG_S)
        leave(f"{silence} Stopped without it{daemon.unsaved()}")
    if daemon.agent.crashed:
        raise DaemonError(f"{daemon.agent.crashed}: the log says more")


@dataclass(frozen=True, slots=True)
class _Signals:
    """What the daemon was told; a crash of its own stops it too. *hurry*: it was told to stop a second time."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def on_stop(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


@dataclass(frozen=True, slots=True)
class _Daemon:
    """The built daemon: what ``run_agent`` tells it."""

    agent: Agent
    parts: Parts
    reports: ReportServer
    hooks: Caller
    vitals: Vitals
    scheduling: asyncio.Task[None]
    delivering: asyncio.Task[None]
    silence: Callable[[], str]  # that the store's disk does not answer; empty if it does

    def unsaved(self) -> str:
        """Return, for people, how many outcomes go with us."""
        count = len(self.parts.runner.records.unrecorded)
        return f"; {count} outcomes of runs were not saved" if count else ""

    async def stop(self, hurry: asyncio.Event) -> None:
        """End in order; *hurry* cuts the graces short. No part of it waits for a disk that does not answer."""
        parts, settings = self.parts, self.agent.config.agent
        self.agent.stopping = True
        parts.worker.leave()
        parts.observer.note("agent.stopping", running=parts.runner.count)
        parts.scheduler.end()
        await asyncio.wait({self.scheduling})
        await parts.watcher.close()
        hurrying = asyncio.create_task(_hurry(hurry, parts.runner), name="hurry")
        await parts.runner.finish(settings.stop_grace, settings.flush_timeout)
        hurrying.cancel()
        await self.reports.close()
        parts.courier.end()
        await self.vitals.ended(but=self.delivering)
        if not (hurry.is_set() or parts.worker.silence):
            hurried = asyncio.create_task(hurry.wait(), name="hurried")
            last = asyncio.create_task(self._flush(settings.flush_timeout), name="flush")
            await asyncio.wait({last, hurried}, return_when=asyncio.FIRST_COMPLETED)
            for task in (last, hurried):
                task.cancel()
            await asyncio.gather(last, hurried, return_exceptions=True)
        await self.hooks.abandon()
        await parts.courier.abandon()
        try:
            left = await parts.worker.call(Outbox.waiting_count)
        except Exception as problem:  # noqa: BLE001  # a store that can't be read now was none to deliver from either
            parts.observer.note("store.failed", error=type(problem).__name__)
            left = None
        parts.observer.note("agent.stopped", waiting=left)

    async def _flush(self, timeout_s: float) -> None:
        """Send and tell what is due, for *timeout_s* at the most."""
        async with asyncio.TaskGroup() as last:
            last.create_task(self.parts.courier.drain(timeout_s, retry=False), name="last pings")
            last.create_task(self.hooks.finish(timeout_s), name="last hooks")


@asynccontextmanager
async def _built(
    config: Config,
    path: str | None,
    load: Callable[[], Config],
    notifier: Notifier,
    redactor: Redactor,
    log: LogWriter,
    signals: _Signals,
) -> AsyncIterator[_Daemon]:
    """Build everything, start it, and take it down in the reverse order."""
    loop = asyncio.get_running_loop()
    clock, rng, counts = SystemClock(), random.Random(), Counts()  # spreads retries, protects nothing
    observer = LoggingObserver(counts, job_of=lambda *run: agent.job_of(*run))  # noqa: PLW0108  # built below
    directory = places.state_dir(os.environ, config.agent.state_dir, os.geteuid())
    hostname = os.uname().nodename
    environ = dict(os.environ)  # what the config names as holding the token is taken out of our own
    async with AsyncExitStack() as stack:
        store = StoreOpener(directory, observer, stack)
        outbox, reader = await store.open()
        boot_id = outbox.boot_id
        worker = OutboxWorker(outbox, reader, gives_up=True)
        stack.push_async_callback(worker.close)

        def warn(text: str) -> None:
            loop.call_soon_threadsafe(partial(observer.note, "token.exposed", reason=text))

        def connect(config: Config) -> Service:
            """Return the config's API, from any thread: it reads the token's file."""
            if config.api.token_env is not None:
                loop.call_soon_threadsafe(withhold_variable, config.api.token_env)
            token = find_token(config.api, environ, warn=warn)
            if token is not None:
                redactor.add(token.reveal())
            return service_with(config, token)

        def service_with(config: Config, token: Secret | None) -> Service:
            url, insecure = base_url(config.api, environ), config.api.allow_insecure
            return Service(base_url=url, token=token, allow_insecure=insecure, state_dir=directory, boot_id=boot_id)

        token_problem = ""
        try:
            service = await _connected(run_in_thread(partial(connect, config), "token"))
        except TokenError as missing:  # jobs don't wait for it
            token_problem = f"no API token: {missing}"
            observer.note("token.unreadable", reason=str(missing))
            service = service_with(config, None)
        for job in await store.begin(worker, partial(take_over, account=service.account)):
            observer.note("run.lost", job=job)
        for ping_url in await worker.call(lambda outbox: outbox.heartbeats.every_url()):
            redactor.add(ping_url.reveal())

        skew = Skew()
        insecure = config.api.allow_insecure
        http = await stack.enter_async_context(build_http())
        http_environment().load()
        for problem in http_environment().problems():
            observer.note("http.setting_ignored", reason=problem)
        resolver = Resolver(
            worker, service.client_factory(), clock, rng, observer, learn=lambda url: redactor.add(url.reveal())
        )
        hooks = Caller(worker, observer, hostname, lambda: agent.config, lambda url: redactor.add(url.reveal()))

        async def caught_up() -> None:
            await reports.caught_up()

        def got_through() -> None:
            watcher.hurry()

        courier = Courier(
            worker,
            resolver,
            http,
            rng,
            observer,
            limit=config.agent.max_concurrent_pings,
            max_rate_per_s=config.agent.max_rate,
            allow_insecure=insecure,
            claimed=hooks.saw,
            skew=skew,
            withheld=lambda: runner.records.are_owed,
            caught_up=caught_up,
            got_through=got_through,
        )

        def accepted(report: Report) -> None:
            unkept.remember(report)
            observer.note(
                "run.finished",
                job=agent.job_of(report.job, label(stored(report.ref or ""))),
                run_id=report.run_id,
                outcome=report.outcome.value,
                duration_s=round(report.duration_s, 3),
                attempts=report.attempts if report.attempts > 1 else None,
                reason=report.reason or None,
            )
            courier.wake()
            if report.outcome.withdraws:
                hooks.wake()  # the courier may be busy

        unkept = Unkept(
            worker,
            directory,
            resolver,
            courier,
            http,
            observer,
            allow_insecure=insecure,
            unrecorded=lambda: runner.records.unrecorded,
            ending=lambda: agent.stopping,
        )
        scheduler = Scheduler(worker, clock, observer, boot_id)
        runner = Runner(
            worker,
            directory,
            clock,
            observer,
            boot_id,
            accepted,
            lambda: agent.config.attach.redact,
            scheduler.ended,
            unkept.send,
        )
        watcher = Watcher(
            worker,
            resolver,
            http,
            clock,
            rng,
            observer,
            allow_insecure=insecure,
            courier=courier,
            skew=skew,
        )
        await scheduler.load()
        refresher = Refresher(worker, resolver, clock, rng, hostname, courier.wake)
        parts = Parts(worker, scheduler, runner, watcher, courier, resolver, refresher, skew, clock, observer)

        def set_log_level(level: Level) -> None:
            configure_logging(redactor, log, level=level)

        agent = Agent(parts, config, path, load, connect, hostname, set_log_level, log)
        if not current_boot_id():
            agent.surroundings = f"{NO_BOOT_ID}: the order of runs is told by the clocks alone"
            observer.note("surroundings.missing", reason=agent.surroundings)
        agent.apply(config, service)
        agent.token_problem = token_problem
        await agent.learn_owners()
        vitals = Vitals(agent, observer, signals.stop)
        desk = Desk(
            worker, directory, clock, observer, lambda: agent.config, accepted, courier.wake, boot_id, unkept.remember
        )
        reports = ReportServer(desk, vitals.watch)
        agent.deaf_s = reports.deaf_s
        await _listen(agent, reports, vitals, counts, observer, stack)
        scheduling = vitals.start(scheduler.run(), "scheduler")
        delivering = vitals.start(courier.run(), "courier")
        vitals.start(refresher.run(), "refresher")
        vitals.start(refresher.keep_targets(), "ping URLs in memory")
        vitals.start(hooks.run(), "hooks")
        vitals.start(_feed_watchdog(notifier, agent), "watchdog")
        if store.problem:

            def begin_anew(outbox: Outbox) -> list[str]:
                resolver.forget_listing()
                return take_over(outbox, agent.account)

            async def opened() -> None:
                await scheduler.learn_pauses()
                courier.wake()

            vitals.start(store.reopen(worker, begin_anew, opened), "store")
        vitals.start(_reload_when_told(notifier, agent, signals.reload), "reload")
        if token_problem:

            async def token_is_there() -> bool:
                with suppress(TokenError):
                    await run_in_thread(partial(connect, agent.config), "token")
                    signals.reload.set()
                return not agent.token_problem

            vitals.start(_retry(token_is_there), "token")
        if agent.notice():
            observer.note("config.without_jobs", reason=agent.notice())
        observer.note("agent.started", jobs=len(config.jobs), state_dir=directory)
        load_late_modules(config, lambda: observer.note("modules.loaded"))
        yield _Daemon(
            agent, parts, reports, hooks, vitals, scheduling, delivering, lambda: worker.silence or store.silence
        )


async def _listen(
    agent: Agent, reports: ReportServer, vitals: Vitals, counts: Counts, observer: Observer, stack: AsyncExitStack
) -> None:
    """Open the sockets. Raises DaemonError: one can't be had."""
    paths, status_address = sockets(agent.config), agent.config.status.listen

    def control() -> Callable[..., object]:
        from aura_agent.web.control import control_app

        return control_app(agent)

    def status() -> Callable[..., object]:
        from aura_agent.web.status import status_app

        host, _ = parse_listen(status_address or "")
        return status_app(agent, counts, local_only=is_loopback(host))

    def http_failed(problem: Exception) -> None:
        observer.note("http.failed", error=type(problem).__name__)

    with _listening_on(paths.control):
        control_socket = bind_socket(paths.control, 0o600)
        # Only this one: commands tell by that a clean stop from a crash. To aura-run both are the same.
        stack.callback(remove_socket, paths.control, os.stat(paths.control).st_ino)
        control_server = LazyServer(control_socket, control, vitals.watch, http_failed)
        control_server.listen()
        stack.push_async_callback(control_server.close)
    with _listening_on(paths.reports):
        await reports.listen(paths.reports)
        stack.push_async_callback(reports.close)
    if status_address is not None:
        page = Page(status_address, lambda bound: LazyServer(bound, status, vitals.watch, http_failed), observer)
        agent.page_problem = lambda: page.problem
        stack.push_async_callback(page.close)
        if not await page.listen():
            vitals.start(_retry(page.listen), "status page")


@contextmanager
def _listening_on(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        hint = ""
        if where.startswith("/") and problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = ": set [agent] socket to a path that this user may create, or run as root"
        raise DaemonError(f"can't listen on {where}: {problem.strerror or problem}{hint}") from problem


def _stop_limit_s(config: Config) -> float:
    """Return how long an orderly stop may take, graces included."""
    return config.agent.stop_grace + 2 * config.agent.flush_timeout + _hurried_limit_s(config) + _STOP_LEEWAY_S


def _hurried_limit_s(config: Config) -> float:
    return max((job.kill_after for job in config.jobs.values()), default=0.0) + _STOP_LEEWAY_S


async def _hurry_up(hurry: asyncio.Event, last_resort: LastResort, agent: Agent) -> None:
    await hurry.wait()
    last_resort.end_within(_hurried_limit_s(agent.config))


async def _hurry(hurry: asyncio.Event, runner: Runner) -> None:
    await hurry.wait()
    runner.hurry("the agent was told twice to stop")


async def _reload_when_told(notifier: Notifier, agent: Agent, told: asyncio.Event) -> None:
    """Reload on each SIGHUP, one after the other."""
    while True:
        await told.wait()
        told.clear()
        notifier.reloading()
        try:
            problem = await agent.reload()
        except AuraError as trouble:
            problem = str(trouble)
        notifier.ready(f"config rejected: {problem}" if problem else f"{len(agent.config.jobs)} jobs")


async def _tell_of_changes(path: str, load: Callable[[], Config], daemon: _Daemon, told: asyncio.Event) -> None:
    """Ask for a reload whenever the config's files have changed, also since we have read them ourselves."""
    from aura_agent.config.changes import changes

    watching = False
    try:
        async for _ in changes(path):
            if watching or await run_in_thread(partial(_differs, load, daemon.agent.config), "config"):
                told.set()
            watching = True
    except OSError as problem:
        daemon.parts.observer.note("config.unwatched", error=problem.strerror or str(problem))


async def _connected(connecting: asyncio.Future[Service]) -> Service:
    """Raises TokenError, also where the token's disk does not answer."""
    done, _ = await asyncio.wait({connecting}, timeout=SILENT_S)
    if not done:
        raise TokenError([Problem("the disk of its file does not answer")])
    return connecting.result()


def _differs(load: Callable[[], Config], config: Config) -> bool:
    try:
        return load() != config
    except AuraError:
        return True


async def _feed_watchdog(notifier: Notifier, agent: Agent) -> None:
    """Tell systemd that the loop turns and the agent does its work, and what keeps it from that.

    Without a watchdog, nothing. Of a disk that does not answer only the status tells: a restart would end the jobs,
    which go on, and find the same disk.
    """
    interval_s, told = notifier.watchdog_s, ""
    while interval_s is not None:
        if not agent.stuck():
            notifier.watchdog()
        if (problem := agent.unhealthy()) != told:
            notifier.status(problem or f"{len(agent.config.jobs)} jobs")
            told = problem
        await asyncio.sleep(until_beat_s(asyncio.get_running_loop().time(), interval_s / 4))


async def _retry(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Try again, at growing distances, until *attempt* says that it succeeded."""
    delay_s = 1.0
    while True:
        await asyncio.sleep(delay_s)
        if await attempt():
            return
        delay_s = min(2 * delay_s, _RETRY_CAP_S)

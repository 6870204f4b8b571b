"""The running agent as one object: what people can ask of it, and how a new config takes hold.

Built by ``aura_agent.app``; the control socket, the status page and signals all speak to this.
"""

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Literal
from zoneinfo import ZoneInfo

from aura_agent import __version__
from aura_agent.api.transport import http_environment
from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock
from aura_agent.config.models import Config, Job
from aura_agent.daemon.progress import Progress
from aura_agent.daemon.runner import Firing, Runner
from aura_agent.daemon.scheduler import Scheduler, Timed
from aura_agent.daemon.slots import ALL
from aura_agent.daemon.store_view import StoreViewer
from aura_agent.daemon.watcher import Watched, Watcher, look_at
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.inline import Service
from aura_agent.delivery.observer import Observer
from aura_agent.delivery.refresher import Refresher
from aura_agent.delivery.resolver import Resolver
from aura_agent.delivery.skew import Skew
from aura_agent.errors import AuraError, StoreSilentError
from aura_agent.outbox.claims import Dropped
from aura_agent.outbox.queries import other_feeder_text
from aura_agent.outbox.run_owner import Source
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.account import Account
from aura_agent.report.places import SYSTEM_CONFIG
from aura_agent.schedule.jitter import stable_jitter_s
from aura_agent.schedule.plan import build
from aura_agent.schedule.zones import host_zone, zone
from aura_agent.sync.feeders import AGENT_INTERVAL_S
from aura_agent.telemetry.log_writer import LogWriter
from aura_agent.watch.condition import Condition

OWN_HEARTBEAT = "aura-agent itself"
_CONFIG_S = 8.0  # a command that asks for a reload waits for ten
# What is bound, opened or set up once: a reload can't change it.
AT_START = (
    *(("agent", key) for key in ("state_dir", "socket", "max_concurrent_pings", "max_rate", "reload_on_change")),
    *(("status", key) for key in ("listen", "allow_remote")),
    ("api", "allow_insecure"),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agent is made of."""

    worker: OutboxWorker
    scheduler: Scheduler
    runner: Runner
    watcher: Watcher
    courier: Courier
    resolver: Resolver
    refresher: Refresher
    skew: Skew
    clock: Clock
    observer: Observer


class Agent:
    """Holds the config in force, which is at *path*; None: there is no file.

    *load* reads the config anew; *connect* returns a config's API, and who we are there. Both
    raise AuraError if that can't be done. *set_log_level* sets the least severe events that are logged.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        path: str | None,
        load: Callable[[], Config],
        connect: Callable[[Config], Service],
        hostname: str,
        set_log_level: Callable[[Literal["debug", "info", "warning", "error"]], None],
        log: LogWriter,
    ) -> None:
        self._parts = parts
        self._connect = connect
        self._load = load
        self._path = path
        self._hostname = hostname
        self._set_log_level = set_log_level
        self._log = log
        self._started_with = config
        self.config = config
        self.config_problem = ""
        self._undoing: asyncio.Task[None] | None = None
        self._viewer = StoreViewer(parts.worker)
        self.started_at = parts.clock.read().wall
        self.stopping = False
        self._zone_doubt = ""
        self.token_problem = ""  # why we began without the API token that the config names
        self.page_problem: Callable[[], str] = lambda: ""  # why the status page isn't served
        self.surroundings = ""  # what the host lacks, and what that costs
        self.deaf_s: Callable[[], float] = lambda: 0.0  # for how long the report socket has not answered a knock
        self.crashed = ""  # what of the background work has ended that never should

    @property
    def account(self) -> Account | None:
        """The account of the config in force, None without a token."""
        return self._account

    def apply(self, config: Config, service: Service) -> None:
        """Make *config* the one in force, all or nothing. Raises AuraError, with the old one still in force.

        *service* is the API to ask from then on; the outbox works with its account already.
        """
        variables = os.environ.get("TZ"), os.environ.get("TZDIR")
        zone_of = cache(partial(zone, tz_env=variables[0], tz_dir=variables[1]))
        timed = {
            name: self._timed(name, job, zone_of(job.timezone))
            for name, job in config.jobs.items()
            if job.enabled and _has_times(job)
        }
        watched = {
            name: Watched(job.heartbeat or name, look_at(job, self._parts.clock))
            for name, job in config.jobs.items()
            if job.enabled and job.watch is not None
        }
        if config.agent.heartbeat:
            timed[OWN_HEARTBEAT] = self._own_timed()
            watched[OWN_HEARTBEAT] = Watched(config.agent.heartbeat, self._look_at_ourselves)
        reads_hosts_zone = any(job.schedule is not None and job.timezone is None for job in config.jobs.values())
        doubt = host_zone(*variables).doubt if reads_hosts_zone else ""
        if doubt and doubt != self._zone_doubt:
            self._parts.observer.note("surroundings.missing", reason=doubt)
        self._zone_doubt = doubt
        open_client = service.client_factory()
        self.config = config
        self._account = service.account
        self._set_log_level(config.agent.log_level)
        self._parts.resolver.use(open_client)
        self._parts.refresher.replace(_heartbeats(config))
        self._parts.watcher.replace(watched)
        self._parts.runner.use({name: job for name, job in config.jobs.items() if job.enabled}, _limits(config))
        self._parts.scheduler.replace(timed)

    async def reload(self) -> str:
        """Read the config anew and apply it; return what is wrong with it, empty if it is in force now.

        What is parked is tried again: whoever reloads may have mended the cause. Raises StoreError.
        """
        problem: Exception
        try:
            await self._load_anew()
        except StoreSilentError as silence:
            raise StoreSilentError(f"{silence} The old config stays in force until a reload") from silence
        except AuraError as exc:
            problem = exc
        except Exception as exc:  # noqa: BLE001  # no config, however odd, may take the running one down
            problem = AuraError(f"the config can't be used: {type(exc).__name__}: {exc}")
        else:
            self.config_problem = self.token_problem = ""
            needs_restart = self.needs_restart()
            self._parts.observer.note(
                "config.loaded", jobs=len(self.config.jobs), needs_restart=", ".join(needs_restart) or None
            )
            await self._parts.worker.call(Outbox.unpark)
            await self.learn_owners()
            self._parts.courier.wake()
            return ""
        self.config_problem = str(problem)
        self._parts.observer.note("config.refused", error=str(problem))
        return self.config_problem

    async def _load_anew(self) -> None:
        """Put the config on disk in force, in the outbox first: it must know whose heartbeats the API's answers are.

        Raises AuraError, with the old config still in force.
        """
        config, service = await self._read_anew()
        worker = self._parts.worker
        try:
            await worker.call(partial(Outbox.enter, account=service.account))
        except StoreSilentError:  # it may still be done: let the account of before be entered after that
            run_later = partial(worker.call, partial(Outbox.enter, account=self._account), patient=True)
            self._undoing = asyncio.create_task(run_later(), name="account of before")
            raise
        try:
            self.apply(config, service)
        except BaseException:
            await worker.call(partial(Outbox.enter, account=self._account))
            raise

    async def _read_anew(self) -> tuple[Config, Service]:
        """Return the config on disk, and its API. Raises AuraError, also where that disk does not answer."""

        def read() -> tuple[Config, Service]:
            config = self._load()
            return config, self._connect(config)

        reading = run_in_thread(read, "config")
        done, _ = await asyncio.wait({reading}, timeout=_CONFIG_S)
        if not done:
            reading.cancel()
            raise AuraError(f"{self._path} could not be read within {_CONFIG_S:.0f} s: does its disk hang?")
        return reading.result()

    def needs_restart(self) -> list[str]:
        """Return the keys that the config in force has other values for than those we were started with."""
        then, now = self._started_with, self.config
        return [
            f"{section}.{key}"
            for section, key in AT_START
            if getattr(getattr(then, section), key) != getattr(getattr(now, section), key)
        ]

    def trigger(self, name: str) -> Firing | None:
        """Run the job now, beside its schedule; None: it is a watch, and is looked at. Raises KeyError."""
        job = self.config.jobs[name]
        if job.watch is not None:
            self._parts.watcher.look(name)
            return None
        if not (job.command or job.shell):
            return Firing("skipped", "", "this job has no command: something else runs it")
        return self._parts.runner.fire(name, job, self._parts.clock.read().wall, "triggered by hand")

    async def pause(self, name: str, *, paused: bool) -> None:
        """Stop or resume the job's fire times. Raises KeyError, StoreError."""
        if name not in self.config.jobs:
            raise KeyError(name)
        await self._parts.scheduler.pause(name, paused=paused)

    async def drop(self, entry_ids: Collection[int] | None, reason: str) -> Dropped:
        """End those of *entry_ids* (None: all) that wait in the outbox, by a person's decision. Raises StoreError."""
        dropped = await self._parts.worker.call(lambda outbox: outbox.drop(entry_ids, reason))
        self._parts.courier.wake()  # it tells of them
        return dropped

    def stuck(self) -> str:
        """Return what has come to a stop for good, so that only a restart helps; empty if nothing has."""
        return self.crashed or self._progress().stuck

    def notice(self) -> str:
        """Return that the config schedules nothing, and why; empty if it has jobs."""
        if self.config.jobs:
            return ""
        why = (
            f"no config: {SYSTEM_CONFIG} is missing or unreadable, and neither -c nor AURA_CONFIG names a file"
            if self._path is None
            else f"the config {self._path} has no jobs"
        )
        return f"{why}; the daemon schedules nothing and only receives reports of aura-run"

    async def learn_owners(self) -> None:
        """Learn who owns which runs, by the config in force, for ``job_of``. Raises StoreError."""
        await self._viewer.look(self.config.heartbeats())

    def job_of(self, job: str, heartbeat: str) -> str:
        """Return the name under which a run of *job* counts that feeds *heartbeat*."""
        owners = self._viewer.owners
        return job if owners is None else owners.named(Source(job, heartbeat))

    def unhealthy(self) -> str:
        """Return what keeps the agent from doing its work, empty if nothing does."""
        return (
            self.crashed
            or self._progress().stuck
            or self._parts.worker.silence
            or self._parts.courier.store_problem
            or self._parts.scheduler.store_problem
            or self._parts.runner.records.store_problem
        )

    def _progress(self) -> Progress:
        return Progress(
            asleep_s=asyncio.get_running_loop().time() - self._parts.scheduler.looked_s,
            deaf_s=self.deaf_s(),
            turn_s=self._parts.courier.turn_s,
            store=self._parts.worker.hanging,
        )

    async def snapshot(self) -> dict[str, Any]:
        """Return the agent's state for people and programs: plain values, no secrets. Raises StoreError."""
        store = await self._viewer.look(self.config.heartbeats())
        newest = store.newest
        # What a watch sends is not on record, so nothing can be told from what is.
        watched_here = {job.heartbeat or name for name, job in self.config.jobs.items() if job.watch is not None}
        jobs = []
        for name, job in self.config.jobs.items():
            last = newest.get(name)
            next_fire = self._parts.scheduler.next_fire(name)
            watched = self._parts.watcher.state(name)
            row: dict[str, Any] = {
                "name": name,
                "heartbeat": job.heartbeat or name,
                "kind": _kind(job),
                "next": _stamp(next_fire),
                "running": [
                    {"run_id": run.run_id, "since": _stamp(run.started.wall)}
                    for run in self._parts.runner.running(name)
                    if run.started is not None
                ],
                "waiting": self._parts.runner.waiting(name),
                "problem": self._parts.refresher.problems.get(job.heartbeat or name, ""),
                "paused": name in self._parts.scheduler.paused,
                "last": None
                if last is None
                else {
                    "outcome": last.outcome,
                    "started_at": _stamp(last.started_at),
                    "duration_s": round(last.duration_s, 3),
                    "reason": last.reason,
                    "ping": last.ping,
                },
            }
            if watched is not None:
                row["watch"] = _watch_row(watched)
            jobs.append(row)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": _stamp(self.started_at),
            "stopping": self.stopping,
            "healthy": not self.unhealthy(),
            "problems": [
                text
                for text in (
                    self.unhealthy(),
                    self._viewer.problem,
                    self._parts.courier.host_problem,
                    self._parts.resolver.problem,
                    self.token_problem,
                    self.page_problem(),
                    _not_found(jobs),
                )
                if text
            ],
            "degraded": self._parts.resolver.standing.degraded,
            "warnings": [
                *(
                    text
                    for text in (self.surroundings, self._zone_doubt, self._parts.skew.warning, self._log.problem)
                    if text
                ),
                *http_environment().problems(),
                *(other_feeder_text(name) for id_, name in store.foreign.items() if not watched_here & {id_, name}),
            ],
            "notices": [self.notice()] if self.notice() else [],
            "clock_ahead_s": self._parts.skew.ahead_s,
            "log_lines_dropped": self._log.dropped,
            "config_problem": self.config_problem,
            "needs_restart": self.needs_restart(),
            "queue": store.counts,
            "oldest_waiting_s": round(store.oldest_s, 3),
            "last_successes": store.successes,
            "in_flight": self._parts.courier.in_flight,
            "jobs": jobs,
        }

    def _timed(self, name: str, job: Job, job_zone: ZoneInfo) -> Timed:
        schedule = build(job.schedule, job.every, job=name, zone=job_zone)
        if job.watch is not None:
            return Timed(name, schedule, lambda _at, _why: self._parts.watcher.look(name), durable=False)

        def fire(at: datetime, reason: str) -> None:
            self._parts.runner.fire(name, job, at, reason)

        return Timed(
            name,
            schedule,
            fire,
            catch_up=job.catch_up,
            misfire_grace_s=job.misfire_grace,
            limit=job.catch_up_limit,
            jitter_s=stable_jitter_s(self._hostname, name, job.jitter) if job.jitter else 0.0,
            busy=None if job.overlap == "allow" else lambda: bool(self._parts.runner.running(name)),
        )

    def _own_timed(self) -> Timed:
        schedule = build(None, AGENT_INTERVAL_S, job=OWN_HEARTBEAT, zone=zone("UTC"))
        return Timed(OWN_HEARTBEAT, schedule, lambda _at, _why: self._parts.watcher.look(OWN_HEARTBEAT), durable=False)

    async def _look_at_ourselves(self, _: Condition | None) -> Condition:
        problem = self.unhealthy()
        return Condition(healthy=not problem, reason=problem or "scheduler, store and courier work")


def _has_times(job: Job) -> bool:
    return job.schedule is not None or job.every is not None


def _limits(config: Config) -> dict[str, int]:
    limits = {ALL: config.agent.max_concurrent}
    limits |= {name: group.max_concurrent for name, group in config.job_groups.items()}
    return {pool: limit for pool, limit in limits.items() if limit is not None}


def _heartbeats(config: Config) -> list[str]:
    """Return the ids or names of the heartbeats that *config* feeds, each once."""
    named = [job.heartbeat or name for name, job in config.jobs.items() if job.enabled]
    return list(dict.fromkeys([*named, *([config.agent.heartbeat] if config.agent.heartbeat else [])]))


def _kind(job: Job) -> str:
    if job.watch is not None:
        return "watch"
    return "scheduled" if _has_times(job) else "reported"


def _watch_row(watched: Watched) -> dict[str, object]:
    condition = watched.condition
    return {
        "healthy": None if condition is None else condition.healthy,
        "reason": "" if condition is None else condition.reason,
        "looked_at": _stamp(watched.looked_at),
        "pinged_at": _stamp(watched.pinged_at),
        "problem": watched.problem,
    }


def _not_found(jobs: list[dict[str, Any]]) -> str:
    """Return which jobs have a heartbeat that can't be had, in one line however many they are."""
    names = [str(job["name"]) for job in jobs if job["problem"]]
    if not names:
        return ""
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"no ping of {listed} can be sent: column ping says why"


def _stamp(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""The scheduler over a store that refuses, and at its end."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aura_agent.clock import Reading, SystemClock
from aura_agent.config.models import Job
from aura_agent.daemon.runner import Runner
from aura_agent.daemon.scheduler import Scheduler, Timed
from aura_agent.outbox.jobs import Mark
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.record import Report
from aura_agent.schedule.plan import Schedule
from tests.daemon.stores import Seen, allow, opened, refuse
from tests.waiting import until

pytestmark = pytest.mark.anyio

_MINUTELY = Schedule(period_us=60 * 10**6)
_START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


class SetClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = _START

    def read(self) -> Reading:
        return Reading(0, int(self.now.timestamp() * 10**9))


class Fired:
    """What was fired: names and fire times."""

    def __init__(self) -> None:
        self.times: list[datetime] = []

    def timed(self, name: str = "job") -> dict[str, Timed]:
        return {name: Timed(name, _MINUTELY, lambda at, _: self.times.append(at))}


async def test_a_fire_time_waits_for_no_store_that_refuses(tmp_path: Path) -> None:
    """The job starts on time, once; its record follows as soon as the store takes it."""
    clock, fired, seen = SetClock(), Fired(), Seen()
    async with opened(tmp_path) as worker:
        scheduler = Scheduler(worker, clock, seen, "boot")
        await scheduler.load()
        await refuse(worker, "jobs")
        scheduler.replace(fired.timed())
        running = asyncio.create_task(scheduler.run())
        clock.now += timedelta(minutes=1)
        scheduler.replace(fired.timed())
        await until(lambda: fired.times and scheduler.store_problem)

        await allow(worker)
        scheduler.replace(fired.timed())
        await until(lambda: not scheduler.store_problem)
        scheduler.end()
        await running
        marks = await worker.call(lambda outbox: outbox.jobs.marks())

    due = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
    assert fired.times == [due]
    assert marks["job"].last_fire_ns == int(due.timestamp()) * 10**9


async def test_a_reload_while_a_fire_time_is_put_on_record_starts_it_once(tmp_path: Path) -> None:
    """Whatever is replaced between the decision and the start."""
    clock, fired = SetClock(), Fired()
    async with opened(tmp_path) as worker:
        scheduler = Scheduler(worker, clock, Seen(), "boot")
        await scheduler.load()
        scheduler.replace(fired.timed())
        clock.now += timedelta(minutes=1)
        running = asyncio.create_task(scheduler.run())
        while not fired.times:
            scheduler.replace(fired.timed())
            await asyncio.sleep(0)
        scheduler.end()
        await running

    assert len(fired.times) == 1


async def test_what_is_on_record_is_started_although_we_end(tmp_path: Path) -> None:
    """A slot is either started or still open for the next daemon."""
    clock, fired = SetClock(), Fired()
    async with opened(tmp_path) as worker:
        scheduler = Scheduler(worker, clock, Seen(), "boot")
        await scheduler.load()
        scheduler.replace(fired.timed())
        clock.now += timedelta(minutes=1)
        running = asyncio.create_task(scheduler.run())
        await asyncio.sleep(0)
        scheduler.end()
        await running
        on_record = (await worker.call(lambda outbox: outbox.jobs.marks())).get("job", Mark(0)).last_fire_ns

    due_ns = int((_START.replace(second=0) + timedelta(minutes=1)).timestamp()) * 10**9
    assert len(fired.times) == (on_record >= due_ns)


async def test_the_first_fire_time_of_a_new_job_is_caught_up_after_a_down_time(tmp_path: Path) -> None:
    """A job's place is on record from the moment that it is first seen."""
    clock, fired = SetClock(), Fired()
    async with opened(tmp_path) as worker:
        before = Scheduler(worker, clock, Seen(), "boot")
        await before.load()
        before.replace(fired.timed())
        running = asyncio.create_task(before.run())
        while not await worker.call(lambda outbox: outbox.jobs.marks()):
            pass
        before.end()
        await running
        assert fired.times == []

        clock.now += timedelta(minutes=1, seconds=20)
        after = Scheduler(worker, clock, Seen(), "boot")
        await after.load()
        after.replace(fired.timed())
        running = asyncio.create_task(after.run())
        await until(lambda: fired.times)
        after.end()
        await running

    assert fired.times == [datetime(2026, 3, 1, 12, 1, tzinfo=UTC)]


async def test_a_reload_makes_up_for_nothing(tmp_path: Path) -> None:
    """A new schedule, and a job that comes back, begin now: what they would have missed was nobody's to run."""
    clock, fired = SetClock(), Fired()
    hourly = Timed("job", Schedule(period_us=3600 * 10**6), lambda at, _: fired.times.append(at))
    async with opened(tmp_path) as worker:
        scheduler = Scheduler(worker, clock, Seen(), "boot")
        await scheduler.load()
        scheduler.replace({"job": hourly})
        running = asyncio.create_task(scheduler.run())
        for jobs in (fired.timed(), {}, fired.timed()):
            clock.now += timedelta(minutes=20)
            scheduler.replace(jobs)
            await worker.call(Outbox.now)
        clock.now += timedelta(seconds=40)
        scheduler.replace(fired.timed())
        await until(lambda: fired.times)
        scheduler.end()
        await running

    assert fired.times == [datetime(2026, 3, 1, 13, 1, tzinfo=UTC)]


async def test_a_clock_that_is_set_back_runs_no_slot_twice(tmp_path: Path) -> None:
    """Neither in the same daemon nor in the next; once the clock has passed the slot again, all goes on."""
    clock, fired = SetClock(), Fired()
    clock.now += timedelta(minutes=10)
    async with opened(tmp_path) as worker:
        for step_s in (0, 60, -300, 0, 290, 20, 60):
            clock.now += timedelta(seconds=step_s)
            await _live(worker, clock, fired.timed())

    assert fired.times == [datetime(2026, 3, 1, 12, minute, tzinfo=UTC) for minute in (11, 12)]


async def _live(worker: OutboxWorker, clock: SetClock, jobs: dict[str, Timed], seen: Seen | None = None) -> None:
    """Be a daemon that comes, looks once, and goes."""
    scheduler = Scheduler(worker, clock, seen or Seen(), "boot")
    await scheduler.load()
    scheduler.replace(jobs)
    built_s = scheduler.looked_s
    running = asyncio.create_task(scheduler.run())
    await until(lambda: scheduler.looked_s > built_s)
    scheduler.end()
    await running


async def test_a_clock_that_was_years_ahead_or_behind_silences_no_job_and_runs_no_slot_twice(tmp_path: Path) -> None:
    """In 2036 by mistake: one run, and on it goes in 2026; from 1970 on, as a host without a clock starts: the same."""
    clock, fired, seen = SetClock(), Fired(), Seen()
    async with opened(tmp_path) as worker:
        for now in (
            *(_START, _START.replace(year=2036), _START + timedelta(seconds=10), _START + timedelta(seconds=40)),
            *(datetime(1970, 1, 1, tzinfo=UTC), _START + timedelta(seconds=50), _START + timedelta(seconds=100)),
            _START.replace(year=2036),
        ):
            clock.now = now
            await _live(worker, clock, fired.timed(), seen)

    minute = timedelta(minutes=1)
    noon = _START.replace(second=0)
    assert fired.times == [noon.replace(year=2036), noon + minute, noon + 2 * minute]
    assert [facts["disregarded"] for facts in seen.named("clock.set_back")] == [1, 1]


async def test_jobs_that_a_clock_set_back_holds_are_told_and_watches_are_not_held(tmp_path: Path) -> None:
    """Two hours back while the daemon runs: the job waits for the clock, and that is said; the watch looks on."""
    clock, fired, looks, seen = SetClock(), Fired(), Fired(), Seen()
    watch = Timed("watch", _MINUTELY, lambda at, _: looks.times.append(at), durable=False)
    jobs = {**fired.timed(), "watch": watch}
    async with opened(tmp_path) as worker:
        scheduler = Scheduler(worker, clock, seen, "boot")
        await scheduler.load()
        scheduler.replace(jobs)
        running = asyncio.create_task(scheduler.run())
        for step, seen_by in (
            (timedelta(minutes=1), lambda: looks.times),
            (timedelta(hours=-2), lambda: seen.named("clock.set_back")),
            (timedelta(minutes=1), lambda: len(looks.times) == 2),
        ):
            clock.now += step
            scheduler.replace(jobs)
            await until(seen_by)
        scheduler.end()
        await running

    assert fired.times == [datetime(2026, 3, 1, 12, 1, tzinfo=UTC)]
    assert [(facts["waiting"], facts["until"]) for facts in seen.named("clock.set_back")] == [
        (1, "2026-03-01T12:01:00+00:00")
    ]


async def test_a_config_that_was_changed_while_we_were_away_makes_up_for_nothing_either(tmp_path: Path) -> None:
    """A new schedule, and a job that was gone for a while, begin when the next daemon does; an old one goes on."""
    clock, changed, back, same = SetClock(), Fired(), Fired(), Fired()
    hourly = Schedule(period_us=3600 * 10**6)
    before = {**same.timed("same"), "changed": Timed("changed", hourly, lambda _at, _why: None)}
    async with opened(tmp_path) as worker:
        await _live(worker, clock, before | back.timed("back"))
        clock.now += timedelta(seconds=10)
        await _live(worker, clock, before)
        clock.now += timedelta(seconds=30)
        await _live(worker, clock, {**changed.timed("changed"), **back.timed("back"), **same.timed("same")})

    assert (changed.times, back.times) == ([], [])
    assert same.times == [datetime(2026, 3, 1, 12, 1, tzinfo=UTC)]


async def test_reboot_is_once_per_boot_and_not_for_what_comes_later_in_it(tmp_path: Path) -> None:
    """Not at a reload, not at the daemon's next start in the same boot; in the next boot for all."""
    clock, fired = SetClock(), []
    reboot = Schedule(at_reboot=True)
    jobs = {name: Timed(name, reboot, lambda _at, _why, name=name: fired.append(name)) for name in ("old", "new")}  # type: ignore[misc]
    async with opened(tmp_path) as worker:
        for boot, names in (("one", ["old"]), ("one", ["old", "new"]), ("two", ["old", "new"])):
            scheduler = Scheduler(worker, clock, Seen(), boot)
            await scheduler.load()
            scheduler.replace({name: jobs[name] for name in names})
            running = asyncio.create_task(scheduler.run())
            while (await worker.call(lambda outbox: outbox.jobs.reboot_fires())).get("") != boot:
                pass
            scheduler.replace(jobs)
            scheduler.end()
            await running
            assert fired == {"one": ["old"], "two": ["old", "old", "new"]}[boot]


async def test_a_reboot_job_waits_for_no_store_that_refuses(tmp_path: Path) -> None:
    """It starts, once, beside what else is due then; that it has is on record as soon as the store takes it."""
    clock, fired, seen = SetClock(), [], Seen()
    reboot = {"boot": Timed("boot", Schedule(at_reboot=True), lambda _at, _why: fired.append("boot"))}
    async with opened(tmp_path) as worker:
        await refuse(worker, "jobs")
        scheduler = Scheduler(worker, clock, seen, "one")
        await scheduler.load()
        scheduler.replace(reboot)
        running = asyncio.create_task(scheduler.run())
        await until(lambda: fired and scheduler.store_problem)
        looked_s = scheduler.looked_s
        scheduler.replace(reboot)
        await until(lambda: scheduler.looked_s > looked_s)
        await allow(worker)
        scheduler.replace(reboot)
        await until(lambda: not scheduler.store_problem)
        scheduler.end()
        await running
        stored = await worker.call(lambda outbox: outbox.jobs.reboot_fires())

    assert fired == ["boot"]
    assert stored["boot"] == "one"


async def test_a_pause_is_never_made_up_for_and_holds_back_reboot_jobs(tmp_path: Path) -> None:
    """Not by a daemon that starts after the job was resumed, and not by a boot while it was paused."""
    clock, fired = SetClock(), Fired()
    schedule = Schedule(period_us=_MINUTELY.period_us, at_reboot=True)
    jobs = {"job": Timed("job", schedule, lambda at, _: fired.times.append(at))}
    async with opened(tmp_path) as worker:
        await worker.call(lambda outbox: outbox.jobs.set_paused("job", paused=True))
        for step_s, resumed, boot in ((0, False, "one"), (300, True, "two"), (10, False, "two")):
            clock.now += timedelta(seconds=step_s)
            scheduler = Scheduler(worker, clock, Seen(), boot)
            await scheduler.load()
            scheduler.replace(jobs)
            built_s = scheduler.looked_s
            running = asyncio.create_task(scheduler.run())
            await until(lambda scheduler=scheduler, built_s=built_s: scheduler.looked_s > built_s)  # type: ignore[misc]
            if resumed:
                await scheduler.pause("job", paused=False)
                looked_s = scheduler.looked_s
                await until(lambda scheduler=scheduler, looked_s=looked_s: scheduler.looked_s > looked_s)  # type: ignore[misc]
            scheduler.end()
            await running

    assert fired.times == []


async def test_missed_fire_times_are_made_up_for_one_after_the_other(tmp_path: Path) -> None:
    """With catch_up = "all" none is lost to overlap = "forbid", nor to the end of a daemon in between."""
    clock, fired, accepted = SetClock(), Fired(), list[Report]()
    # Whoever finds the file of another is not alone.
    alone = "import pathlib, time\np = pathlib.Path('busy')\np.touch(exist_ok=False)\ntime.sleep(.1)\np.unlink()"
    job = Job(heartbeat="h", command=(sys.executable, "-c", alone), cwd=str(tmp_path))
    async with opened(tmp_path / "state") as worker:
        for step_s, count in ((0, 0), (300, 1), (60, 5)):
            clock.now += timedelta(seconds=step_s)
            scheduler = Scheduler(worker, clock, Seen(), "boot")
            runner = Runner(
                worker, str(tmp_path), SystemClock(), Seen(), "boot", accepted.append, ended=scheduler.ended
            )

            def fire(at: datetime, why: str, runner: Runner = runner) -> None:
                fired.times.append(at)
                runner.fire("job", job, at, why)

            def busy(runner: Runner = runner) -> bool:
                return bool(runner.running("job"))

            timed = Timed("job", _MINUTELY, fire, "all", limit=4, busy=busy)
            await scheduler.load()
            scheduler.replace({"job": timed})
            built_s = scheduler.looked_s
            running = asyncio.create_task(scheduler.run())
            await until(lambda scheduler=scheduler, built_s=built_s: scheduler.looked_s > built_s)  # type: ignore[misc]
            await until(lambda count=count: len(accepted) >= count)  # type: ignore[misc]
            scheduler.end()
            await running
            await runner.finish(60.0)

    assert fired.times == [datetime(2026, 3, 1, 12, minute, tzinfo=UTC) for minute in range(2, 2 + len(fired.times))]
    assert [report.outcome.value for report in accepted] == ["succeeded"] * len(fired.times)
    assert len(fired.times) == 5

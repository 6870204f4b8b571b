"""Runs at the end of the daemon, and over a store that refuses."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from aura_agent.clock import Reading, SystemClock
from aura_agent.config.models import Expect, ExpectFile, Job
from aura_agent.daemon.records import least_needed
from aura_agent.daemon.runner import Runner
from aura_agent.daemon.slots import ALL
from aura_agent.outbox.run_history import run_rows
from aura_agent.outbox.store import Outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import Seen, allow, opened, refuse
from tests.waiting import until

pytestmark = pytest.mark.anyio


def _runner(worker: OutboxWorker, directory: Path, accepted: list[Report]) -> Runner:
    return Runner(worker, str(directory), SystemClock(), Seen(), current_boot_id(), accepted.append)


def _fire(runner: Runner, name: str, job: Job) -> str:
    return runner.fire(name, job, SystemClock().read().wall, "a test").run_id


def _job(text: str, **more: object) -> Job:
    return Job(heartbeat="h", command=(sys.executable, "-c", text), **more)  # type: ignore[arg-type]


async def test_a_jobs_own_stop_grace_comes_before_the_agents(tmp_path: Path) -> None:
    """With ours at none, the one with a grace of its own ends well; the other is killed."""
    accepted: list[Report] = []
    patient = f"import os, time\nopen({str(tmp_path / 'up')!r}, 'w')\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(.01)"
    async with opened(tmp_path / "state") as worker:
        runner = _runner(worker, tmp_path / "state", accepted)
        _fire(runner, "patient", _job(patient, stop_grace=60.0))
        _fire(runner, "other", _job("import time; time.sleep(1000)"))
        await until((tmp_path / "up").exists)
        finishing = asyncio.create_task(runner.finish(0.0))
        await until(lambda: accepted)
        (tmp_path / "go").touch()
        await finishing

    assert [(report.job, report.outcome.value) for report in accepted] == [
        ("other", "killed"),
        ("patient", "succeeded"),
    ]


async def test_the_end_starts_no_further_attempt_and_no_queued_run(tmp_path: Path) -> None:
    """A failed run that waits for its retry is over, with its failure; one in the queue is skipped, and that is told."""
    accepted: list[Report] = []
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        _fire(runner, "retried", _job("raise SystemExit(3)", retries=5, retry_delay=1000.0))
        await until(lambda: [run for run in runner.running("retried") if run.idle])
        queueing = _job("import time; time.sleep(1000)", overlap="queue")
        _fire(runner, "queueing", queueing)
        _fire(runner, "queueing", queueing)
        await runner.finish(0.0)

    ended = sorted((report.job, report.outcome.value, report.attempts) for report in accepted)
    assert ended == [("queueing", "killed", 1), ("queueing", "skipped", 1), ("retried", "failed", 1)]


async def test_an_outcome_late_in_the_grace_is_offered_to_a_full_disk_again(tmp_path: Path) -> None:
    """The time for that begins when the last run has ended, not with the stop."""
    accepted: list[Report] = []
    go, record_s, state = tmp_path / "go", 4.0, tmp_path / "state"
    text = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(.01)"
    async with opened(state) as worker:
        runner = _runner(worker, state, accepted)
        await refuse(worker, "runs")
        shutil.rmtree(state / "spool", ignore_errors=True)
        (state / "spool").touch()
        _fire(runner, "job", _job(text))
        loop = asyncio.get_running_loop()
        finishing, passed_s = asyncio.create_task(runner.finish(600.0, record_s)), loop.time() + record_s
        await until(lambda: loop.time() > passed_s)
        go.touch()
        await until(lambda: runner.records.store_problem)
        await allow(worker)
        await finishing

    assert [report.outcome.value for report in accepted] == ["succeeded"]


async def test_what_the_database_refuses_goes_into_the_spool(tmp_path: Path) -> None:
    """On disk at once, not only at the end: a kill -9 must not take it."""
    accepted: list[Report] = []
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        await refuse(worker, "runs")
        run_id = _fire(runner, "job", _job("pass"))
        await until(lambda: accepted)
        assert [path.name for path in (tmp_path / "spool").iterdir()] == [f"{run_id}.report"]
        await allow(worker)
        await worker.call(Outbox.take_in)
        rows = await worker.call(run_rows)

    assert [(row.run_id, row.outcome) for row in rows] == [(run_id, "succeeded")]


async def test_no_run_waits_for_a_disk_to_take_the_one_before(tmp_path: Path) -> None:
    """Neither database nor spool takes anything: the next run starts all the same, and both go on record later."""
    accepted: list[Report] = []
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        await refuse(worker, "runs")
        spool_place = tmp_path / "spool"
        shutil.rmtree(spool_place, ignore_errors=True)
        spool_place.touch()
        ran = []
        for _ in range(2):
            ran.append(_fire(runner, "job", _job("pass")))
            await until(lambda: not runner.running("job"))
        assert (accepted, bool(runner.records.store_problem)) == ([], True)
        await allow(worker)
        await until(lambda: len(accepted) == 2)
        rows = await worker.call(run_rows)

    assert [report.run_id for report in accepted] == ran
    assert {row.run_id for row in rows} == set(ran)


async def test_an_expectation_that_cannot_be_judged_is_a_failure(tmp_path: Path) -> None:
    """Whatever goes wrong after a good exit, it makes no success."""
    accepted: list[Report] = []
    expect = Expect(file=ExpectFile(path="/\0"))
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        _fire(runner, "job", _job("pass", expect=expect))
        await until(lambda: accepted)

    assert accepted[0].outcome.value == "failed"
    assert accepted[0].reason


async def test_runs_of_a_group_take_turns_and_who_waits_for_a_retry_is_in_nobodys_way(tmp_path: Path) -> None:
    """Two at once are never seen; the wait before a repetition takes no room."""
    accepted: list[Report] = []
    # Whoever finds the file of another is not alone.
    alone = "import os, pathlib, time\np = pathlib.Path('busy')\np.touch(exist_ok=False)\ntime.sleep(.1)\np.unlink()"
    async with opened(tmp_path / "state") as worker:
        runner = _runner(worker, tmp_path / "state", accepted)
        runner.use({}, {"db": 1})
        _fire(runner, "retried", _job("raise SystemExit(3)", job_group="db", retries=1, retry_delay=1000.0))
        await until(lambda: [run for run in runner.running("retried") if run.idle])
        for name in ("a", "b", "c"):
            _fire(runner, name, _job(alone, job_group="db", cwd=str(tmp_path)))
        assert [bool(runner.waiting(name)) for name in ("a", "b", "c")] == [False, True, True]
        await until(lambda: len(accepted) == 3)
        await runner.finish(0.0)

    assert [(report.job, report.outcome.value) for report in accepted] == [
        ("a", "succeeded"),
        ("b", "succeeded"),
        ("c", "succeeded"),
        ("retried", "failed"),
    ]


async def test_what_waits_for_its_turn_is_skipped_at_the_end(tmp_path: Path) -> None:
    """It has not begun: nothing of it failed, and its place is given to nobody who would begin now."""
    accepted: list[Report] = []
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        runner.use({}, {ALL: 1})
        for name in ("first", "second", "third"):
            _fire(runner, name, _job("import time; time.sleep(1000)"))
        await runner.finish(0.0)

    ended = sorted((report.job, report.outcome.value, report.reason) for report in accepted)
    assert ended == [
        ("first", "killed", "the agent is stopping"),
        ("second", "skipped", "the agent is stopping"),
        ("third", "skipped", "the agent is stopping"),
    ]


async def test_a_reload_ends_the_runs_of_removed_jobs_by_their_own_policy(tmp_path: Path) -> None:
    """One is stopped, one goes on; one that waits for its previous run is skipped, or begins under the new config."""
    accepted: list[Report] = []
    hang, queued = "import time; time.sleep(1000)", "import sys; open(sys.argv[1], 'a').close()"
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        stays, goes = _job(hang, overlap="queue"), _job(hang, overlap="queue", when_removed="stop")
        _fire(runner, "unchanged", _job(hang, when_removed="stop"))
        _fire(runner, "finishing", _job(hang))
        for _ in range(2):
            _fire(runner, "changed", stays)
            _fire(runner, "stopped", goes)
        await until(lambda: all(runner.running(name)[0].started for name in ("changed", "stopped", "finishing")))
        changed = Job(heartbeat="h", command=(sys.executable, "-c", queued, str(tmp_path / "new")), overlap="queue")
        runner.use({"changed": changed, "unchanged": changed}, {})
        await until(lambda: len(accepted) == 2)
        assert sorted((report.job, report.outcome.value, report.reason) for report in accepted) == [
            ("stopped", "killed", "its job has left the config"),
            ("stopped", "skipped", "its job has left the config"),
        ]
        assert all(runner.running(name) for name in ("changed", "unchanged", "finishing"))
        runner.running("changed")[0].ask_to_stop("it has run long enough")
        await until((tmp_path / "new").exists)
        await runner.finish(0.0)


async def test_repetitions_wait_longer_and_longer(tmp_path: Path) -> None:
    """The outcome is that of the last attempt, and the time between them at least the waits."""
    accepted: list[Report] = []
    text = f"import time; open({str(tmp_path / 'tries')!r}, 'a').write(f'{{time.monotonic()}}\\n'); raise SystemExit(1)"
    async with opened(tmp_path / "state") as worker:
        runner = _runner(worker, tmp_path / "state", accepted)
        _fire(runner, "job", _job(text, retries=2, retry_delay=0.2, retry_backoff=3))
        await until(lambda: accepted)

    first, second, third = (float(line) for line in (tmp_path / "tries").read_text().split())
    assert (accepted[0].outcome.value, accepted[0].attempts) == ("failed", 3)
    assert second - first >= 0.2
    assert third - second >= 0.6


async def test_the_history_has_both_streams_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """As a terminal would show them; what the two hold is one text."""
    accepted: list[Report] = []
    text = "import os\nfor number in range(200): os.write(1 + number % 2, b'%d\\n' % number)"
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        _fire(runner, "job", _job(text))
        await until(lambda: accepted)

    assert accepted[0].tail.split() == [str(number) for number in range(200)]


async def test_of_many_that_start_at_once_each_has_its_own_end(tmp_path: Path) -> None:
    """One that can't be started is in nobody's way."""
    accepted: list[Report] = []
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        for number in range(20):
            missing = number == 3
            command = ("/nonexistent",) if missing else ("/bin/sh", "-c", f"echo {number}; exit {number % 2}")
            _fire(runner, f"job{number}", Job(heartbeat="h", command=command))
        await until(lambda: len(accepted) == 20)

    ended = {report.job: (report.outcome.value, report.exit_code, report.tail) for report in accepted}
    assert ended.pop("job3") == ("not_started", 127, "")
    assert ended == {
        f"job{number}": ("failed" if number % 2 else "succeeded", number % 2, f"{number}\n")
        for number in range(20)
        if number != 3
    }


async def test_the_history_keeps_the_end_of_what_a_job_prints(tmp_path: Path) -> None:
    """The last 10 kB, or tail_bytes if that is more, under a line that tells what is missing."""
    accepted: list[Report] = []
    prints = "print('x' * 99_999)"
    async with opened(tmp_path) as worker:
        runner = _runner(worker, tmp_path, accepted)
        _fire(runner, "short", _job(prints, tail_bytes=100))
        _fire(runner, "long", _job(prints, tail_bytes=20_000, attach="output"))
        await until(lambda: len(accepted) == 2)

    kept = {report.job: report.tail.split("\n", 1) for report in accepted}
    assert {job: len(end) for job, (_, end) in kept.items()} == {"short": 10_000, "long": 20_000}
    assert "90000 bytes" in kept["short"][0]


def _ended(run_id: str, ref: str, outcome: Outcome, started_ns: int) -> Report:
    reading = Reading(started_ns, started_ns)
    return Report(run_id=run_id, boot_id="", started=reading, ended=reading, outcome=outcome, ref=ref)


def test_of_too_many_records_that_no_disk_takes_those_go_that_others_stand_for() -> None:
    """Each heartbeat's last success and last failure stay as long as there is anything else; then the oldest goes."""
    records = [
        _ended("failure1", "heartbeat:a", Outcome.FAILED, 1),
        _ended("success1", "heartbeat:a", Outcome.SUCCEEDED, 2),
        _ended("skipped1", "heartbeat:b", Outcome.SKIPPED, 3),
        _ended("success3", "heartbeat:a", Outcome.SUCCEEDED, 5),
        _ended("success2", "heartbeat:a", Outcome.SUCCEEDED, 4),  # it began before the one that ended before it
        _ended("failure2", "heartbeat:b", Outcome.TIMED_OUT, 6),
    ]
    gone = []
    while records:
        gone.append(least_needed(records).run_id)
        records = [record for record in records if record.run_id != gone[-1]]

    assert gone == ["success1", "skipped1", "success2", "failure1", "success3", "failure2"]

"""A success that no disk takes: sent from memory, as far as it is the newest truth."""

import asyncio
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aura_agent.clock import SystemClock
from aura_agent.config.models import Job
from aura_agent.daemon.runner import Runner
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.resolver import PingTarget
from aura_agent.delivery.unkept import Unkept
from aura_agent.devserver.server import DevServer
from aura_agent.outbox.queries import stream_of
from aura_agent.outbox.store import open_outbox
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import allow, refuse
from tests.delivery.dispatch import Dispatch
from tests.reports import report_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


def _ended(outcome: Outcome = Outcome.SUCCEEDED, run_id: str = "unkept00", **more: str) -> Report:
    """Return what a run that begins and ends now amounts to."""
    return replace(
        report_of(run_id, SystemClock().read(), outcome, ref=more.get("ref", "heartbeat:backup")), body=b"from memory"
    )


async def _known(aura: DevServer, at: Dispatch) -> None:
    """Have a ping of the heartbeat delivered: its URL is in the store."""
    aura.create_heartbeat("backup")
    await at.run("backup", body=b"from disk")
    await at.drain()


def _unkept(
    at: Dispatch,
    unrecorded: Callable[[], Sequence[Report]] = tuple,
    ending: Callable[[], bool] = bool,
    worker: OutboxWorker | None = None,
) -> Unkept:
    return Unkept(
        worker or at.worker,
        str(at.directory),
        at.resolver,
        at.courier,
        at.courier._http,
        at.heard,
        allow_insecure=False,
        unrecorded=unrecorded,
        ending=ending,
    )


def _courier_beside(at: Dispatch, runner: Runner) -> Courier:
    """Return a courier that leaves alone what outcomes of *runner* may withdraw."""
    return Courier(
        at.worker,
        at.resolver,
        at.courier._http,
        random.Random(1),
        at.heard,
        limit=1,
        withheld=lambda: runner.records.are_owed,
    )


@asynccontextmanager
async def _silent(at: Dispatch) -> AsyncIterator[OutboxWorker]:
    """A worker whose disk answers nobody: both of its threads wait."""
    outbox = open_outbox(str(at.directory), "daemon")
    worker, release = OutboxWorker(outbox, outbox.reader(), gives_up=True), threading.Event()
    waiting = [
        asyncio.ensure_future(worker.call(lambda _: release.wait(), patient=True)),
        asyncio.ensure_future(worker.read(lambda _: release.wait())),
    ]
    try:
        await until(waiting[1].done, what="a reader that gives up")
        yield worker
    finally:
        release.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: not worker.silence, what="a disk that answers")  # else it is left open
        await worker.close()


def _bodies(aura: DevServer) -> list[str]:
    return [ping.body for ping in aura.pings() if ping.accepted]


def _asked(aura: DevServer) -> int:
    """Return how many requests there were to ping URLs."""
    return sum(request.path.startswith("/ping/") for request in aura.requests())


async def test_it_is_sent_though_the_store_takes_nothing(aura: DevServer, at: Dispatch) -> None:
    """With its body, past the queue."""
    await _known(aura, at)
    await at.worker.call(lambda outbox: outbox.connection.execute("PRAGMA query_only = 1").fetchone())

    await _unkept(at).send(_ended())
    await at.worker.call(lambda outbox: outbox.connection.execute("PRAGMA query_only = 0").fetchone())

    assert _bodies(aura) == ["from disk", "from memory"]


@pytest.mark.parametrize("where", ["database", "inbox", "spool", "memory"])
@pytest.mark.parametrize("ref", ["heartbeat:backup", "the heartbeat's id"])
async def test_it_is_not_sent_if_a_run_that_started_later_has_failed(
    aura: DevServer, at: Dispatch, where: str, ref: str
) -> None:
    """Wherever that failure lies, and by whatever name: the alarm it deserves is not silenced."""
    await _known(aura, at)
    known = await at.worker.call(lambda outbox: stream_of(outbox, "heartbeat:backup"))
    assert known is not None
    success = _ended()
    failure = _ended(Outcome.FAILED, "failed00", ref=ref if ref.startswith("heartbeat:") else f"heartbeat:{known[1]}")
    if where == "database":
        await at.worker.accept(failure)
    elif where == "inbox":
        await at.worker.call(lambda outbox: outbox.keep({wire.encode("run", failure.to_fields()): failure}))
    elif where == "spool":
        spool.write(str(at.directory), failure.run_id, wire.encode("run", failure.to_fields()))

    await _unkept(at, lambda: [failure] if where == "memory" else []).send(success)

    assert _bodies(aura) == ["from disk"]


@pytest.mark.parametrize("where", ["database", "inbox", "spool", "memory"])
async def test_failures_of_earlier_runs_and_of_others_are_in_no_success_s_way(
    aura: DevServer, at: Dispatch, where: str
) -> None:
    """Nor is what lies in the spool and is no report."""
    await _known(aura, at)
    earlier = _ended(Outcome.FAILED, "earlier0")
    success = _ended()
    other = _ended(Outcome.FAILED, "another0", ref="heartbeat:another")
    skipped = _ended(Outcome.SKIPPED, "skipped0")
    before = [earlier, other, skipped]
    if where == "database":
        await asyncio.gather(*(at.worker.accept(report) for report in before))
    elif where == "inbox":
        lines = [wire.encode("run", report.to_fields()) for report in before]
        await at.worker.call(lambda outbox: outbox.keep(dict.fromkeys(lines)))
    elif where == "spool":
        spool.write(str(at.directory), "nothing0", b"no report")
        for report in before:
            spool.write(str(at.directory), report.run_id, wire.encode("run", report.to_fields()))

    await _unkept(at, lambda: before if where == "memory" else []).send(success)

    assert _bodies(aura) == ["from disk", "from memory"]


async def test_a_failure_while_the_ping_url_is_asked_for_anew_withdraws_it(aura: DevServer, at: Dispatch) -> None:
    """The first request met a URL that had changed; by the time of the second one a later run has failed."""
    await _known(aura, at)
    aura.change_ping_url("backup")
    aura.set_fault("slow", target="api", delay_s=3600, times=1)
    asked = len(at.api_requests())
    sending = asyncio.create_task(_unkept(at).send(_ended()))
    await until(lambda: len(at.api_requests()) > asked)
    await at.run("backup", Outcome.FAILED)
    aura.clear_faults()
    await sending

    assert _bodies(aura) == ["from disk"]
    assert at.heard.events[-1][1]["reason"] == "a run that started later did not succeed"


async def test_what_the_courier_has_delivered_meanwhile_is_not_sent_again(aura: DevServer, at: Dispatch) -> None:
    """The disk has taken it at last: one success, one ping."""
    await _known(aura, at)
    success = _ended()
    await at.worker.accept(success)
    await at.drain()

    await _unkept(at).send(success)

    assert _bodies(aura) == ["from disk", "from memory"]


async def test_one_that_is_too_old_is_not_sent(aura: DevServer, at: Dispatch) -> None:
    """Its job's max_age is over: the next one was due by then."""
    await _known(aura, at)

    await _unkept(at).send(replace(_ended(), max_age_s=1e-9))

    assert _bodies(aura) == ["from disk"]


async def test_a_host_that_asked_to_be_left_alone_is(aura: DevServer, at: Dispatch) -> None:
    """Whether it told the courier, or the ping before from memory; and what waits in the outbox heeds that, too."""
    await _known(aura, at)
    aura.set_fault("status", target="ping", status=429, retry_after=1800, times=1)
    unkept = _unkept(at)

    await unkept.send(_ended())
    await unkept.send(_ended(run_id="another0"))
    waiting = await at.run("backup")
    await at.drain()

    assert _bodies(aura) == ["from disk"]
    assert _asked(aura) == 2
    assert await at.state(waiting) == "waiting"
    assert "asked to be left alone" in str(at.heard.events[-1][1]["reason"])


async def test_what_the_courier_was_told_holds_for_memory(aura: DevServer, at: Dispatch) -> None:
    """A Retry-After on record."""
    await _known(aura, at)
    aura.set_fault("status", target="ping", status=503, retry_after=1800, times=1)
    await at.run("backup")
    await at.drain()

    await _unkept(at).send(_ended())

    assert _bodies(aura) == ["from disk"]


async def test_many_keep_to_the_pace(aura: DevServer, at: Dispatch) -> None:
    """Two a second: the first two at once, and the fourth not within a second."""
    await _known(aura, at)
    at.courier = Courier(
        at.worker, at.resolver, at.courier._http, random.Random(1), at.heard, limit=1, max_rate_per_s=2
    )
    unkept = _unkept(at)

    began_s = asyncio.get_running_loop().time()
    await asyncio.gather(*(unkept.send(_ended(run_id=f"memory{number:02}")) for number in range(4)))
    took_s = asyncio.get_running_loop().time() - began_s

    assert len(aura.pings()) == 5
    assert took_s >= 1.0  # never earlier; how much later is the machine's affair


async def test_one_that_waits_for_its_turn_when_the_agent_ends_is_not_begun(aura: DevServer, at: Dispatch) -> None:
    """The end of the agent waits for nothing but what is under way."""
    await _known(aura, at)
    ending = False
    unkept = _unkept(at, ending=lambda: ending)
    aura.set_fault("hang", target="ping")
    sending = [asyncio.create_task(unkept.send(_ended(run_id=f"memory{number:02}"))) for number in range(6)]
    await until(lambda: _asked(aura) == 5)
    ending = True
    aura.clear_faults()
    await asyncio.gather(*sending)

    reasons = [facts["reason"] for event, facts in at.heard.events if event == "ping.postponed"]
    assert reasons[-2:] == ["the agent is stopping"] * 2


async def test_of_the_runs_of_a_daemon_only_the_newest_is_told_from_memory(aura: DevServer, at: Dispatch) -> None:
    """No disk takes any: a success that began before a failure is not sent, one that began after it is."""
    await _known(aura, at)
    unkept = _unkept(at, lambda: runner.records.unrecorded)
    boot_id, directory = current_boot_id(), str(at.directory)
    runner = Runner(at.worker, directory, SystemClock(), at.heard, boot_id, lambda _: None, unkept=unkept.send)
    await refuse(at.worker, "runs")
    (at.directory / "spool").touch()

    def fire(name: str, text: str) -> None:
        job = Job(heartbeat="backup", command=(sys.executable, "-c", text), cwd=str(at.directory))
        runner.fire(name, job, SystemClock().read().wall, "a test")

    fire("before", "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)")
    await until(lambda: any(run.started is not None for run in runner.running("before")))
    fire("bad", "raise SystemExit(3)")
    await until(lambda: not runner.running("bad"))
    (at.directory / "go").touch()
    await until(lambda: at.heard.count("ping.postponed"))
    fire("after", "pass")
    await until(lambda: at.heard.count("ping.delivered") == 2)

    told = [facts["job"] for event, facts in at.heard.events if event in ("ping.delivered", "ping.postponed")]
    assert told == ["backup", "before", "after"]


async def test_nothing_is_sent_that_a_failure_withdraws_of_which_no_disk_knows(aura: DevServer, at: Dispatch) -> None:
    """The store gives again, and doesn't take yet: what waits there isn't sent until the failure is on record."""
    aura.create_heartbeat("backup")
    waiting = await at.run("backup")
    accepted: list[Report] = []
    runner = Runner(at.worker, str(at.directory), SystemClock(), at.heard, current_boot_id(), accepted.append)
    courier = _courier_beside(at, runner)
    await refuse(at.worker, "runs")
    (at.directory / "spool").touch()
    failing = Job(heartbeat="backup", command=(sys.executable, "-c", "raise SystemExit(3)"))
    runner.fire("backup", failing, SystemClock().read().wall, "a test")
    await until(lambda: runner.records.are_owed)

    await courier.drain(20.0, retry=False)
    assert (aura.pings(), await at.state(waiting)) == ([], "waiting")

    await allow(at.worker)
    await until(lambda: accepted)
    await courier.drain(20.0, retry=False)
    assert (aura.pings(), await at.state(waiting)) == ([], "invalidated")


async def test_a_failure_that_is_just_being_refused_is_heeded_like_one_that_was(aura: DevServer, at: Dispatch) -> None:
    """The store is slow, and then takes no run: what waits isn't leased between the failure and that."""
    await _known(aura, at)
    waiting = await at.run("backup")
    runner = Runner(at.worker, str(at.directory), SystemClock(), at.heard, current_boot_id(), lambda _: None)
    courier = _courier_beside(at, runner)
    await refuse(at.worker, "runs")
    (at.directory / "spool").touch()
    slow = threading.Event()
    writing = asyncio.create_task(at.worker.call(lambda _: slow.wait()))
    failing = Job(heartbeat="backup", command=(sys.executable, "-c", "raise SystemExit(3)"))
    runner.fire("backup", failing, SystemClock().read().wall, "a test")
    await until(lambda: runner.records.unrecorded)
    draining = asyncio.create_task(courier.drain(20.0, retry=False))
    await until(lambda: courier._looked_s > 0)
    slow.set()
    await asyncio.gather(writing, draining)

    assert (_bodies(aura), await at.state(waiting)) == (["from disk"], "waiting")


async def test_it_is_sent_on_its_own_word_where_no_disk_answers(aura: DevServer, at: Dispatch) -> None:
    """Nothing can be read, the ping URL neither; but failures that are in memory count, by whatever name."""
    heartbeat = aura.create_heartbeat("backup")
    await at.run("backup", body=b"from disk")
    await at.drain()
    stream_id, heartbeat_id, url = await at.worker.call(lambda outbox: outbox.stream("heartbeat:backup"))
    assert heartbeat_id == heartbeat.id
    assert url is not None
    async with _silent(at) as worker:
        earlier = _ended(Outcome.FAILED, "earlier00", ref="heartbeat:backup")
        for ref in ("heartbeat:backup", f"heartbeat:{heartbeat_id}", f"url:{url.reveal()}"):
            success = _ended(run_id="contradict0")
            unkept = _unkept(at, worker=worker)
            at.resolver.targets = {"backup": PingTarget(stream_id, heartbeat_id, url, "backup")}
            unkept.remember(_ended(Outcome.FAILED, "later0000", ref=ref))
            await unkept.send(success)
        reported = _ended(run_id="contradict1")
        worker.keep(b"", _ended(Outcome.FAILED, "reported0"), lambda _: None)
        await _unkept(at, worker=worker).send(reported)
        assert _bodies(aura) == ["from disk"]

    async with _silent(at) as worker:
        unkept = _unkept(at, worker=worker)
        unkept.remember(earlier)
        unkept.remember(_ended(Outcome.FAILED, "another00", ref="heartbeat:another"))
        await unkept.send(_ended(run_id="true00000"))
        assert _bodies(aura) == ["from disk", "from memory"]


async def test_a_disk_that_stops_to_answer_after_the_look_up_sends_nothing(aura: DevServer, at: Dispatch) -> None:
    """Without a ping URL in memory nobody knows which failures there are meant."""
    await _known(aura, at)
    _, _, url = await at.worker.call(lambda outbox: outbox.stream("heartbeat:backup"))
    assert url is not None
    outbox = open_outbox(str(at.directory), "daemon")
    worker, release = OutboxWorker(outbox, outbox.reader(), gives_up=True), threading.Event()
    waiting: list[asyncio.Future[bool]] = []

    def hang() -> bool:
        if not waiting:
            waiting.append(asyncio.ensure_future(worker.call(lambda _: release.wait(), patient=True)))
            waiting.append(asyncio.ensure_future(worker.read(lambda _: release.wait())))
        return False

    unkept = _unkept(at, ending=hang, worker=worker)
    unkept.remember(_ended(Outcome.FAILED, "later0000", ref=f"url:{url.reveal()}"))
    try:
        await unkept.send(_ended())
    finally:
        release.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: not worker.silence, what="a disk that answers")  # else it is left open
        await worker.close()

    assert _bodies(aura) == ["from disk"]
    (reason,) = [facts["reason"] for event, facts in at.heard.events if event == "ping.postponed"]
    assert reason == "where the ping goes is not in memory"


async def test_where_it_goes_must_be_known_where_no_disk_answers(aura: DevServer, at: Dispatch) -> None:
    """Without a ping URL in memory the success waits for the disk."""
    await _known(aura, at)
    async with _silent(at) as worker:
        await _unkept(at, worker=worker).send(_ended())

    assert _bodies(aura) == ["from disk"]
    (reason,) = [facts["reason"] for event, facts in at.heard.events if event == "ping.postponed"]
    assert "has not answered since" in str(reason)

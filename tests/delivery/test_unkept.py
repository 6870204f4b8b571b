"""A success that no disk takes: sent from memory, as far as it is the newest truth."""

import random
import sys

import pytest

from aura_agent.clock import SystemClock
from aura_agent.config.models import Job
from aura_agent.daemon.runner import Runner
from aura_agent.delivery.courier import Courier
from aura_agent.delivery.now import send_unkept
from aura_agent.devserver.server import DevServer
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report
from tests.daemon.stores import allow, refuse
from tests.delivery.dispatch import Dispatch
from tests.waiting import until

pytestmark = pytest.mark.anyio


def _success() -> Report:
    reading = SystemClock().read()
    return Report(
        run_id="unkept",
        boot_id=current_boot_id(),
        started=reading,
        ended=reading,
        outcome=Outcome.SUCCEEDED,
        ref="heartbeat:backup",
        job="backup",
        body=b"from memory",
    )


async def _known(aura: DevServer, at: Dispatch) -> None:
    """Have a ping of the heartbeat delivered: its URL is in the store."""
    aura.create_heartbeat("backup")
    await at.run("backup", body=b"from disk")
    await at.drain()


async def _send(at: Dispatch, report: Report) -> None:
    await send_unkept(at.worker, at.resolver, at.courier._http, at.heard, report, allow_insecure=False)


async def test_it_is_sent_though_the_store_takes_nothing(aura: DevServer, at: Dispatch) -> None:
    """With its body, past the queue."""
    await _known(aura, at)
    await at.worker.call(lambda outbox: outbox.connection.execute("PRAGMA query_only = 1").fetchone())

    await _send(at, _success())
    await at.worker.call(lambda outbox: outbox.connection.execute("PRAGMA query_only = 0").fetchone())

    assert [ping.body for ping in aura.pings()] == ["from disk", "from memory"]


async def test_it_is_not_sent_if_a_run_that_started_later_has_failed(aura: DevServer, at: Dispatch) -> None:
    """That failure is on record, and the alarm it deserves is not silenced."""
    await _known(aura, at)
    report = _success()
    await at.run("backup", Outcome.FAILED)

    await _send(at, report)

    assert [ping.body for ping in aura.pings()] == ["from disk"]


async def test_nothing_is_sent_that_a_failure_withdraws_of_which_no_disk_knows(aura: DevServer, at: Dispatch) -> None:
    """The store gives again, and doesn't take yet: what waits there isn't sent until the failure is on record."""
    aura.create_heartbeat("backup")
    waiting = await at.run("backup")
    accepted: list[Report] = []
    runner = Runner(at.worker, str(at.directory), SystemClock(), at.heard, current_boot_id(), accepted.append)
    courier = Courier(
        at.worker,
        at.resolver,
        at.courier._http,
        random.Random(1),
        at.heard,
        limit=1,
        withheld=lambda: runner.owes_records,
    )
    await refuse(at.worker, "runs")
    (at.directory / "spool").touch()
    failing = Job(heartbeat="backup", command=(sys.executable, "-c", "raise SystemExit(3)"))
    runner.fire("backup", failing, SystemClock().read().wall, "a test")
    await until(lambda: runner.owes_records)

    await courier.drain(20.0, retry=False)
    assert (aura.pings(), await at.state(waiting)) == ([], "waiting")

    await allow(at.worker)
    await until(lambda: accepted)
    await courier.drain(20.0, retry=False)
    assert (aura.pings(), await at.state(waiting)) == ([], "invalidated")

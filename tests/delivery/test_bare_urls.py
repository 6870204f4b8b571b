"""Pings to bare URLs beside names that are not looked up yet, and URLs behind which nobody answers any more."""

import sqlite3
from pathlib import Path

import pytest

from aura_agent.devserver.server import DevServer
from aura_agent.report.record import Outcome
from tests.delivery.dispatch import Dispatch, dispatch

pytestmark = pytest.mark.anyio

_DAYS_NS = 2 * 86400 * 10**9


@pytest.mark.parametrize("named", ["heartbeat:backup", "auto:backup", "heartbeat:{id}"])
async def test_failure_under_a_name_withdraws_a_success_by_url(aura: DevServer, at: Dispatch, named: str) -> None:
    """Nothing else calls for a look-up of the failure: it has no ping."""
    beat = aura.create_heartbeat("backup")
    by_url = await at.run("backup", ref=f"url:{beat.ping_url}")
    await at.run("backup", Outcome.FAILED, ref=named.format(id=beat.id))

    await at.drain()

    assert aura.pings("backup") == []
    assert await at.state(by_url) == "invalidated"


async def test_later_success_under_a_name_takes_the_place_of_one_by_url(aura: DevServer, at: Dispatch) -> None:
    """They are one heartbeat's, and Aura hears of the newest alone."""
    beat = aura.create_heartbeat("backup")
    by_url = await at.run("backup", ref=f"url:{beat.ping_url}")
    by_name = await at.run("backup")

    await at.drain()

    assert len(aura.pings("backup")) == 1
    assert (await at.state(by_url), await at.state(by_name)) == ("superseded", "delivered")


async def test_failure_of_a_cached_heartbeat_without_its_url_counts(aura: DevServer, at: Dispatch) -> None:
    """The list has named it; its ping URL was never needed."""
    beat = aura.create_heartbeat("backup")
    aura.create_heartbeat("other")
    await at.run("other")
    await at.drain()
    by_url = await at.run("backup", ref=f"url:{beat.ping_url}")
    await at.run("backup", Outcome.FAILED)

    await at.drain()

    assert await at.state(by_url) == "invalidated"


@pytest.mark.parametrize("trouble", ["down", "no token", "unknown name"])
async def test_success_by_url_is_sent_when_a_name_cannot_be_looked_up(
    aura: DevServer, tmp_path: Path, trouble: str
) -> None:
    """A bare URL needs no API; and nobody is told of a failure that has no ping."""
    beat = aura.create_heartbeat("backup")
    async with dispatch(tmp_path / "own", aura, token="" if trouble == "no token" else None) as at:
        if trouble == "down":
            aura.set_fault("status", target="api", status=503)
        by_url = await at.run("backup", ref=f"url:{beat.ping_url}")
        await at.run("backup", Outcome.FAILED, ref="heartbeat:of-another-name")

        await at.drain()

        assert await at.state(by_url) == "delivered"
        assert at.heard.count("ping.parked") == 0
        assert not at.resolver.problem or trouble == "down"


async def test_name_is_looked_up_once_an_hour_for_pings_by_url(aura: DevServer, at: Dispatch) -> None:
    """It is another heartbeat's failure, or nobody's."""
    beat = aura.create_heartbeat("backup")
    for _ in range(3):
        await at.run("backup", ref=f"url:{beat.ping_url}")
        await at.run("backup", Outcome.FAILED, ref="heartbeat:of-another-name")
        await at.drain()

    assert len(aura.pings("backup")) == 3
    assert at.api_requests() == ["list"]


async def test_url_whose_host_was_silent_for_a_day_is_asked_for_anew(aura: DevServer, at: Dispatch) -> None:
    """The API answers, and has another one; the ping goes there at once."""
    beat = aura.create_heartbeat("backup")
    first = await at.run("backup")
    await at.drain()
    assert await at.state(first) == "delivered"
    _change(at, "UPDATE heartbeats SET ping_url = 'http://127.0.0.1:1/moved'")
    moved = await at.run("backup")
    await at.drain()
    assert (await at.state(moved), len(aura.pings(beat.id))) == ("waiting", 1)
    asked = len(at.api_requests())

    _change(at, f"UPDATE streams SET silent_wall_ns = silent_wall_ns - {_DAYS_NS}")
    await at.worker.call(lambda outbox: outbox.hurry())
    await at.courier.drain(20, retry=False, probe=True)

    assert (await at.state(moved), len(aura.pings(beat.id))) == ("delivered", 2)
    assert len(at.api_requests()) == asked + 1


async def test_url_that_the_api_confirms_is_not_asked_for_again_that_day(aura: DevServer, at: Dispatch) -> None:
    """The host is down, and that is all."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.set_fault("drop_after", target="ping")
    await at.run("backup")
    await at.drain()
    _change(at, f"UPDATE streams SET silent_wall_ns = silent_wall_ns - {_DAYS_NS}")
    asked = len(at.api_requests())

    for _ in range(3):
        await at.worker.call(lambda outbox: outbox.hurry())
        await at.courier.drain(20, retry=False, probe=True)

    assert len(at.api_requests()) == asked + 1


def _change(at: Dispatch, statement: str) -> None:
    connection = sqlite3.connect(at.directory / "outbox.db", timeout=20)
    with connection:
        connection.execute(statement)
    connection.close()

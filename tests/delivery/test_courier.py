"""The courier against an embedded Aura and its faults: what arrives there, and what the entries say."""

import asyncio
import os
from pathlib import Path

import pytest

from aura_agent.api.trouble import Trouble, describe
from aura_agent.devserver.server import DevServer
from aura_agent.report import spool
from aura_agent.report.record import Outcome
from tests.delivery.dispatch import Dispatch, dispatch
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_after_an_outage_the_newest_success_arrives(aura: DevServer, at: Dispatch) -> None:
    """Nobody listens for a while: the older success gives way, the newest is sent once."""
    aura.create_heartbeat("backup")
    first = await at.run("backup", body=b"first")
    await at.drain()
    await aura.refuse()
    async with at.running():
        second = await at.run("backup", body=b"second")
        await at.hears("ping.postponed", 2)
        third = await at.run("backup", body=b"third")
        await aura.accept()
        await at.settled(third, "delivered")

    assert [ping.body for ping in aura.pings()] == ["first", "third"]
    assert (await at.state(first), await at.state(second)) == ("delivered", "superseded")


async def test_an_ill_server_is_tried_again_until_it_acknowledges(aura: DevServer, at: Dispatch) -> None:
    """Two 500s and a 2xx: three requests, one acknowledgement."""
    aura.create_heartbeat("backup")
    aura.set_fault("status", target="ping", status=500, times=2)
    async with at.running():
        run_id = await at.run("backup")
        await at.settled(run_id, "delivered")

    assert [ping.accepted for ping in aura.pings()] == [False, False, True]
    assert (await at.rows())[run_id].tries == 3


async def test_an_answer_that_breaks_off_after_its_status_is_an_acknowledgement(aura: DevServer, at: Dispatch) -> None:
    """The status line decides; without one the ping goes out again."""
    aura.create_heartbeat("half")
    aura.create_heartbeat("silent")
    aura.set_fault("drop", target="ping", heartbeat="half", times=1)
    aura.set_fault("drop_after", target="ping", heartbeat="silent", times=1)
    async with at.running():
        for name in ("half", "silent"):
            await at.settled(await at.run(name), "delivered")

    assert (len(aura.pings("half")), len(aura.pings("silent"))) == (1, 2)


async def test_retry_after_silences_everything_for_that_host(aura: DevServer, at: Dispatch) -> None:
    """Not the stream alone that was told so; a flush waits as well, and a new success too."""
    aura.create_heartbeat("one")
    aura.create_heartbeat("two")
    aura.set_fault("status", target="ping", status=429, retry_after=1800, times=1)
    first = await at.run("one")
    await at.drain()
    second = await at.run("two")
    await at.worker.call(lambda outbox: outbox.hurry())
    await at.drain()

    assert [(ping.name, ping.accepted) for ping in aura.pings()] == [("one", False)]
    rows = await at.rows()
    assert [1700 < (rows[run].next_try_s or 0) <= 1800 for run in (first, second)] == [True, True]


async def test_a_ping_url_that_was_changed_is_resolved_anew(aura: DevServer, at: Dispatch) -> None:
    """The old one answers 404; the same ping goes to the new one."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.change_ping_url("backup")
    run_id = await at.run("backup")
    await at.drain()

    assert await at.state(run_id) == "delivered"
    assert [request.status for request in aura.requests() if request.path == "/ping/{key}"] == [200, 404, 200]


async def test_a_404_that_stays_is_parked_and_the_api_left_alone(aura: DevServer, at: Dispatch) -> None:
    """Resolved anew once; each new success is tried at once, without asking the API each time."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.clear_received()
    aura.set_fault("status", target="ping", status=404)
    for _ in range(3):
        run_id = await at.run("backup")
        await at.drain()

    assert [ping.accepted for ping in aura.pings()] == [False] * 3
    assert at.api_requests() == ["url"]
    row = (await at.rows())[run_id]
    assert (row.state, row.next_try_s is not None and row.next_try_s > 3500) == ("parked", True)
    assert at.heard.count("ping.parked") == 3


async def test_a_404_while_the_api_fails_is_not_parked(aura: DevServer, at: Dispatch) -> None:
    """The URL was changed while the API is ill: once that is over, the ping arrives."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.change_ping_url("backup")
    aura.set_fault("status", target="api", status=500, times=1)
    async with at.running():
        run_id = await at.run("backup")
        await at.settled(run_id, "delivered")

    assert at.heard.count("ping.parked") == 0


async def test_how_an_attempt_ended_is_put_on_record_whatever_goes_on_meanwhile(aura: DevServer, at: Dispatch) -> None:
    """While the API is asked for one ping's new URL, another ping goes out; the first one's end isn't lost over that."""
    aura.create_heartbeat("backup")
    aura.create_heartbeat("other")
    await at.run("backup")
    await at.run("other")
    await at.drain()
    aura.change_ping_url("backup")
    aura.set_fault("slow", target="api", delay_s=1.0, times=1)
    async with at.running():
        moved = await at.run("backup")
        await until(lambda: 404 in [request.status for request in aura.requests()])
        await at.settled(await at.run("other"), "delivered")
        await at.settled(moved, "delivered")


async def test_a_heartbeat_that_was_created_anew_is_found_by_its_name(aura: DevServer, at: Dispatch) -> None:
    """Deleted and created again in Aura: the same name is another heartbeat now."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    at.resolver._listed_boot_ns = None  # the listing is older than a minute
    aura.delete_heartbeat("backup")
    again = aura.create_heartbeat("backup")
    run_id = await at.run("backup")
    await at.drain()

    assert await at.state(run_id) == "delivered"
    assert len(aura.pings(again.id)) == 1


async def test_a_body_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    """413: the same ping again without it."""
    async with DevServer(max_ping_body_bytes=10) as aura, dispatch(tmp_path / "store", aura) as at:
        aura.create_heartbeat("backup")
        run_id = await at.run("backup", body=b"x" * 100)
        await at.drain()

        assert await at.state(run_id) == "delivered"
        assert [ping.body for ping in aura.pings() if ping.accepted] == [""]


async def test_a_parked_stream_is_not_hammered(aura: DevServer, at: Dispatch) -> None:
    """Many pings wait with replay = "all": a refusal parks the stream, whatever waits behind the first of them."""
    aura.create_heartbeat("backup")
    aura.set_fault("status", target="ping", status=403)
    for _ in range(3):
        await at.run("backup", replay_all=True)
    await at.drain()

    assert len(aura.pings()) == 1
    assert await at.states() == ["parked"] * 3


async def test_replay_all_keeps_the_order_over_failures(aura: DevServer, at: Dispatch) -> None:
    """Each success is delivered, one after the other."""
    aura.create_heartbeat("backup")
    aura.set_fault("status", target="ping", status=503, times=2)
    async with at.running():
        for number in range(4):
            last = await at.run("backup", body=b"%d" % number, replay_all=True)
        await at.settled(last, "delivered")

    assert [ping.body for ping in aura.pings() if ping.accepted] == ["0", "1", "2", "3"]


async def test_a_failure_during_an_attempt_ends_it_for_good(aura: DevServer, at: Dispatch) -> None:
    """No answer came: it may have arrived, and is never sent again."""
    aura.create_heartbeat("backup")
    aura.set_fault("hang", target="ping", times=1)
    async with at.running():
        run_id = await at.run("backup")
        await until(aura.pings)
        await at.run("backup", Outcome.FAILED)
        assert await at.state(run_id) == "waiting"
        aura.clear_faults()
        await at.settled(run_id, "invalidated")
        other = await at.run("other")
        await at.settled(other, "parked")

    assert (await at.rows())[run_id].reason.endswith("(may have arrived)")
    assert len(aura.pings()) == 1


async def test_a_failure_during_an_attempt_does_not_undo_an_acknowledgement(aura: DevServer, at: Dispatch) -> None:
    """Aura took it: delivered."""
    aura.create_heartbeat("backup")
    aura.set_fault("slow", target="ping", delay_s=3600, times=1)
    async with at.running():
        run_id = await at.run("backup")
        await until(aura.pings)
        await at.run("backup", Outcome.FAILED)
        aura.clear_faults()
        await at.settled(run_id, "delivered")


async def test_a_courier_that_is_stopped_leaves_its_work_to_the_next(
    tmp_path: Path, aura: DevServer, at: Dispatch
) -> None:
    """Its attempt hangs when it is told to stop; another process sends the ping, and needn't wait for a lease."""
    aura.create_heartbeat("backup")
    aura.set_fault("hang", target="ping", times=1)
    async with at.running():
        run_id = await at.run("backup")
        await until(aura.pings)
    assert await at.state(run_id) == "waiting"

    async with dispatch(tmp_path / "store", aura, owner="next") as following:
        await following.drain()

    assert await at.state(run_id) == "delivered"
    assert [ping.accepted for ping in aura.pings()] == [False, True]


async def test_a_drain_that_runs_out_of_time_gives_back_what_it_holds(
    tmp_path: Path, aura: DevServer, at: Dispatch
) -> None:
    """A wrapper waits no longer; who comes after it can send."""
    aura.create_heartbeat("backup")
    aura.set_fault("hang", target="ping", times=1)
    run_id = await at.run("backup")
    draining = asyncio.create_task(at.drain())
    await until(aura.pings)
    draining.cancel()
    await asyncio.wait({draining})

    async with dispatch(tmp_path / "store", aura, owner="next") as following:
        await following.drain()

    assert await at.state(run_id) == "delivered"


async def test_a_drain_for_one_run_leaves_the_others_and_ends(aura: DevServer, at: Dispatch) -> None:
    """Others are due, and are not its business: it neither sends them nor waits for them."""
    aura.create_heartbeat("mine")
    aura.create_heartbeat("other")
    await at.run("other")
    mine = await at.run("mine")
    await asyncio.wait_for(at.courier.drain(600, retry=True, only_runs=frozenset({mine})), 30)

    assert [ping.name for ping in aura.pings()] == ["mine"]


async def test_a_wrapper_sends_again_within_its_time(aura: DevServer, at: Dispatch) -> None:
    """With retry, what is due again soon is tried again, also while another attempt hangs."""
    aura.create_heartbeat("ill")
    aura.create_heartbeat("hung")
    aura.set_fault("hang", target="ping", heartbeat="hung")
    aura.set_fault("status", target="ping", heartbeat="ill", times=2)
    await at.run("hung")
    ill = await at.run("ill")
    draining = asyncio.create_task(at.courier.drain(60, retry=True))
    await at.settled(ill, "delivered")
    assert not draining.done()
    aura.clear_faults()
    await asyncio.wait_for(draining, 30)

    assert await at.states() == ["delivered", "delivered"]


async def test_two_couriers_never_send_for_one_heartbeat_at_once(tmp_path: Path, aura: DevServer, at: Dispatch) -> None:
    """A daemon and a flush on one store: each ping goes out once, in order, one at a time per heartbeat."""
    names = [f"beat{number}" for number in range(8)]
    for name in names:
        aura.create_heartbeat(name)
    aura.set_fault("slow", target="ping", delay_s=0.02)

    def alone() -> bool:
        open_now = [request.heartbeat_id for request in aura.requests() if request.status is None]
        busy = [heartbeat for heartbeat in open_now if heartbeat is not None]
        assert len(busy) == len(set(busy))
        return len(aura.pings()) >= 4 * len(names)

    async with dispatch(tmp_path / "store", aura, owner="other") as other, at.running(), other.running():
        for number in range(4):
            for name in names:
                last = await at.run(name, body=b"%d" % number, replay_all=True)
                other.courier.wake()
        await until(alone)
        await at.settled(last, "delivered")

    assert {name: "".join(ping.body for ping in aura.pings(name)) for name in names} == dict.fromkeys(names, "0123")


async def test_what_lies_in_the_spool_stops_no_courier(aura: DevServer, at: Dispatch) -> None:
    """A link, a directory, a record that nothing can keep: set aside, and the pings go out."""
    aura.create_heartbeat("backup")
    place = at.directory / "spool"
    path = spool.write(str(at.directory), "odd", b"run v=1 nonsense=1\n")
    (place / "directory.report").mkdir()
    (place / "link.report").symlink_to("/etc/hostname")
    async with at.running():
        run_id = await at.run("backup")
        await at.settled(run_id, "delivered")

    assert sorted(os.listdir(place / "torn")) == ["directory.report", "link.report", os.path.basename(path)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[::1/ping/key", "invalid ping URL: the host is not an IPv6 address in brackets"),
        ("https://ping\u2100.example/key", describe(Trouble.BAD_URL)),
        ("https:///ping/key", "invalid ping URL: the URL has no host: is a variable in it empty?"),
        ("https://user@/ping/key", "invalid ping URL: the URL has no host: is a variable in it empty?"),
        ("https://xn--/ping/key", "invalid ping URL: a part of the host name begins with xn-- and encodes nothing"),
        ("https://xn--a-.example/ping/key", describe(Trouble.BAD_URL)),
        (
            f"https://{'a' * 64}.example/key",
            "invalid ping URL: the host name, or a part of it between dots, is too long",
        ),
        ("https://ping..example/key", "invalid ping URL: a part of the host name between dots is empty"),
        ("https://ping.example:0/key", "invalid ping URL: the port is not between 1 and 65535"),
        ("https://$HOST/ping/key", "invalid ping URL: the host name holds a character that no host name has"),
        ("https://ping.example/a key", "invalid ping URL: the URL holds a space or a control character"),
    ],
)
async def test_a_ping_url_that_is_none_is_parked_and_stops_no_courier(
    aura: DevServer, at: Dispatch, url: str, reason: str
) -> None:
    """Whoever reports may have mistyped it: its row says so, and the other pings go out."""
    aura.create_heartbeat("backup")
    async with at.running():
        mistyped = await at.run("mistyped", ref=f"url:{url}")
        run_id = await at.run("backup")
        await at.settled(run_id, "delivered")
        await at.hears("ping.parked", 1)

    row = (await at.rows())[mistyped]
    assert (row.state, row.reason) == ("parked", reason)


async def test_more_heartbeats_than_connections_all_get_their_ping(tmp_path: Path, aura: DevServer) -> None:
    """The limit bounds what is in flight, and loses nothing."""
    names = [f"beat{number}" for number in range(12)]
    for name in names:
        aura.create_heartbeat(name)
    async with dispatch(tmp_path / "store", aura, limit=2) as at:
        for name in names:
            await at.run(name)
        await at.drain()

        assert await at.states() == ["delivered"] * 12
    assert sorted(ping.name for ping in aura.pings()) == sorted(names)

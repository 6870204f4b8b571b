"""A sender that was stopped or suspended between the claim and the request sends nothing that isn't true any more."""

import pytest

from aura_agent.delivery.courier import Courier
from aura_agent.delivery.deadline import Deadline, Instant, system_instants
from aura_agent.delivery.now import ping_now
from aura_agent.devserver.server import DevServer
from aura_agent.report.record import Outcome
from tests.delivery.dispatch import Dispatch, NoJitter

_S = 10**9


@pytest.mark.parametrize(
    ("boot_s", "monotonic_s", "word"),
    [
        (0.0, 0.0, ""),
        (29.9, 29.9, ""),
        (30.0, 30.0, "too late"),
        (100.0, 100.0, "too late"),
        (2.9, 0.0, ""),
        (3.1, 0.0, "suspended"),
        (108_000.0, 0.5, "suspended"),
    ],
)
def test_a_request_may_be_written_until_its_deadline(boot_s: float, monotonic_s: float, word: str) -> None:
    """Stopped, the process misses the deadline; suspended, the machine's two clocks differ."""
    begun = Instant(5 * _S, 3 * _S)
    deadline = Deadline(begun, begun.boot_ns + 30 * _S)

    problem = deadline.problem(Instant(begun.boot_ns + int(boot_s * _S), begun.monotonic_ns + int(monotonic_s * _S)))

    assert (word in problem, bool(problem)) == (True, bool(word))


class _Lid:
    """Clocks that tell at one look, the *closing* one, of thirty hours that have passed since the one before."""

    def __init__(self, closing: int, *, monotonic: bool = False) -> None:
        self._real = system_instants()
        self._closing = closing
        self._looks = 0
        self._monotonic = monotonic

    def __call__(self) -> Instant:
        self._looks += 1
        ahead_ns = 30 * 3600 * _S if self._looks == self._closing else 0
        boot_ns, monotonic_ns = self._real()
        return Instant(boot_ns + ahead_ns, monotonic_ns + (ahead_ns if self._monotonic else 0))


@pytest.mark.anyio
@pytest.mark.parametrize("monotonic", [False, True], ids=["suspended", "stopped"])
async def test_nothing_is_sent_after_a_pause_and_the_ping_is_judged_anew(
    aura: DevServer, at: Dispatch, monotonic: bool
) -> None:
    """The second look is that before the write: it counts for no try, and the next one is made soon."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.clear_received()
    run_id = await at.run("backup")
    lid = _Lid(2, monotonic=monotonic)
    courier = Courier(at.worker, at.resolver, at.courier._http, NoJitter(), at.heard, limit=16, instants=lid)
    await courier.drain(20, retry=True)

    assert [ping.name for ping in aura.pings()] == ["backup"]
    row = (await at.rows())[run_id]
    assert (row.state, row.tries) == ("delivered", 1)
    (reason,) = [facts["reason"] for event, facts in at.heard.events if event == "ping.postponed"]
    assert str(reason).startswith("not sent: ")


@pytest.mark.anyio
async def test_a_failure_during_a_pause_withdraws_what_was_leased(aura: DevServer, at: Dispatch) -> None:
    """The claim after the pause reads what was reported meanwhile, and nothing of the ping has gone out."""
    aura.create_heartbeat("backup")
    await at.run("backup")
    await at.drain()
    aura.clear_received()
    run_id = await at.run("backup")
    courier = Courier(at.worker, at.resolver, at.courier._http, NoJitter(), at.heard, limit=16, instants=_Lid(2))
    await courier._turn()
    await at.run("backup", Outcome.FAILED)
    await courier.drain(20, retry=True)

    row = (await at.rows())[run_id]
    assert (row.state, row.tries, "may have arrived" in row.reason) == ("invalidated", 0, False)
    assert aura.pings() == []


@pytest.mark.anyio
async def test_a_ping_of_now_is_begun_anew_after_a_suspend(aura: DevServer, at: Dispatch) -> None:
    """By hand, by a watch, from memory: what speaks against it is asked once more."""
    aura.create_heartbeat("backup")
    asked: list[str] = []

    async def objection(host: str) -> str:
        asked.append(host)
        return ""

    sent = await ping_now(
        at.worker,
        at.resolver,
        at.courier._http,
        "backup",
        allow_insecure=False,
        objection=objection,
        instant=_Lid(2),
    )

    assert (sent.acknowledged, len(asked), len(aura.pings())) == (True, 2, 1)

"""A request that is refused with 429, by a client that was told to wait: sent again when its time has come."""

import random

import pytest

from aura_agent.api import AuraClient, BudgetSpent, Limiter, RateLimited
from aura_agent.secret import Secret
from tests.api.raw_server import RawServer, json_answer, serving
from tests.devserver.clocks import PassingClock

pytestmark = pytest.mark.anyio

TOKEN = Secret("aura_live_of_this_test")
FOUND = json_answer(200, {"id": "hb1", "name": "backup"})


def refused(retry_after: object = None, *headers: str) -> bytes:
    asked = () if retry_after is None else (f"Retry-After: {retry_after}",)
    return json_answer(429, {"error": {"code": "rate_limited", "message": "slow down"}}, *asked, *headers)


def waiting_client(server: RawServer, waits: list[float], refusal_wait_s: float = 60.0) -> AuraClient:
    """Return a client whose waits pass at once, and are noted."""
    clock = PassingClock()
    limiter = Limiter(TOKEN, server.url, clock, random.Random(1), on_wait=waits.append, sleep=clock.sleep)
    return AuraClient(server.url, TOKEN, limiter=limiter, patience_s=75.0, refusal_wait_s=refusal_wait_s)


@pytest.mark.parametrize(
    ("answers", "at_least"),
    [
        ((refused(2), FOUND), [2]),
        ((refused(2), refused(40), FOUND), [2, 40]),
        ((refused(0), FOUND), [60]),
        ((refused(), FOUND), [60]),
        ((refused(2, "X-RateLimit-Remaining-Minute: 0", "X-RateLimit-Remaining-Hour: 0"), FOUND), [2]),
    ],
    ids=["once", "twice", "zero", "not said", "with empty windows"],
)
async def test_request_is_sent_again_after_its_retry_after(answers: tuple[bytes, ...], at_least: list[float]) -> None:
    """Never earlier, at most 20 % later, and each wait is told once."""
    waits: list[float] = []
    async with serving(*answers) as server, waiting_client(server, waits) as aura:
        found = await aura.get_heartbeat("hb1")

    assert found.name == "backup"
    assert len(server.requests) == len(answers)
    assert len(waits) == len(at_least)
    assert all(asked <= wait <= asked * 1.2 for asked, wait in zip(at_least, waits, strict=True))


async def test_write_is_sent_again_too() -> None:
    """A 429 says that nothing was done."""
    created = json_answer(201, {"id": "hb1", "name": "backup"})
    async with serving(refused(1), created) as server, waiting_client(server, []) as aura:
        await aura.create_heartbeat(name="backup", expected_interval_s=60)

    assert [request.split(b" ")[0] for request in server.requests] == [b"POST", b"POST"]


@pytest.mark.parametrize(
    ("answers", "requests"),
    [((refused(61),), 1), ((refused(40), refused(30)), 2), ((refused(0),), 2), ((refused(), refused(1)), 2)],
    ids=["too long", "too long in total", "zero for ever", "not said and again"],
)
async def test_waits_are_a_minute_in_total_then_it_is_an_error(answers: tuple[bytes, ...], requests: int) -> None:
    """The error says when to try again, as far as Aura does."""
    async with serving(*answers) as server, waiting_client(server, []) as aura:
        with pytest.raises(RateLimited) as caught:
            await aura.get_heartbeat("hb1")

    assert len(server.requests) == requests
    assert "try again in" in str(caught.value)
    assert not isinstance(caught.value, BudgetSpent)


async def test_client_that_was_not_told_to_wait_does_not() -> None:
    """The daemon has better to do: it comes back by itself."""
    async with serving(refused(1)) as server, waiting_client(server, [], refusal_wait_s=0.0) as aura:
        with pytest.raises(RateLimited):
            await aura.get_heartbeat("hb1")

    assert len(server.requests) == 1

"""The rate limits of the reference."""

import httpx
import pytest

from aura_agent.devserver.rates import RateLimits
from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import StillClock
from tests.devserver.conftest import client

pytestmark = pytest.mark.anyio


async def test_the_sixty_first_request_of_a_minute_is_rate_limited(
    clock: StillClock, anyone: httpx.AsyncClient
) -> None:
    """429 with the seconds until the window ends; per token; pings aren't limited; then it goes on."""
    async with DevServer(rate_limit=True, clock=clock) as aura, client(aura, aura.token) as api:
        heartbeat = aura.create_heartbeat("backup")
        answers = [await api.get("/heartbeats") for _ in range(60)]
        assert [answer.status_code for answer in answers] == [200] * 60
        assert [int(answer.headers["x-ratelimit-remaining-minute"]) for answer in answers] == list(range(59, -1, -1))
        assert answers[-1].headers["x-ratelimit-remaining-hour"] == "940"
        clock.advance(17.5)

        refused = await api.get("/heartbeats")

        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "43"
        async with client(aura, aura.create_token("read")) as other:
            assert (await other.get("/heartbeats")).status_code == 200
        assert (await anyone.post(heartbeat.ping_url)).status_code == 200
        assert (await api.get(aura.control_url + "/pings")).status_code == 200
        clock.advance(42.5)
        assert (await api.get("/heartbeats")).status_code == 200


def test_the_hour_allows_a_thousand() -> None:
    """However they are spread over its minutes."""
    limits = RateLimits()
    allowed = sum(limits.take("token", minute * 60.0).allowed for minute in range(59) for _ in range(60))

    verdict = limits.take("token", 59 * 60.0)

    assert allowed == 1000
    assert (verdict.allowed, verdict.retry_after_s, verdict.left_hour) == (False, 60, 0)
    assert limits.take("token", 3600.0).allowed


async def test_the_limits_can_be_others_than_the_references(clock: StillClock) -> None:
    """The window that is used up says how long to wait: here the hour's."""
    async with (
        DevServer(rate_limit=RateLimits(per_minute=2, per_hour=3), clock=clock) as aura,
        client(aura, aura.token) as api,
    ):
        first = await api.get("/heartbeats")
        left = [first.headers[f"x-ratelimit-remaining-{window}"] for window in ("minute", "hour")]
        assert left == ["1", "2"]
        await api.get("/heartbeats")
        assert (await api.get("/heartbeats")).headers["retry-after"] == "60"
        clock.advance(60)
        assert (await api.get("/heartbeats")).status_code == 200
        refused = await api.get("/heartbeats")

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3540")


async def test_what_the_token_may_not_do_counts_as_well(clock: StillClock) -> None:
    """Refusals are requests too, but for those without a token of ours."""
    async with (
        DevServer(rate_limit=RateLimits(per_minute=3), clock=clock) as aura,
        client(aura, aura.create_token("read")) as reader,
        client(aura, "unknown") as stranger,
    ):
        for _ in range(5):
            assert (await stranger.get("/heartbeats")).status_code == 401
        statuses = [
            (await reader.post("/monitors", json={})).status_code,
            (await reader.get("/nothing")).status_code,
            (await reader.get("/heartbeats?limit=0")).status_code,
            (await reader.get("/heartbeats")).status_code,
        ]

    assert statuses == [403, 404, 400, 429]

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

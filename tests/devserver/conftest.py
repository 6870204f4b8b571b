"""An embedded Aura on a free port, and clients with and without its token."""

from collections.abc import AsyncIterator

import httpx
import pytest

from aura_agent.devserver.server import DevServer
from tests.devserver.clocks import StillClock


@pytest.fixture
async def aura() -> AsyncIterator[DevServer]:
    async with DevServer() as server:
        yield server


@pytest.fixture
async def api(aura: DevServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API, with the read & write token."""
    async with client(aura, aura.token) as http:
        yield http


@pytest.fixture
async def anyone() -> AsyncIterator[httpx.AsyncClient]:
    """A client that knows no token."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def timed(clock: StillClock) -> AsyncIterator[DevServer]:
    """An embedded Aura whose time is *clock*'s."""
    async with DevServer(clock=clock) as server:
        yield server


def client(server: DevServer, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.base_url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=20
    )

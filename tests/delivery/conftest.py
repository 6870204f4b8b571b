"""An embedded Aura, and a dispatch that sends to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aura_agent.devserver.server import DevServer
from tests.delivery.dispatch import Dispatch, dispatch


@pytest.fixture
async def aura() -> AsyncIterator[DevServer]:
    async with DevServer() as server:
        yield server


@pytest.fixture
async def at(tmp_path: Path, aura: DevServer) -> AsyncIterator[Dispatch]:
    async with dispatch(tmp_path / "store", aura) as made:
        yield made

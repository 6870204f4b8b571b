"""What all tests share: the event loop, bounded waiting."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

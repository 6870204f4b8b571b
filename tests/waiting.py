"""Bounded waiting for a condition, in place of sleeps."""

import asyncio
import time
from collections.abc import Callable

_STEP_S = 0.01


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "") -> None:
    """Return as soon as *condition* is true; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(_STEP_S)


async def until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "") -> None:
    """The same, inside a running event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        await asyncio.sleep(_STEP_S)

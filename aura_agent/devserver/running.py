"""The embedded Aura in the foreground: until SIGTERM or SIGINT, either of which ends it well."""

import asyncio
import signal
from collections.abc import Callable

from aura_agent.devserver.server import DevServer


async def run_until_stopped(server: DevServer, announce: Callable[[], None]) -> None:
    """Start *server*, call *announce* once it listens, and return after a signal. Raises AuraError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with server:
        announce()
        await stop.wait()

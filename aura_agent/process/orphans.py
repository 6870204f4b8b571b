"""The daemon as process 1 of a container: what its jobs leave behind becomes its child, and must be reaped."""

import asyncio
import os
import signal

from aura_agent.process.child import unreaped
from aura_agent.process.subreaper import reap_adopted


def reap_orphans(loop: asyncio.AbstractEventLoop) -> None:
    """From now on reap orphans as they end, if we are process 1: zombies would use up the container's process limit.

    On the event loop, where all children are started: between a start and its entry in *unreaped* nothing is reaped.
    """
    if os.getpid() == 1:
        loop.add_signal_handler(signal.SIGCHLD, reap_adopted, unreaped)
        reap_adopted(unreaped)  # what an entrypoint's shell has left

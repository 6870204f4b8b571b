"""The background work without which the daemon would only look alive: none of it dies unnoticed.

What ends by itself ends the daemon, with an error, so that its supervisor starts it anew.
"""

import asyncio
from collections.abc import Coroutine

from aura_agent.daemon.agent import Agent
from aura_agent.delivery.observer import Observer


class Vitals:
    """The tasks that it is. What of them fails is put on *agent*, told to *observer*, and sets *stop*.

    One that is cancelled before ``ended`` has failed, too: something cancelled what it waited for.
    """

    def __init__(self, agent: Agent, observer: Observer, stop: asyncio.Event) -> None:
        self._agent = agent
        self._observer = observer
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        self.watch(task)
        return task

    def watch(self, task: asyncio.Task[None]) -> None:
        """An exception of *task* ends the daemon, and so does its end by cancellation."""
        task.add_done_callback(self._landed)

    async def ended(self, *, but: asyncio.Task[None] | None) -> None:
        """Cancel all of it *but* one, and wait until that has ended too."""
        self._ending = True
        for task in self._tasks:
            if task is not but:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _landed(self, task: asyncio.Task[None]) -> None:
        problem: BaseException | None
        if task.cancelled():
            problem = None if self._ending else asyncio.CancelledError("nobody has ended it")
        else:
            problem = task.exception()
        if problem is None:
            return
        self._agent.crashed = f"the {task.get_name()} has crashed ({type(problem).__name__})"
        self._observer.note("agent.crashed", task=task.get_name(), exc_info=problem)
        self._stop.set()

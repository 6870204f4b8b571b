"""The outcomes of the daemon's runs on their way to disk: into the database, else the spool, else kept in memory.

Between the end of a job and its durable record nothing may be forgotten: what neither takes is offered again until one
does. No run waits for that. A success that the database doesn't take is sent from memory meanwhile.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence

from aura_agent.background_thread import run_in_thread
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker, soon
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Report

PATIENCE_S = 3.0  # a job's next run waits for no longer than that for the record of the last
_STORE_TROUBLE_S = 5.0
_LAST_TRIES_S = 1.0
_BEHIND = "outbox: earlier outcomes wait for the disk"
_UNKEPT_AT_MOST = 1000  # records in memory, with up to 20 kB of output each


class Records:
    """Makes outcomes durable. *accepted* hears of each once it is; *launch* sees a task, of that name, through.

    *directory* is the store's, for the spool. *unkept* is given, once, each success that the database doesn't take.
    ``store_problem`` says why an outcome is not on disk yet.
    """

    def __init__(
        self,
        worker: OutboxWorker,
        directory: str,
        observer: Observer,
        accepted: Callable[[Report], None],
        launch: Callable[[Coroutine[None, None, None], str], object],
        unkept: Callable[[Report], Coroutine[None, None, None]] | None,
    ) -> None:
        self._worker = worker
        self._directory = directory
        self._observer = observer
        self._accepted = accepted
        self._launch = launch
        self._send_unkept = unkept
        self._unrecorded: dict[str, Report] = {}  # by run
        self._unkept: deque[Report] = deque()  # those of them that were refused by both
        self._hanging: set[asyncio.Future[bool]] = set()  # writes to the spool that have taken too long
        self._ending = asyncio.Event()
        self._give_up_s = math.inf  # until when what no disk takes is offered again, by the loop's clock
        self.store_problem = ""

    @property
    def are_owed(self) -> bool:
        """Whether outcomes are here that no disk takes, or that may withdraw what waits and are on their way to one.

        ``accepted`` hears of each that one took.
        """
        return bool(self._unkept) or any(report.outcome.withdraws for report in self._unrecorded.values())

    @property
    def unrecorded(self) -> list[Report]:
        """The outcomes that are not known to be on disk yet."""
        return list(self._unrecorded.values())

    def end(self) -> None:
        """Send nothing more from memory, and offer the disk often what is here: the daemon ends."""
        self._ending.set()

    def give_up_within(self, seconds: float) -> None:
        """Offer the disk for so long what is here, and then let go of it: nothing more comes."""
        self._give_up_s = asyncio.get_running_loop().time() + seconds

    async def put(self, report: Report) -> None:
        """Make *report* durable, or keep it here to be offered again."""
        self._unrecorded[report.run_id] = report
        is_behind = bool(self._unkept)  # what no disk takes: nothing is waited for, since the job's next run is due
        problem = "" if is_behind else await self._refusal(report)
        if is_behind or problem:
            if report.outcome is Outcome.SUCCEEDED and self._send_unkept is not None and not self._ending.is_set():
                self._launch(self._send_unkept(report), f"unkept success of {report.job}")
            if is_behind or not await self._is_spooled(report):
                self._keep(report, problem or self.store_problem or _BEHIND)
                return
        self._tell_kept(report)

    async def _refusal(self, report: Report) -> str:
        """Return why the database doesn't take *report*, or not soon; empty if it has."""
        if silence := self._worker.silence:
            return silence
        try:
            await soon(self._worker.accept(report), PATIENCE_S)
        except StoreError as problem:
            self._observer.note("store.failed", error=str(problem))
            return str(problem)
        return ""

    async def _is_spooled(self, report: Report) -> bool:
        """Whether the spool takes *report*, and soon. It may be in the database as well, which knows its runs."""
        self._hanging = {writing for writing in self._hanging if not writing.done()}
        if self._hanging:
            return False
        writing = run_in_thread(lambda: self._spool(report), "spool")
        done, _ = await asyncio.wait({writing}, timeout=PATIENCE_S)
        if not done:  # a disk that hangs: the write may still be done later, and the run is known then
            self._hanging.add(writing)
            return False
        return writing.result()

    def _spool(self, report: Report) -> bool:
        try:
            spool.write(self._directory, report.run_id, wire.encode("run", report.to_fields()))
        except FileExistsError:
            pass
        except OSError:
            return False
        return True

    def _keep(self, report: Report, problem: str) -> None:
        self.store_problem = problem
        if len(self._unkept) == _UNKEPT_AT_MOST:
            let_go = least_needed(self._unkept)
            self._unkept.remove(let_go)
            del self._unrecorded[let_go.run_id]
            self._observer.note("store.failed", error=f"too much waits for the disk: run {let_go.run_id} is forgotten")
        self._unkept.append(report)
        if len(self._unkept) == 1:
            self._launch(self._offer_again(), "records that no disk takes")

    def _tell_kept(self, report: Report) -> None:
        self.store_problem = ""
        self._unrecorded.pop(report.run_id, None)
        self._accepted(report)

    async def _offer_again(self) -> None:
        """Return once all is durable; only the end of the daemon lets go of what no disk takes.

        The next daemon finds such a run lost, which counts as a failure.
        """
        loop = asyncio.get_running_loop()
        while self._unkept and loop.time() < self._give_up_s:
            await self._pause()
            while self._unkept:
                oldest = self._unkept[0]
                if await self._refusal(oldest) and not await self._is_spooled(oldest):
                    break
                self._tell_kept(oldest)
                if self._unkept[0] is oldest:
                    self._unkept.popleft()

    async def _pause(self) -> None:
        if self._ending.is_set():
            await asyncio.sleep(_LAST_TRIES_S)
            return
        try:
            async with asyncio.timeout(_STORE_TROUBLE_S):
                await self._ending.wait()
        except TimeoutError:
            pass


def least_needed(reports: Sequence[Report]) -> Report:
    """Return the oldest of *reports* without which no ping becomes false or is lost, if there is one; else the oldest.

    That is any but the success and the failure of each heartbeat that started last: they stand for those before.
    """
    last: dict[tuple[str | None, bool], Report] = {}
    for report in reports:
        kind = (report.ref, report.outcome.withdraws)
        if report.outcome is not Outcome.SKIPPED and (
            kind not in last or last[kind].started.boot_ns <= report.started.boot_ns
        ):
            last[kind] = report
    needed = {report.run_id for report in last.values()}
    return next((report for report in reports if report.run_id not in needed), reports[0])

"""What aura-runs say on the report socket: who may say it, what is answered, and what follows from a run's outcome.

One connection per run. While it is open, it is the record that its run goes on; one that closes after ``start`` and
without ``run`` means that wrapper and outcome are gone: the run is lost. ``aura_agent.daemon.report_server`` holds the
connections.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock
from aura_agent.config.lend import lend, matching_jobs
from aura_agent.config.models import Config
from aura_agent.daemon.expectation import judged
from aura_agent.daemon.peers import Peer, may_report
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Ref, Report, in_the_past
from aura_agent.report.redaction import redact


@dataclass(slots=True)
class Conversation:
    """One connection: who is at its other end, and what the run that goes on there amounts to if it closes.

    The run is lost then, unless its outcome was heard and could not be kept.
    """

    peer: Peer
    open: Report | None = None
    refused: bool = False
    argv: str = ""  # the command that was introduced, if a job may have settings for it


class Heard(NamedTuple):
    """What a line calls for: its *answer*, or that *report* is kept first, as *line*.

    *refuses*: somebody is refused, for once.
    """

    answer: bytes = b""
    report: Report | None = None
    refuses: bool = False
    line: bytes = b""


@dataclass(frozen=True, slots=True)
class Desk:
    """What it takes to judge a report. *config* returns the one in force; *accepted* hears of reports that are kept,
    *wake* that others than those were brought in.

    *directory* is the store's, for the spool; *boot_id* is what the store calls this boot. *remember* is told of a lost
    run before any disk is.
    ``hear`` may be called in any thread, all else only in the loop's.
    """

    worker: OutboxWorker
    directory: str
    clock: Clock
    observer: Observer
    config: Callable[[], Config]
    accepted: Callable[[Report], None]
    wake: Callable[[], None]
    boot_id: str = ""
    remember: Callable[[Report], None] = lambda _: None

    def hear(self, conversation: Conversation, line: bytes) -> Heard:
        """Return what *line*, said in *conversation*, calls for."""
        try:
            verb, fields = wire.decode(line.strip())
            if not self._may_report(conversation.peer, fields.get("job", "")):
                first, conversation.refused = not conversation.refused, True
                answer = wire.encode("refused", {"reason": f"{conversation.peer.user} is not among them"})
                return Heard(answer, refuses=first)
            if verb == "start":
                return Heard(self._begin(conversation, fields))
            if verb == "run":
                return self._take(conversation, fields, line)
        except ValueError as problem:
            return Heard(wire.encode("busy", {"reason": f"not understood: {problem}"}))
        return Heard(wire.encode("busy", {"reason": f"unknown verb {verb[:40]}"}))

    def _take(self, conversation: Conversation, fields: dict[str, str], line: bytes) -> Heard:
        """Return the report in *line* as it is kept: who speaks to us runs in our boot, and has run before now.

        A success whose wrapper didn't know the job's settings is judged here. So is that of an older wrapper, which
        doesn't say.
        """
        given = Report.from_fields({"boot": self.boot_id} | fields)
        report = in_the_past(given, self.boot_id, self.clock.read())
        argv = fields.get("argv") or conversation.argv
        if report.outcome is Outcome.SUCCEEDED and fields.get("settings") != "known":
            config = self.config()
            if fields.get("settings") == "daemon":  # -j named the job, whose config the wrapper can't read
                names = [report.job] if report.job in config.jobs else []
            else:
                names = matching_jobs(config, argv.split("\0")) if argv else []
            if len(names) == 1 and self._may_report(conversation.peer, names[0]):
                report = judged(report, names[0], config.jobs[names[0]])
        if report is not given or "boot" not in fields:
            line = wire.encode("run", report.to_fields())
        return Heard(report=report, line=line)

    def must_redact(self, report: Report) -> bool:
        return report.body is not None and bool(self.config().attach.redact)

    def redacted(self, report: Report) -> Report:
        """Return *report* as it may leave the host: who wrote it may not have known our patterns."""
        if report.body is None:
            return report
        try:
            text = redact(report.body.decode("utf-8", "replace"), self.config().attach.redact)
        except (TimeoutError, ValueError):
            return replace(report, body=None)
        return replace(report, body=text.encode())

    async def conclude(self, run: Report) -> None:
        """Keep *run*, which has hung up, unless its outcome is known; it may have reached the spool."""
        name = run.run_id
        if run.outcome is Outcome.LOST:
            run, name = replace(run, ended=self.clock.read()), f"{run.run_id}-lost"
        self.remember(run)
        try:
            if await self.worker.call(lambda outbox: outbox.take_in()):
                self.wake()
            if await self.worker.accept(run):
                self.accepted(run)
        except StoreError as problem:
            self.observer.note("store.failed", error=str(problem))
            if await run_in_thread(partial(self._spool, run, name), "spool"):
                self.wake()

    def _spool(self, run: Report, name: str) -> bool:
        """Return whether that was needed, and could be done; if neither takes the run, that has been logged."""
        if spool.holds(self.directory, run.run_id):
            return False
        try:
            spool.write(self.directory, name, wire.encode("run", run.to_fields()))
        except OSError:
            return False
        return True

    def _begin(self, conversation: Conversation, fields: dict[str, str]) -> bytes:
        config = self.config()
        argv = conversation.argv = fields.get("argv", "")
        names = matching_jobs(config, argv.split("\0")) if argv else []
        lent = lend(names[0], config.jobs[names[0]]) if len(names) == 1 else {}
        if "heartbeat" in lent:
            fields |= {"job": lent["job"], "ref": f"{Ref.HEARTBEAT}{lent['heartbeat']}"}
        conversation.open = Report.lost({"boot": self.boot_id} | fields, "aura-run went away without an outcome")
        # Who shares our user has our store, and would have to read the config to find it.
        store = self.directory if conversation.peer.uid == os.geteuid() else ""
        return wire.encode("job", lent | {"redact": "\0".join(config.attach.redact), "store": store})

    def _may_report(self, peer: Peer, job_name: str) -> bool:
        config = self.config()
        job = config.jobs.get(job_name)
        return may_report(peer, [*config.agent.reporters, *(job.reporters if job is not None else ())])

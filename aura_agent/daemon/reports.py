"""What aura-runs say on the report socket: who may say it, what is answered, and what follows from a run's outcome.

One connection per run. While it is open, it is the record that its run goes on; one that closes after ``start`` and
without ``run`` means that wrapper and outcome are gone: the run is lost. ``aura_agent.daemon.report_server`` holds the
connections.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from aura_agent.background_thread import run_in_thread
from aura_agent.clock import Clock
from aura_agent.config.lend import lend, matching_jobs
from aura_agent.config.models import Config, Job
from aura_agent.daemon.peers import Peer, Rights, RightsOfPeers, own_run_id
from aura_agent.delivery.observer import Observer
from aura_agent.errors import StoreError
from aura_agent.outbox.worker import OutboxWorker
from aura_agent.report import spool, wire
from aura_agent.report.record import Outcome, Ref, Report, in_the_past, told_by_others
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

    *refuses*: somebody is refused, for once. *of_job*: the success is judged as a run of it before.
    """

    answer: bytes = b""
    report: Report | None = None
    refuses: bool = False
    line: bytes = b""
    of_job: tuple[str, Job] | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What it takes to judge a report. *config* returns the one in force; *accepted* hears of reports that are kept,
    *wake* that others than those were brought in.

    *directory* is the store's, for the spool; *boot_id* is what the store calls this boot. *remember* gets each run
    that withdraws and that no disk has taken yet.
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
    rights: RightsOfPeers = field(default_factory=RightsOfPeers)

    def hear(self, conversation: Conversation, line: bytes) -> Heard:
        """Return what *line*, said in *conversation*, calls for."""
        try:
            config = self.config()
            rights = self.rights_of(conversation.peer, config)
            verb, said = wire.decode(line.strip())
            argv = said.get("argv") or conversation.argv
            decides = verb == "start" or not rights.everything or said.get("settings") != "known"
            matching = matching_jobs(config, argv.split("\0")) if argv and decides else []
            fields = rights.permitted(said, matching, config)
            if fields is None:
                return self._refused(conversation, rights)
            if "run" in fields:
                fields |= {"run": own_run_id(conversation.peer, fields["run"])}
            matching = [name for name in matching if rights.everything or name in rights.jobs]
            if verb == "start":
                conversation.argv = said.get("argv", "")
                return Heard(self._begin(conversation, fields, matching, config))
            if verb == "run":
                return self._take(fields, matching, config, rights, line if fields == said else b"")
        except ValueError as problem:
            return Heard(wire.encode("busy", {"reason": f"not understood: {problem}"}))
        return Heard(wire.encode("busy", {"reason": f"unknown verb {verb[:40]}"}))

    def rights_of(self, peer: Peer, config: Config) -> Rights:
        """Return what *peer* may report; false for a stranger, who need not be heard. For one thread."""
        return self.rights.of(peer, config, time.monotonic())

    def _refused(self, conversation: Conversation, rights: Rights) -> Heard:
        first, conversation.refused = not conversation.refused, True
        user, jobs = conversation.peer.user, ", ".join(sorted(rights.jobs)[:3])
        if rights.everything:
            why = f"{user} may not have the daemon ping a URL of this host"
        else:
            why = f"{user} may report {jobs} alone, with its own heartbeat" if jobs else f"{user} is not among them"
        return Heard(wire.encode("refused", {"reason": why}), refuses=first)

    def _take(self, fields: dict[str, str], matching: list[str], config: Config, rights: Rights, line: bytes) -> Heard:
        """Return the report in *fields* as it is kept: who speaks to us runs in our boot, and has run before now.

        *line* is how it was said, empty if that isn't what is kept; *matching* are the jobs with its command. A success
        whose wrapper didn't know the job's settings is judged here. So is that of an older wrapper, which doesn't say.
        """
        given = Report.from_fields({"boot": self.boot_id} | fields)
        now = self.clock.read()
        report = in_the_past(given, self.boot_id, now)
        if not rights.is_us:
            report = told_by_others(report, now)
        if report.outcome is Outcome.SUCCEEDED and fields.get("settings") != "known":
            if fields.get("settings") == "daemon":  # -j named the job, whose config the wrapper can't read
                names = [report.job] if report.job in config.jobs else []
            else:
                names = matching
            if len(names) == 1:
                return Heard(report=report, of_job=(names[0], config.jobs[names[0]]))
        if not line or report is not given or "boot" not in fields:
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
        name, now = run.run_id, self.clock.read()
        if run.outcome is Outcome.LOST:
            run, name = replace(run, ended=now), f"{run.run_id}-lost"
        run = in_the_past(run, self.boot_id, now)
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

    def _begin(self, conversation: Conversation, fields: dict[str, str], matching: list[str], config: Config) -> bytes:
        lent = lend(matching[0], config.jobs[matching[0]]) if len(matching) == 1 else {}
        if "heartbeat" in lent:
            fields |= {"job": lent["job"], "ref": f"{Ref.HEARTBEAT}{lent['heartbeat']}"}
        conversation.open = Report.lost({"boot": self.boot_id} | fields, "aura-run went away without an outcome")
        # Who shares our user has our store, and would have to read the config to find it.
        store = self.directory if conversation.peer.uid == os.geteuid() else ""
        return wire.encode("job", lent | {"redact": "\0".join(config.attach.redact), "store": store})

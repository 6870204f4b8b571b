"""aura-run from start to end: run the job, learn how it ended, say so to whoever keeps the outbox.

The order is the point. The job starts first; while it runs we introduce it to the daemon; when it has ended its report
is made durable, by the daemon or in the spool; only then, and only without a daemon, we deliver by ourselves. What
goes wrong with any of this is at the most one line on stderr.
"""

import os
import sys

from aura_agent.wrapper.job import Ended, Job, NotStarted, Signals, end_as, in_foreground, now, start
from aura_agent.wrapper.options import Options, Usage, parse

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from aura_agent.wrapper.capture import Capture
    from aura_agent.wrapper.overlap import Turn
    from aura_agent.wrapper.reporting import Reporter

SKIPPED = 75
DEFAULT_TAIL_BYTES = 10_000


def main() -> int:
    """Run the command line in ``sys.argv``. Returns an exit status, or doesn't: it may end by the job's own signal."""
    try:
        options = parse(sys.argv[1:], os.environ)
        if options.job is not None:
            from aura_agent.wrapper.lookup import take_job

            take_job(options)
    except Usage as end:
        os.write(2 if end.status else 1, end.text.encode("utf-8", "surrogateescape"))
        return end.status
    end_as(*_Run(options).to_the_end())
    return 125  # not reached: the line above ends the process


class _Run:
    """One run of the job with all its attempts."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._signals = Signals()
        self._attempts = 0
        self._reason = ""
        self._body: bytes | None = None
        self._turn: Turn | None = None
        self._reporter: Reporter | None = None

    def to_the_end(self) -> tuple[int, int | None]:
        """Return the exit status, and the signal to die of if that is how the job ended."""
        if self._options.no_overlap and not self._take_turn():
            return SKIPPED, None
        ended = self._attempt()
        while not self._succeeded(ended) and self._may_retry():
            ended = self._attempt()
        self._signals.end_with(lambda: end_as(ended.status, ended.signal))
        if self._reporter is not None:
            outcome = "succeeded" if self._succeeded(ended) else ended.failure
            self._reporter.report(ended, outcome, attempts=self._attempts, reason=self._reason, body=self._body)
        return ended.status, ended.signal

    def _attempt(self) -> Ended:
        """Run the command once and return how that ended."""
        options = self._options
        self._attempts += 1
        self._reason = ""
        capture = self._open_capture()
        try:
            job = start(
                options.command,
                self._signals,
                own_group=options.timeout_s is not None and not in_foreground(),
                outputs=None if capture is None else capture.open(),
                env=options.env,
            )
        except NotStarted as problem:
            self._say(problem.text)
            self._reason = problem.text
            ended = Ended(now())
            ended.code, ended.not_started = problem.status, True
            self._introduce(ended)
        else:
            if capture is not None:
                capture.pump()
            self._mark_turn(job)
            self._introduce(job.ended)
            self._wait(job)
            ended = job.ended
        if capture is not None:
            capture.finish()
        self._conclude(ended, capture)
        return ended

    def _wait(self, job: Job) -> None:
        timeout_s = self._options.timeout_s
        if timeout_s is None:
            self._signals.wait(job)
            return
        from aura_agent.process.subreaper import become_subreaper

        become_subreaper()
        if not self._signals.wait(job, job.ended.started_boot_ns + int(timeout_s * 1e9)):
            from aura_agent.wrapper.timeout import end_tree

            kill_after_s = self._options.kill_after_s
            self._reason = end_tree(job, self._signals, timeout_s, 10.0 if kill_after_s is None else kill_after_s)
            job.ended.timed_out = True
            self._say(self._reason)

    def _conclude(self, ended: Ended, capture: "Capture | None") -> None:
        """Look at what the exit status alone doesn't tell, and show the output that was held back for a failure."""
        if self._options.expect and self._succeeded(ended):
            from aura_agent.wrapper.lookup import unmet_expectation

            self._reason = unmet_expectation(self._options.expect, ended.started_ns)
            ended.unmet = bool(self._reason)
            if ended.unmet:
                self._say(f"the job exited well, but {self._reason}: no ping")
        if capture is not None and not self._succeeded(ended):
            capture.show()
        self._body = self._body_of(ended, capture)

    def _succeeded(self, ended: Ended) -> bool:
        codes = self._options.success_codes or frozenset((0,))
        well = ended.signal is None and ended.code in codes
        return well and not (ended.timed_out or ended.not_started or ended.unmet)

    def _may_retry(self) -> bool:
        if self._attempts > (self._options.retries or 0) or self._signals.terminated_by is not None:
            return False
        delay_s = self._options.retry_delay_s
        return self._signals.pause(10.0 if delay_s is None else delay_s)

    # -- around the job ------------------------------------------------------------------------------------------

    def _introduce(self, ended: Ended) -> None:
        """While the job runs: tell the daemon, and learn what the config has to say about it."""
        if self._reporter is None:
            from aura_agent.wrapper.reporting import Reporter

            self._reporter = Reporter(self._options)
            self._reporter.introduce(ended)

    def _take_turn(self) -> bool:
        from aura_agent.wrapper.overlap import Turn
        from aura_agent.wrapper.reporting import identity, store

        directory = store()
        try:
            from aura_agent.report.spool import prepare

            prepare(directory)
            self._turn = Turn(directory, identity(self._options))
        except OSError as problem:
            from aura_agent.wrapper.warnings import warn

            warn(directory, "overlap", f"--no-overlap can't be kept: {directory}: {problem.strerror}")
            return True
        if not self._turn.held:
            self._say("already running on this host: not run")
        return self._turn.held

    def _mark_turn(self, job: Job) -> None:
        if self._turn is not None:
            try:
                self._turn.mark(job.pid)
            except OSError:
                pass  # a full disk: the lock itself still holds as long as we live

    def _open_capture(self) -> "Capture | None":
        options = self._options
        if not options.quiet and options.attach != "output":
            return None
        from aura_agent.process.tail import Tail
        from aura_agent.wrapper.capture import Capture

        tail_bytes = DEFAULT_TAIL_BYTES if options.tail_bytes is None else options.tail_bytes
        return Capture(hold=options.quiet, tail=Tail(tail_bytes) if options.attach == "output" else None)

    def _body_of(self, ended: Ended, capture: "Capture | None") -> bytes | None:
        if self._options.attach == "summary":
            from aura_agent.units import format_duration

            took = format_duration((ended.ended_boot_ns - ended.started_boot_ns) / 1e9)
            return f"exit {ended.status} after {took}, attempt {self._attempts}\n".encode()
        return capture.tail.text().encode() if capture is not None and capture.tail is not None else None

    def _say(self, text: str) -> None:
        from aura_agent.wrapper.warnings import print_line

        print_line(text)

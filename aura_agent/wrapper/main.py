"""aura-run from start to end: run the job, learn how it ended, say so to whoever keeps the outbox.

The order is the point. The job starts first; while it runs we introduce it to the daemon; when it has ended its report
is made durable, by the daemon or in the spool; only then, and only without a daemon, we deliver by ourselves. What
goes wrong with any of this is at the most one line on stderr. Modules may be replaced, memory and descriptors used up
while the job runs: each step after the job's start is guarded, and the exit status depends on none of them.
"""

import os
import sys

from aura_agent.wrapper.job import (
    SIGKILL,
    SIGTERM,
    Ended,
    Job,
    NoResources,
    NotStarted,
    Signals,
    become,
    end_as,
    end_of_child,
    in_foreground,
    let_ctrl_c_end_us,
    now,
    start,
    wait_whatever_happens,
)
from aura_agent.wrapper.options import Options, Usage, parse

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable

    from aura_agent.wrapper.capture import Capture
    from aura_agent.wrapper.overlap import Turn
    from aura_agent.wrapper.reporting import Delivery, Reporter

SKIPPED = 75
DEFAULT_TAIL_BYTES = 10_000
_PIPE_BUF = 4096
_LEEWAY_S = 0.5  # for what ends a delivery before its bound
_INSTANT_S = 0.005  # a run that is over by then isn't worth a record of its start
_BRIEF_S = 0.05  # a run that is over by then isn't worth a sync of its start


def main() -> int:
    """Run the command line in ``sys.argv``. Returns an exit status, or doesn't: it may end by the job's own signal."""
    let_ctrl_c_end_us()
    _take_missing_descriptors()
    try:
        options = parse(sys.argv[1:], os.environ)
        if options.job is not None:
            from aura_agent.wrapper.lookup import take_job

            take_job(options)
    except Usage as end:
        try:
            os.write(2 if end.status else 1, end.text.encode("utf-8", "surrogateescape"))
        except OSError:
            pass
        return end.status
    except Exception as problem:  # noqa: BLE001  # no memory, or a module is missing or damaged
        return _run_alone(problem)
    run = _Run(options)
    status, signum = 1, None
    try:
        status, signum = run.to_the_end()
        _flush_lines()
    finally:
        end_as(status, signum)  # never returns
    return status


def _run_alone(problem: Exception) -> int:
    """There are no options to go by: become the command after ``--``. Returns an exit status if there is none."""
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    what = "the command runs without aura-run, and without a ping" if command else "nothing was run"
    _print_plainly(f"{_named(problem)}: {what}")
    if not command:
        return 125
    become(command, Signals(), {}, "")
    return 126


def _flush_lines() -> None:
    """Give lines of ours that stderr hasn't taken yet a last moment; where there were none, nothing is loaded."""
    warnings = sys.modules.get("aura_agent.wrapper.warnings")
    if warnings is not None:
        warnings.flush_lines()


def _take_missing_descriptors() -> None:
    """Fill what the caller closed of 0 to 2 for ourselves: the next file of ours must not become our stderr.

    The job doesn't inherit them: it misses what the caller wanted it to miss.
    """
    try:
        while (taken := _open_nothing()) <= 2:
            pass
        os.close(taken)
    except OSError:
        pass


def _open_nothing() -> int:
    """Open /dev/null; where there is none, the root directory, which nobody can read or write. Raises OSError."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open("/", os.O_RDONLY | os.O_CLOEXEC)


def _let_go_of_pipeline() -> None:
    """Give up our ends of the caller's stdin and stdout: who reads the job's output need not wait for our delivery."""
    try:
        nothing = _open_nothing()
    except OSError:
        return
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _check_memory() -> None:
    """Raises MemoryError: ``ulimit`` leaves too little for the modules of delivery, and Python itself might hang."""
    import resource

    for limit, least_bytes in ((resource.RLIMIT_AS, 40 << 20), (resource.RLIMIT_DATA, 24 << 20)):
        soft_bytes = resource.getrlimit(limit)[0]
        if soft_bytes != resource.RLIM_INFINITY and soft_bytes < least_bytes:
            raise MemoryError


def _deliver(delivery: "Delivery") -> None:
    """Deliver by ourselves, unless another aura-run of this store has sent all meanwhile."""
    turn = None
    if delivery.path is not None and not delivery.served and not delivery.calls_hooks:
        from aura_agent.wrapper.delivery_turn import DeliveryTurn

        try:
            turn = DeliveryTurn(delivery.store, delivery.options.wait_s)
        except (OSError, RuntimeError):
            pass  # the turn saves work, and nothing else
        else:
            if turn.is_done_by_others(delivery.path):
                turn.end(is_empty=True)
                return
    from aura_agent.wrapper.delivery import deliver

    is_empty = deliver(delivery)
    if turn is not None:
        turn.end(is_empty=is_empty)


def _yield_processors() -> None:
    """Don't preempt jobs that start. Not by nice(2): on a busy host a delivery would not be done within --wait."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass


class _Run:
    """One run of the job with all its attempts."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._signals = Signals()
        self._attempts = 0
        self._job: Job | None = None  # of the last attempt that could be started
        self._reason = ""
        self._body: bytes | None = None
        self._tail = ""  # of a failure's output, where it is captured
        self._turn: Turn | None = None
        self._reporter: Reporter | None = None

    def to_the_end(self) -> tuple[int, int | None]:
        """Return the exit status, and the signal to die of if that is how the job ended."""
        try:
            if self._options.no_overlap and not self._take_turn():
                return SKIPPED, None
            ended = self._run()
        except BaseException as problem:  # noqa: BLE001  # whatever goes wrong here, the status is the job's
            ended = self._end_without_us(problem)
        self._guard(self._release_turn)
        self._guard(lambda: self._tell(ended))
        return ended.status, ended.signal

    def _run(self) -> Ended:
        """Make attempts until one succeeds or none is left; return how the last one ended."""
        ended = self._attempt()
        while not self._succeeded(ended) and self._may_retry():
            before = self._attempts, self._reason
            try:
                ended = self._attempt()
            except NoResources as problem:
                self._say(f"no retry: {problem.text}")
                self._attempts, self._reason = before
                break
        return ended

    def _end_without_us(self, problem: BaseException) -> Ended:
        """What we need isn't there: wait for the job alone; without a process of its own, become the job."""
        if self._job is None:
            ended = end_of_child(now())
            if ended is None:
                text = problem.text if isinstance(problem, NoResources) else _named(problem)
                self._say(f"{text}: the command runs without aura-run, and without a ping")
                become(self._options.command, self._signals, self._options.env, self._options.token_variable)
                ended = Ended(now())
                ended.code, ended.not_started = 126, True
            return ended
        self._unforeseen(problem)
        wait_whatever_happens(self._job, self._signals)
        return self._job.ended

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
                outputs=None if capture is None else capture.outputs,
                env=options.env,
                withheld=options.token_variable,
            )
        except NoResources:
            if capture is not None:
                capture.abandon()
            raise
        except NotStarted as problem:
            self._say(problem.text)
            self._reason = problem.text
            ended = Ended(now())
            ended.code, ended.not_started = problem.status, True
            self._introduce(ended, lambda: True)
        else:
            self._job = job
            if capture is not None:
                capture.started()
            if options.timeout_s is not None:
                self._guard(self._adopt)
            self._guard(lambda: self._mark_turn(job))
            instant_boot_ns = job.ended.started_boot_ns + int(_INSTANT_S * 1e9)
            self._introduce(job.ended, lambda: self._signals.wait(job, instant_boot_ns))
            self._wait(job)
            ended = job.ended
        self._guard(self._learn_settings)
        self._judge(ended)
        if self._is_last(ended):
            self._guard(self._release_turn)  # whoever reads the output slowly holds up no later run
        if capture is not None:
            show = not self._succeeded(ended)
            self._guard(lambda: capture.finish(self._signals, show=show, timed_out=ended.timed_out))
        self._guard(lambda: self._take_output(ended, capture))
        return ended

    def _wait(self, job: Job) -> None:
        timeout_s = self._options.timeout_s
        deadline_boot_ns = None
        if timeout_s is not None:
            self._guard(self._adopt)  # if the config has just lent the time-out
            deadline_boot_ns = job.ended.started_boot_ns + int(timeout_s * 1e9)
        if timeout_s is None or timeout_s > _BRIEF_S:
            if self._signals.wait(job, job.ended.started_boot_ns + int(_BRIEF_S * 1e9)):
                return
            self._guard(self._load_end)
            self._guard(self._settle)
        if not self._signals.wait(job, deadline_boot_ns) and timeout_s is not None:
            kill_after_s = self._options.kill_after_s
            self._time_out(job, timeout_s, 10.0 if kill_after_s is None else kill_after_s)

    def _adopt(self) -> None:
        """From here on what outlives its parent becomes our child, and a time-out finds it."""
        from aura_agent.process.subreaper import become_subreaper

        become_subreaper()

    def _time_out(self, job: Job, timeout_s: float, kill_after_s: float) -> None:
        job.ended.timed_out = True
        try:
            from aura_agent.wrapper.timeout import end_tree

            self._reason = end_tree(job, self._signals, timeout_s, kill_after_s)
        except BaseException as problem:  # noqa: BLE001  # no /proc, for one: the job itself can be ended all the same
            self._unforeseen(problem)
            self._reason = "timed out: sent SIGTERM to the job"
            job.send(SIGTERM, to_group=True)
            if not self._signals.wait(job, now()[0] + int(kill_after_s * 1e9)):
                job.send(SIGKILL, to_group=True)
                self._signals.wait(job)
        self._say(self._reason)

    def _judge(self, ended: Ended) -> None:
        """Look at what the exit status alone doesn't tell."""
        daemon_judges = self._reporter is not None and self._reporter.leaves_job_to_daemon()
        if self._options.job_found is False and self._succeeded(ended) and not daemon_judges:
            ended.unmet = True  # what the job expects of its runs isn't known
            self._reason = f"job {self._options.job!r} could not be read: what it expects isn't known, so no ping"
        if not (self._options.expect and self._succeeded(ended)):
            return
        try:
            from aura_agent.wrapper.expectation import unmet_expectation

            self._reason = unmet_expectation(self._options.expect, ended.started_ns)
            ended.unmet = bool(self._reason)
            if ended.unmet:
                self._say(f"the job exited well, but {self._reason}: no ping")
        except BaseException as problem:  # noqa: BLE001  # an expectation that can't be judged is not met
            ended.unmet = True
            self._unforeseen(problem)

    def _take_output(self, ended: Ended, capture: "Capture | None") -> None:
        """Keep what of the output goes with the report: of a success the ping's body, of a failure the tail."""
        self._body = self._body_of(ended, capture)
        tail = None if capture is None or self._succeeded(ended) else capture.tail
        self._tail = "" if tail is None else tail.text()

    def _succeeded(self, ended: Ended) -> bool:
        codes = self._options.success_codes or frozenset((0,))
        well = ended.signal is None and ended.code in codes
        return well and not (ended.timed_out or ended.not_started or ended.unmet)

    def _is_last(self, ended: Ended) -> bool:
        """Whether no attempt can follow the one that ended as *ended*."""
        if self._succeeded(ended) or self._attempts > (self._options.retries or 0):
            return True
        return self._signals.terminated_by is not None

    def _may_retry(self) -> bool:
        if self._attempts > (self._options.retries or 0) or self._signals.terminated_by is not None:
            return False
        options = self._options
        delay_s = first_s = 10.0 if options.retry_delay_s is None else options.retry_delay_s
        if options.retry_backoff != 1:
            try:
                from aura_agent.schedule.retry import retry_delay_s

                delay_s = retry_delay_s(self._attempts, first_s, options.retry_backoff, options.retry_max_delay_s)
            except Exception as problem:  # noqa: BLE001  # it is tried again all the same
                self._unforeseen(problem)
        if delay_s > _BRIEF_S:
            self._guard(self._settle)
        return self._signals.pause(delay_s)

    # -- around the job ------------------------------------------------------------------------------------------

    def _introduce(self, ended: Ended, is_over: "Callable[[], bool]") -> None:
        """While the job runs: put on record that it does, and learn what the config has to say about it."""
        self._guard(lambda: self._make_reporter().introduce(ended, is_over))

    def _make_reporter(self) -> "Reporter":
        if self._reporter is None:
            from aura_agent.wrapper.reporting import Reporter

            self._reporter = Reporter(self._options)
        return self._reporter

    def _learn_settings(self) -> None:
        if self._reporter is not None:
            self._reporter.learn_settings()

    def _settle(self) -> None:
        if self._reporter is not None:
            self._reporter.settle()

    def _load_end(self) -> None:
        """Load what the end of the run needs, beside the job: an upgrade may replace or remove it meanwhile."""
        from aura_agent.wrapper.preload import load_in_background

        load_in_background(self._options)

    def _tell(self, ended: Ended) -> None:
        """Make the outcome durable, and deliver it where no daemon does. Signals can only end the latter."""
        if self._reporter is None:
            self._introduce(ended, lambda: True)  # it failed when the job began; perhaps for a moment
        delivery = None
        if self._reporter is not None:
            outcome = "succeeded" if self._succeeded(ended) else ended.failure
            delivery = self._reporter.keep(
                ended, outcome, attempts=self._attempts, reason=self._reason, body=self._body, tail=self._tail
            )
        self._guard(lambda: self._say_on_terminal(ended, delivery is not None))
        if delivery is None or self._signals.hurried:
            return
        self._signals.end_with(lambda: end_as(ended.status, ended.signal), within_s=delivery.options.wait_s + _LEEWAY_S)
        _let_go_of_pipeline()
        try:
            _check_memory()
            _yield_processors()
            from aura_agent.wrapper.delivery_process import deliver_apart

            deliver_apart(delivery, lambda: _deliver(delivery))
        except BaseException as problem:  # noqa: BLE001  # an upgrade, no memory
            from aura_agent.wrapper.warnings import warn

            warn(delivery.store, "delivery", f"no ping can be sent now: {_named(problem)}; it is queued")

    def _say_on_terminal(self, ended: Ended, delivers: bool) -> None:
        """Tell who looks on what becomes of the run; delivery itself tells the rest."""
        if not os.isatty(2):
            return
        from aura_agent.wrapper.warnings import say_on_terminal

        if not self._succeeded(ended):
            say_on_terminal(f"not pinged: {_ending(ended)}")
        elif self._reporter is not None and self._reporter.fate and not delivers:
            say_on_terminal(self._reporter.fate)

    def _take_turn(self) -> bool:
        from aura_agent.wrapper.overlap import Turn, job_identity

        try:
            directory = self._make_reporter().find_store()
        except Exception as problem:  # noqa: BLE001  # it keeps the job from running no more than anything else
            self._unforeseen(problem)
            return True
        try:
            self._turn = Turn(directory, job_identity(self._options))
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

    def _release_turn(self) -> None:
        """The last attempt has ended: the next run may start, whatever is still to be reported or delivered."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    def _open_capture(self) -> "Capture | None":
        options = self._options
        if not options.quiet and options.attach != "output":
            return None
        try:
            from aura_agent.process.tail import CONTEXT_BYTES, Tail
            from aura_agent.wrapper.capture import Capture

            tail_bytes = DEFAULT_TAIL_BYTES if options.tail_bytes is None else options.tail_bytes
            tail = Tail(tail_bytes + CONTEXT_BYTES) if options.attach == "output" else None
            return Capture(hold=options.quiet, tail=tail)
        except Exception as problem:  # noqa: BLE001  # the job's output is the job's
            why = str(problem) if isinstance(problem, (OSError, RuntimeError)) else _named(problem)
            self._say(f"the output can't be captured: {why}; it goes straight through")
            return None

    def _body_of(self, ended: Ended, capture: "Capture | None") -> bytes | None:
        if self._options.attach == "summary":
            from aura_agent.units import format_duration

            took = format_duration((ended.ended_boot_ns - ended.started_boot_ns) / 1e9)
            return f"exit {ended.status} after {took}, attempt {self._attempts}\n".encode()
        if capture is None or capture.tail is None or self._reporter is None or not self._succeeded(ended):
            return None
        from aura_agent.process.attachment import attachment

        tail_bytes = DEFAULT_TAIL_BYTES if self._options.tail_bytes is None else self._options.tail_bytes
        return attachment(capture.tail, tail_bytes, self._reporter.redact())

    def _guard(self, step: "Callable[[], None]") -> None:
        """Take *step*, and go on whatever comes of it."""
        try:
            step()
        except BaseException as problem:  # noqa: BLE001  # nothing of ours may change how the job's end is told
            self._unforeseen(problem)

    def _unforeseen(self, problem: BaseException) -> None:
        self._say(f"{_named(problem)}: the job is not affected")

    def _say(self, text: str) -> None:
        try:
            from aura_agent.wrapper.warnings import print_line

            print_line(text)
        except BaseException:  # noqa: BLE001
            _print_plainly(text)


def _ending(ended: Ended) -> str:
    """Return in words how a job ended that has not succeeded."""
    if ended.unmet:
        return "its expectation is not met"
    if ended.timed_out or ended.not_started:
        return "it timed out" if ended.timed_out else "it could not be started"
    return f"exit {ended.code}" if ended.killed_by is None else f"killed by signal {ended.killed_by}"


def _named(problem: BaseException) -> str:
    """Name *problem* without its text, which could hold anything."""
    what = problem.strerror if isinstance(problem, OSError) else None
    return f"internal error ({type(problem).__name__}{f': {what}' if what else ''})"


def _print_plainly(text: str) -> None:
    """Write one line to stderr with what is loaded anyway. It never waits: a pipe without room gets nothing."""
    try:
        line = f"aura-run: {text}\n".encode("utf-8", "surrogateescape")[:_PIPE_BUF]
        if os.fstat(2).st_mode & 0o170000 == 0o100000:
            os.write(2, line)
        else:
            os.pwritev(2, (line,), -1, os.RWF_NOWAIT)
    except BaseException:  # noqa: BLE001, S110
        pass

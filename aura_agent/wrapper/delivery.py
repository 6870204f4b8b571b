"""aura-run's own delivery, where no daemon does it: what waits in our store, for a bounded time, after the job."""

import _thread
import logging
import os
import signal
import sys
import warnings
from time import monotonic, sleep

from aura_agent.config.models import ApiSettings
from aura_agent.config.settings import base_url, find_token
from aura_agent.errors import AuraError, ConfigError, StoreBusyError, StoreError
from aura_agent.outbox.store import open_outbox
from aura_agent.report import spool
from aura_agent.report.record import Outcome, Report
from aura_agent.secret import Secret
from aura_agent.wrapper import lookup
from aura_agent.wrapper.daemon import Daemon
from aura_agent.wrapper.handover import hand_over
from aura_agent.wrapper.reporting import Delivery
from aura_agent.wrapper.warnings import say_on_terminal, warn

_LEEWAY_S = 0.5
_SILENT_S = 1.0  # on a terminal: longer waits are explained
_NO_STORE = os.devnull  # nothing lies below it
_LOCKED_S = 5.0  # who keeps the store locked for longer is at it, or hangs


def deliver(what: Delivery) -> bool:
    """Deliver the run that has just ended and, in a store that no daemon serves, what else waits there.

    Return whether nothing is left there that may be sent.

    Then call hooks. Each of the two takes ``wait_s`` at the most, delivery from the job's end on: SIGALRM is set to end
    it.
    """
    _silence_python()
    report = Report.from_fields(what.report)
    is_empty = False
    if report.outcome is Outcome.SUCCEEDED or not (what.served or what.path is None):
        progress = _Progress(report)
        is_empty = _send(what, report, progress)
        progress.end()
    if what.calls_hooks:
        _end_after(what.options.wait_s)
        deadline = monotonic() + what.options.wait_s
        from aura_agent.wrapper.hooks import call_hooks

        call_hooks(what, report, deadline - monotonic())
    return is_empty


def _silence_python() -> None:
    """Where descriptors or memory are short, asyncio fails in places that nobody waits for, and Python prints that with
    a traceback. What people can mend is a line of ours.
    """
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
    logging.disable()


def _end_after(wait_s: float) -> None:
    """What hangs where no time-out reaches (a name server, a lock on the store) ends with SIGALRM all the same."""
    signal.setitimer(signal.ITIMER_REAL, wait_s + _LEEWAY_S, 1.0)


class _Progress:
    """Says on a terminal what delivery waits for, and what has become of the run's own ping."""

    def __init__(self, report: Report) -> None:
        self._run_id = report.run_id if report.outcome is Outcome.SUCCEEDED else ""
        kind, _, name = (report.ref or "").partition(":")
        self._heartbeat = "its URL" if kind == "url" else name
        self._said = not self._run_id
        self._shown = self._run_id != "" and os.isatty(2)
        self._reason = ""
        self._is_parked = False  # a line has said why
        if self._shown:
            try:
                _thread.start_new_thread(self._say_what_is_waited_for, ())
            except RuntimeError:
                pass  # delivery matters more

    def note(self, event: str, **facts: object) -> None:
        if not self._shown:
            return
        if event == "ping.parked" and facts.get("heartbeat") == self._heartbeat:
            self._is_parked = True
        if facts.get("run_id") != self._run_id:
            return
        if event == "ping.delivered":
            self._said = True
            say_on_terminal(f"delivered to {self._heartbeat}")
        elif event.startswith("ping."):
            self._reason = str(facts.get("reason") or "")

    def end(self) -> None:
        """Delivery is over: a ping that has not been delivered is queued."""
        if self._shown and not self._said:
            self._said = True
            if self._is_parked:
                say_on_terminal("queued, will be retried once an hour")
                return
            say_on_terminal(f"{self._reason or 'Aura does not answer'}: queued, will be retried")

    def _say_what_is_waited_for(self) -> None:
        sleep(_SILENT_S)
        if not self._said:
            say_on_terminal(f"delivering the ping to {self._heartbeat} (Ctrl-C leaves it to the queue)")


def _send(what: Delivery, report: Report, progress: _Progress) -> bool:
    """Deliver what waits. A success that the store doesn't take goes out from memory, unless what can be read there
    speaks against it. Return whether nothing is left in the store that may be sent.
    """
    deadline = what.deadline_s
    in_memory = what.path is None
    heard = _Warnings(what.store, progress)
    try:
        if not in_memory and not _anything_waits(what):
            return True
    except StoreBusyError:
        return False  # others are at it, and the report is safe
    except StoreError as problem:
        warn(what.store, "store", str(problem))
        if report.outcome is not Outcome.SUCCEEDED:
            return False
        in_memory = heard.is_store_failing = True
    try:
        delivered = _deliver(what, max(0.0, deadline - monotonic()), report if in_memory else None, heard)
    except AuraError as problem:
        warn(what.store, "delivery", str(problem))
    except (OSError, MemoryError) as problem:  # ulimit is the job's, and ours with it
        if heard.is_store_failing:
            return False  # of the same shortage there has been a line
        why = problem.strerror if isinstance(problem, OSError) else "out of memory"
        warn(what.store, "delivery", f"no ping can be sent now: {why}")
    else:
        if delivered and in_memory:
            what.done()
            if what.path is not None:
                spool.remove(what.path)
        return delivered and not in_memory
    return False


def _deliver(what: Delivery, wait_s: float, report: Report | None, heard: "_Warnings") -> bool:
    """Deliver *report* from memory; None: what the store holds. Return whether nothing of it is left.

    Once a daemon answers, what the store holds is forwarded to it: the daemon knows what we may not.
    """
    from aura_agent.api.transport import http_environment
    from aura_agent.delivery.inline import Service, deliver_from_memory, deliver_now

    deadline = monotonic() + wait_s
    daemon = _Daemon(what, report)
    api = what.config.api if what.config is not None else ApiSettings()
    token, heard.token_problem = _token(api)
    service = Service(
        base_url=base_url(api, os.environ),
        token=token,
        allow_insecure=api.allow_insecure,
        state_dir=None if what.hangs else what.store,
    )

    def deliver_ourselves() -> bool:
        if report is not None:
            store = _NO_STORE if what.hangs else what.store
            return deliver_from_memory(store, service, heard, report, wait_s=deadline - monotonic())
        return deliver_now(
            what.store,
            service,
            heard,
            wait_s=deadline - monotonic(),
            run_id=what.report["run"],
            only_run=what.served,
            withheld=daemon.answers,
        )

    done = deliver_ourselves()
    if not daemon.takes_all():
        done = deliver_ourselves()
    for problem in http_environment().problems():
        warn(what.store, problem, problem)
    return done


class _Daemon:
    """The daemon, in case that it comes up while we deliver what is in a store of our own."""

    def __init__(self, what: Delivery, report: Report | None) -> None:
        self._store = what.store
        self._socket_path = None if what.served or report is not None else what.socket_path
        self._answered = False

    def answers(self) -> bool:
        if self._socket_path is not None:
            try:
                Daemon(self._socket_path).close()
            except OSError:
                self._answered = False
            else:
                self._answered = True
        return self._answered

    def takes_all(self) -> bool:
        """Forward what waits if the daemon answered; return False, once, if it did and yet doesn't take all of it."""
        if not self._answered or self._socket_path is None:
            return True
        path, self._socket_path, self._answered = self._socket_path, None, False
        try:
            return hand_over(self._store, path)
        except OSError:
            return False


def _anything_waits(what: Delivery) -> bool:
    """Whether there is something to send: it takes no HTTP client to see that a failure sends nothing.

    A damaged database is set aside before it takes anything in, and a fresh one asked. Raises StoreError.
    """
    patience_s = max(0.0, min(what.deadline_s - monotonic(), _LOCKED_S))
    outbox = open_outbox(what.store, "run", check=True, patience_s=patience_s)
    try:
        outbox.enter(lookup.account(what.config))
        outbox.take_in()
        return outbox.waiting_count() > 0
    finally:
        for notice in outbox.take_notices():
            warn(what.store, "set aside", notice)
        outbox.close()


def _token(api: ApiSettings) -> tuple[Secret | None, str]:
    """Return the token; or None, and why what names it is of no use: a cached ping URL does without."""
    try:
        return find_token(api, os.environ), ""
    except ConfigError as problem:
        return None, str(problem)


class _Warnings:
    """Hears what delivery has to say, and passes on only what a person must mend."""

    def __init__(self, store: str, progress: _Progress) -> None:
        self._store = store
        self._progress = progress
        self.token_problem = ""
        self.is_store_failing = False

    def note(self, event: str, **facts: object) -> None:
        self._progress.note(event, **facts)
        if event == "ping.parked":
            reason, heartbeat = facts.get("reason"), facts.get("heartbeat")
            if self.token_problem and "token" in str(reason):
                reason = self.token_problem
            # What the API refuses it refuses for every heartbeat: one cause.
            cause = "api" if str(reason).startswith("degraded: ") else f"parked {heartbeat}"
            warn(self._store, cause, f"ping for {heartbeat} waits: {reason}")
        elif event == "api.failed" and facts.get("status") in (401, 403):
            warn(self._store, "api", f"the ping waits: {facts.get('error')}")
        elif event == "store.failed":
            self.is_store_failing = True
            warn(self._store, "store", str(facts.get("error")))
        elif event == "store.set_aside":
            warn(self._store, "set aside", str(facts.get("what")))

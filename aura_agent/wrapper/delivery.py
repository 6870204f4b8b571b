"""aura-run's own delivery, where no daemon does it: what waits in our store, for a bounded time, after the job."""

import os
import signal

from aura_agent.config.models import ApiSettings
from aura_agent.config.settings import base_url, find_token
from aura_agent.errors import AuraError, ConfigError
from aura_agent.outbox.store import open_outbox
from aura_agent.report.record import Report
from aura_agent.secret import Secret
from aura_agent.wrapper.reporting import Delivery
from aura_agent.wrapper.warnings import warn

_LEEWAY_S = 0.5


def deliver(what: Delivery) -> None:
    """Deliver the run that has just ended and, in a store that no daemon serves, what else waits there."""
    options, store = what.options, what.store
    # What hangs where no time-out reaches (a name server, a lock on the store) ends with SIGALRM all the same.
    signal.setitimer(signal.ITIMER_REAL, options.wait_s + _LEEWAY_S)
    try:
        report = Report.from_fields(what.unspooled) if what.unspooled else None
        if report is None and not _anything_waits(store, options.wait_s):
            return
        from aura_agent.delivery.inline import Service, deliver_now

        api = what.config.api if what.config is not None else ApiSettings()
        token, token_problem = _token(api)
        delivered = deliver_now(
            store if report is None else None,
            Service(base_url=base_url(api, os.environ), token=token, allow_insecure=api.allow_insecure),
            _Warnings(store, token_problem),
            wait_s=options.wait_s,
            only_run=what.only_run,
            unspooled=report,
        )
        if report is not None and delivered:
            what.done()
    except AuraError as problem:
        warn(store, "delivery", str(problem))


def _anything_waits(store: str, wait_s: float) -> bool:
    """Whether there is something to send: it takes no HTTP client to see that a failure sends nothing."""
    outbox = open_outbox(store, "run")
    try:
        # SQLite's own waiting for a lock lets no signal through to us.
        outbox.connection.execute(f"PRAGMA busy_timeout = {int(min(wait_s, 5.0) * 1000)}")
        outbox.take_spool()
        return outbox.waiting_count() > 0
    finally:
        outbox.close()


def _token(api: ApiSettings) -> tuple[Secret | None, str]:
    """Return the token; or None, and why what names it is of no use: a cached ping URL does without."""
    try:
        return find_token(api, os.environ), ""
    except ConfigError as problem:
        return None, str(problem)


class _Warnings:
    """Hears what delivery has to say, and passes on only what a person must mend."""

    def __init__(self, store: str, token_problem: str) -> None:
        self._store = store
        self._token_problem = token_problem

    def note(self, event: str, **facts: object) -> None:
        if event == "ping.parked":
            reason, heartbeat = facts.get("reason"), facts.get("heartbeat")
            if self._token_problem and "token" in str(reason):
                reason = self._token_problem
            warn(self._store, f"parked {heartbeat}", f"ping for {heartbeat} waits: {reason}")
        elif event == "api.failed" and facts.get("status") in (401, 403):
            warn(self._store, "api", f"the ping waits: {facts.get('error')}")
        elif event == "store.failed":
            warn(self._store, "store", str(facts.get("error")))

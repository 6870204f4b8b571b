"""aura-run's own delivery, where no daemon does it: what waits in our store, for a bounded time, after the job."""

import os
import signal

from aura_agent.config.models import ApiSettings, Config
from aura_agent.config.settings import base_url, find_token
from aura_agent.errors import AuraError
from aura_agent.outbox.store import open_outbox
from aura_agent.report.places import DAEMON_LOCK
from aura_agent.report.record import Report
from aura_agent.wrapper.options import Options
from aura_agent.wrapper.warnings import warn

_LEEWAY_S = 0.5


def deliver(options: Options, config: Config | None, store: str, fields: dict[str, str], *, spooled: bool) -> None:
    """Deliver the run in *fields* and, in a store that no daemon serves, what else waits there."""
    try:
        report = None if spooled else Report.from_fields(fields)
        served = os.path.exists(os.path.join(store, DAEMON_LOCK))
        if report is None and not _anything_waits(store):
            return
        from aura_agent.delivery.inline import Service, deliver_now

        # A name server that hangs holds a thread that asyncio waits for at its end: SIGALRM doesn't.
        signal.setitimer(signal.ITIMER_REAL, options.wait_s + _LEEWAY_S)
        api = config.api if config is not None else ApiSettings()
        service = Service(
            base_url=base_url(api, os.environ),
            token=find_token(api, os.environ),
            allow_insecure=api.allow_insecure,
        )
        deliver_now(
            store if spooled else None,
            service,
            _Warnings(store),
            wait_s=options.wait_s,
            only_run=fields["run"] if served else None,
            unspooled=report,
        )
    except AuraError as problem:
        warn(store, "delivery", f"{problem}")


def _anything_waits(store: str) -> bool:
    """Whether there is something to send: it takes no HTTP client to see that a failure sends nothing."""
    outbox = open_outbox(store, "run")
    try:
        outbox.take_spool()
        return outbox.waiting_count() > 0
    finally:
        outbox.close()


class _Warnings:
    """Hears what delivery has to say, and passes on only what a person must mend."""

    def __init__(self, store: str) -> None:
        self._store = store

    def note(self, event: str, **facts: object) -> None:
        if event == "ping.parked":
            reason, heartbeat = facts.get("reason"), facts.get("heartbeat")
            warn(self._store, f"parked {heartbeat}", f"ping for {heartbeat} waits: {reason}")

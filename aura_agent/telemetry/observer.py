"""Where the core's events go: one line in the log and one count each. Satisfies delivery's ``Observer``.

Events of things that fail again and again are logged at the first time, at powers of two, and at the recovery; they
are counted each time.
"""

import time
from collections.abc import Callable

import structlog

from aura_agent.telemetry import counts, events
from aura_agent.telemetry.counts import Counts, Metric
from aura_agent.telemetry.repeats import Repeats

_PING_STATES = ("delivered", "postponed", "parked", "invalidated", "superseded", "expired", "dropped", "quarantined")
_COUNTED: dict[str, tuple[Metric, dict[str, str]]] = {
    **{f"ping.{state}": (counts.PINGS, {"state": state}) for state in _PING_STATES},
    events.RUN_FINISHED: (counts.RUNS, {}),
    events.RUN_LOST: (counts.RUNS, {"outcome": "lost"}),
    events.WATCH_PINGED: (counts.PINGS, {"state": "delivered"}),
    events.WATCH_PING_FAILED: (counts.PINGS, {"state": "failed"}),
    events.API_FAILED: (counts.API_FAILURES, {}),
    events.STORE_FAILED: (counts.STORE_FAILURES, {}),
    events.REPORT_REFUSED: (counts.REFUSED_REPORTS, {}),
    events.FIRE_TIME_SKIPPED: (counts.SKIPPED_FIRE_TIMES, {}),
    events.HOOK_FAILED: (counts.HOOK_FAILURES, {}),
}
# What fails repeatedly, which fact tells one such failure from another, and what ends the row.
_REPEATING = {
    events.PING_POSTPONED: "heartbeat",
    events.PING_PARKED: "heartbeat",
    events.API_FAILED: "",
    events.STORE_FAILED: "",
    events.REPORT_REFUSED: "user",
    events.HOOK_FAILED: "job",
    events.WATCH_PING_FAILED: "job",
}
_ENDS = {
    events.PING_DELIVERED: (events.PING_POSTPONED, events.PING_PARKED),
    events.API_RECOVERED: (events.API_FAILED,),
    events.HEARTBEAT_RESOLVED: (events.API_FAILED,),
    events.WATCH_PING_RECOVERED: (events.WATCH_PING_FAILED,),
    events.STORE_RECOVERED: (events.STORE_FAILED,),
    events.HOOK_CALLED: (events.HOOK_FAILED,),
}


class LoggingObserver:
    """Logs and counts what it is told; all of it from one thread.

    *job_of* returns the name under which a job's ping to a heartbeat counts.
    """

    def __init__(
        self,
        counted: Counts,
        monotonic: Callable[[], float] = time.monotonic,
        job_of: Callable[[str, str], str] = lambda job, _: job,
    ) -> None:
        self._monotonic = monotonic
        self._job_of = job_of
        self._counts = counted
        self._repeats = Repeats()
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

    def note(self, event: str, **facts: object) -> None:
        """Take note of *event*; None among *facts* says nothing and is left out."""
        told = {name: fact for name, fact in facts.items() if fact is not None}
        if event.startswith("ping.") and "job" in told:
            told["job"] = self._job_of(str(told["job"]), str(told.get("heartbeat", "")))
        if event in _COUNTED:
            metric, fixed = _COUNTED[event]
            labels = {name: str(told[name]) for name in metric.labels if name in told}
            self._counts.add(metric, **{**labels, **fixed})
        if event in _REPEATING:
            times = self._repeats.failed(_key(event, told), self._monotonic())
            if times == 0:
                return
            if times > 1:
                told["times"] = times
        after = sum(self._repeats.recovered(_key(failure, told)) for failure in _ENDS.get(event, ()))
        if after:
            told["after_failures"] = after
        getattr(self._log, _level(event, told))(event, **told)


def _key(event: str, facts: dict[str, object]) -> str:
    return f"{event} {facts.get(_REPEATING[event], '')}"


def _level(event: str, facts: dict[str, object]) -> str:
    if event == events.RUN_FINISHED and facts.get("outcome") not in {"succeeded", "skipped"}:
        return "warning"
    if event == events.WATCH_CHANGED and facts.get("healthy") is False:
        return "warning"
    return events.CATALOGUE.get(event, ("info", ""))[0]

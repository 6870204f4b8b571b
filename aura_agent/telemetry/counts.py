"""What is counted, with nothing but dicts: the core counts whether or not anybody asks for metrics.

Labels come from the config and from fixed words: job, outcome, state. A job's name may also come in a report from
elsewhere, so the number of label sets per metric is bounded; beyond it they count under ``other``.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MAX_LABEL_SETS = 2000
OTHER = "other"


@dataclass(frozen=True, slots=True, eq=False)  # each is one constant, found by its identity
class Metric:
    """What a metric is called, whether it may fall, what it says, which labels it has."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()


PINGS = Metric("aura_agent_pings", "counter", "Pings by what became of them.", ("job", "state"))
RUNS = Metric("aura_agent_runs", "counter", "Runs by outcome.", ("job", "outcome"))
API_FAILURES = Metric("aura_agent_api_failures", "counter", "Calls of the Aura API that failed.")
API_DEGRADED = Metric("aura_agent_api_degraded", "gauge", "1 while we do without the Aura API.", ("kind",))
STORE_FAILURES = Metric("aura_agent_store_failures", "counter", "Times that the outbox could not be used.")
REFUSED_REPORTS = Metric("aura_agent_refused_reports", "counter", "Reports by users who may not report.")
SKIPPED_FIRE_TIMES = Metric("aura_agent_skipped_fire_times", "counter", "Fire times without a run.", ("job",))
HOOK_FAILURES = Metric("aura_agent_hook_failures", "counter", "Hooks that failed.", ("job",))
OUTBOX_ENTRIES = Metric("aura_agent_outbox_entries", "gauge", "Entries of the outbox by state.", ("state",))
OLDEST_WAITING = Metric("aura_agent_oldest_waiting_seconds", "gauge", "Age of the oldest ping that waits.")
RUNNING = Metric("aura_agent_running_jobs", "gauge", "Runs that are going now.", ("job",))
LAST_SUCCESS = Metric("aura_agent_last_success_timestamp_seconds", "gauge", "End of the last success.", ("job",))
CONFIG_PROBLEMS = Metric("aura_agent_config_problems", "gauge", "Problems of the config that was refused last.")
LOG_LINES_DROPPED = Metric("aura_agent_log_lines_dropped", "counter", "Log lines that nothing took.")

METRICS = (
    PINGS,
    RUNS,
    API_FAILURES,
    API_DEGRADED,
    STORE_FAILURES,
    REFUSED_REPORTS,
    SKIPPED_FIRE_TIMES,
    HOOK_FAILURES,
    OUTBOX_ENTRIES,
    OLDEST_WAITING,
    RUNNING,
    LAST_SUCCESS,
    CONFIG_PROBLEMS,
    LOG_LINES_DROPPED,
)

Values = dict[tuple[str, ...], float]


@dataclass(slots=True)
class Counts:
    """The numbers of one process; any thread may count."""

    _values: dict[Metric, Values] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, metric: Metric, amount: float = 1.0, /, **labels: str) -> None:
        """Let a counter or gauge grow by *amount*."""
        with self._lock:
            values, key = self._place(metric, labels)
            values[key] = values.get(key, 0.0) + amount

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Say what a gauge stands at."""
        with self._lock:
            values, key = self._place(metric, labels)
            values[key] = value

    def replace(self, metric: Metric, values: Mapping[tuple[str, ...], float]) -> None:
        """Say all that a gauge stands at; label sets that aren't in *values* are gone."""
        with self._lock:
            self._values[metric] = dict(list(values.items())[:MAX_LABEL_SETS])

    def value(self, metric: Metric, /, **labels: str) -> float:
        """Return one number, 0 where nothing was counted."""
        with self._lock:
            return self._values.get(metric, {}).get(_key(metric, labels), 0.0)

    def snapshot(self) -> dict[Metric, Values]:
        """Return a copy of all numbers, taken at one moment."""
        with self._lock:
            return {metric: dict(values) for metric, values in self._values.items()}

    def _place(self, metric: Metric, labels: Mapping[str, str]) -> tuple[Values, tuple[str, ...]]:
        values, key = self._values.setdefault(metric, {}), _key(metric, labels)
        if key not in values and len(values) >= MAX_LABEL_SETS and key:
            key = (OTHER, *key[1:])
        return values, key


def _key(metric: Metric, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels in the metric's order; one that is missing counts as empty."""
    return tuple([labels.get(name, "") for name in metric.labels])

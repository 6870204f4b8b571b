"""Repeats, counts, the observer that feeds both, and the metrics made of them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aura_agent.telemetry import counts, events
from aura_agent.telemetry.counts import MAX_LABEL_SETS, METRICS, Counts
from aura_agent.telemetry.metrics import build_registry, exposition
from aura_agent.telemetry.repeats import MAX_KEYS, Repeats

PACKAGE = Path(counts.__file__).parents[1]


def test_failures_are_told_at_powers_of_two_and_at_recovery() -> None:
    """Of a thousand failures ten are told, and the recovery says how many there were."""
    repeats = Repeats()

    told = [count for count in (repeats.failed("api", float(second)) for second in range(1000)) if count]

    assert told == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert repeats.recovered("api") == 1000
    assert repeats.recovered("api") == 0
    assert repeats.failed("api", 1001.0) == 1


def test_failure_after_a_long_quiet_is_news() -> None:
    """A failure that comes back after half a day is told, though nobody noticed the recovery."""
    repeats = Repeats()
    told = [repeats.failed("api", at_s) for at_s in (0.0, 1.0, 2.0, 50_000.0, 50_001.0, 50_002.0)]

    assert told == [1, 2, 0, 1, 2, 0]


def test_failures_of_different_things_are_told_apart() -> None:
    """Each key has its own row, and the number of keys is bounded."""
    repeats = Repeats()
    assert all(repeats.failed(f"key {number}", 0.0) == 1 for number in range(MAX_KEYS + 5))

    assert repeats.recovered("key 0") == 0
    assert repeats.recovered(f"key {MAX_KEYS}") == 1


def scrape(counted: Counts) -> dict[tuple[str, tuple[str, ...]], float]:
    text = exposition(build_registry(counted)).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_come_out_as_metrics() -> None:
    """What the core counted is what a scrape shows, under names that Prometheus' own parser reads."""
    counted = Counts()
    counted.add(counts.PINGS, job="backup", state="delivered")
    counted.add(counts.PINGS, job="backup", state="delivered")
    counted.add(counts.API_FAILURES, 3)
    counted.set(counts.OLDEST_WAITING, 12.5)
    counted.replace(counts.OUTBOX_ENTRIES, {("waiting",): 2, ("parked",): 1})
    counted.replace(counts.OUTBOX_ENTRIES, {("waiting",): 1})

    shown = scrape(counted)

    assert shown["aura_agent_pings_total", ("backup", "delivered")] == 2
    assert shown["aura_agent_api_failures_total", ()] == 3
    assert shown["aura_agent_store_failures_total", ()] == 0
    assert shown["aura_agent_oldest_waiting_seconds", ()] == 12.5
    assert shown["aura_agent_outbox_entries", ("waiting",)] == 1
    assert ("aura_agent_outbox_entries", ("parked",)) not in shown


def test_gauges_are_brought_up_to_date_at_each_scrape() -> None:
    """The refresh runs before the numbers are read."""
    counted, scrapes = Counts(), []

    def refresh(into: Counts) -> None:
        scrapes.append(1)
        into.set(counts.OLDEST_WAITING, float(len(scrapes)))

    registry = build_registry(counted, refresh)

    assert scrapes == []
    assert b"aura_agent_oldest_waiting_seconds 1.0" in exposition(registry)
    assert b"aura_agent_oldest_waiting_seconds 2.0" in exposition(registry)


def test_two_registries_live_side_by_side() -> None:
    """Nothing is global: two agents in one process don't collide."""
    first, second = Counts(), Counts()
    first.add(counts.STORE_FAILURES)

    assert scrape(first)["aura_agent_store_failures_total", ()] == 1
    assert scrape(second)["aura_agent_store_failures_total", ()] == 0


def test_labels_are_bounded() -> None:
    """Reports with ever new job names count, but don't grow the memory or the page without end."""
    counted = Counts()
    for number in range(MAX_LABEL_SETS + 50):
        counted.add(counts.PINGS, job=f"job {number}", state="delivered")

    assert counted.value(counts.PINGS, job="other", state="delivered") == 50
    assert len(counted.snapshot()[counts.PINGS]) == MAX_LABEL_SETS + 1


def test_metrics_have_distinct_names_and_few_labels() -> None:
    """Labels are only those that the config and fixed words fill."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert {label for metric in METRICS for label in metric.labels} <= {"job", "outcome", "state", "kind"}


OBSERVED = """
import json
from aura_agent.telemetry import counts
from aura_agent.telemetry.counts import Counts
from aura_agent.telemetry.logging import configure_logging, open_stderr
from aura_agent.telemetry.observer import LoggingObserver
from aura_agent.telemetry.redact import Redactor
writer = open_stderr()
configure_logging(Redactor(), writer)
counted = Counts()
observer = LoggingObserver(counted)
for _ in range(5):
    observer.note("ping.postponed", heartbeat="nightly", job="backup", reason="HTTP 503")
observer.note("ping.postponed", heartbeat="other", job="b", reason=None)
observer.note("ping.delivered", heartbeat="nightly", job="backup", tries=6)
observer.note("run.finished", job="backup", outcome="failed")
observer.note("never.heard_of", x=1)
print(json.dumps([
    counted.value(counts.PINGS, job="backup", state="postponed"),
    counted.value(counts.PINGS, job="backup", state="delivered"),
    counted.value(counts.RUNS, job="backup", outcome="failed"),
]))
writer.flush(30)
"""


def test_observer_counts_everything_and_logs_what_is_worth_it() -> None:
    """Repeated failures are counted each time, logged at powers of two, and the success says how many there were."""
    child = subprocess.run([sys.executable, "-c", OBSERVED], capture_output=True, text=True, timeout=60, check=True)

    logged = [json.loads(line) for line in child.stderr.splitlines()]
    told = [(line["event"], line["level"], line.get("times"), line.get("after_failures")) for line in logged]
    assert told == [
        ("ping.postponed", "info", None, None),
        ("ping.postponed", "info", 2, None),
        ("ping.postponed", "info", 4, None),
        ("ping.postponed", "info", None, None),
        ("ping.delivered", "info", None, 5),
        ("run.finished", "warning", None, None),
        ("never.heard_of", "info", None, None),
    ]
    assert "reason" not in logged[3]
    assert json.loads(child.stdout) == [5, 1, 1]


@pytest.mark.parametrize("module", ["counts", "observer", "logging", "redact", "events"])
def test_prometheus_is_not_imported_for_counting(module: str) -> None:
    """Without a status page nobody pays for the Prometheus client."""
    script = f"import sys, aura_agent.telemetry.{module}; print('prometheus_client' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert child.stdout == "False\n"


def noted_events() -> set[str]:
    """Return the event names that the package passes to ``note`` as literals."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "note"
                and node.args
            ):
                first = node.args[0]
                choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                found |= {choice.value for choice in choices if isinstance(choice, ast.Constant)}
    return {name for name in found if isinstance(name, str)}


def test_every_event_is_in_the_catalogue() -> None:
    """What the package notes has a level and a meaning, and every constant is catalogued."""
    constants = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}

    assert constants == set(events.CATALOGUE)
    assert noted_events() <= constants
    assert all("." in name and name == name.lower() for name in constants)

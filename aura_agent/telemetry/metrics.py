"""The counts as Prometheus metrics. Imported only when somebody asks for them: the client costs 60 ms.

A collector reads the counts at each scrape, in a registry of its own: nothing is registered at import, nothing global.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from aura_agent import __version__
from aura_agent.telemetry.counts import METRICS, Counts

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def build_registry(counts: Counts, refresh: Callable[[Counts], None] | None = None) -> CollectorRegistry:
    """Return a registry that shows *counts*; *refresh* brings the gauges up to date before each scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CountsCollector(counts, refresh))
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """Return what ``/metrics`` answers, in the text format 0.0.4 (CONTENT_TYPE)."""
    return generate_latest(registry)


class _CountsCollector(Collector):
    """Metrics without labels show as 0 from the start, so that an alert on them has something to look at."""

    def __init__(self, counts: Counts, refresh: Callable[[Counts], None] | None) -> None:
        self._counts, self._refresh = counts, refresh

    def describe(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        if self._refresh is not None:
            self._refresh(self._counts)
        snapshot = self._counts.snapshot()
        build = GaugeMetricFamily("aura_agent_build_info", "Version of aura-agent.", labels=("version",))
        build.add_metric((__version__,), 1.0)
        yield build
        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.meaning, labels=metric.labels)
            values = snapshot.get(metric) or ({} if metric.labels else {(): 0.0})
            for labels, value in sorted(values.items()):
                family.add_metric(labels, value)
            yield family

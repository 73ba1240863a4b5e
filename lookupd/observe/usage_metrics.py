"""What the daemon tells of its ledger of usage, in Prometheus' text format; read on scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.usage import Usages


class UsageMetrics(Collector):
    """Of one ledger. What was asked is told by client with the queries."""

    def __init__(self, usages: Usages) -> None:
        self._usages = usages

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        usages = self._usages
        yield GaugeMetricFamily(
            "lookupd_usage_unsaved_queries", "Queries noted, and not yet in the ledger of usage.", usages.unsaved
        )
        saves = CounterMetricFamily("lookupd_usage_saves", "Savings of what was asked.", labels=["result"])
        for result, count in usages.saves.items():
            saves.add_metric([result], count)
        yield saves
        yield CounterMetricFamily(
            "lookupd_usage_lost_queries", "Queries that will not be in the ledger of usage.", usages.lost
        )

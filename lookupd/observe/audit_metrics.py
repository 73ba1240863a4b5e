"""What the daemon tells of risk checks and their audit, in Prometheus' text format; read on scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.audit import Audit


class AuditMetrics(Collector):
    """Of one daemon's."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield CounterMetricFamily("lookupd_audit_records", "Risk checks that were audited.", self._audit.records)
        yield CounterMetricFamily(
            "lookupd_audit_failures",
            "Risk checks that were not answered, since the audit could not be written.",
            self._audit.failures,
        )

"""What the daemon tells of lists of numbers as jobs, in Prometheus' text format; read on scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.jobs_runner import Runner


class BatchMetrics(Collector):
    """Of one daemon's jobs; nothing where none are served."""

    def __init__(self, runner: Runner | None) -> None:
        self._runner = runner

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        runner = self._runner
        if runner is None:
            return
        jobs = GaugeMetricFamily("lookupd_batch_jobs", "Lists of numbers as jobs, by state.", labels=["state"])
        for state, count in runner.states.items():
            jobs.add_metric([state], count)
        yield jobs
        ended = CounterMetricFamily(
            "lookupd_batch_jobs_ended",
            "Jobs that came to an end, by how; a failed one by its cause.",
            labels=["result"],
        )
        for result, count in runner.ended.items():
            ended.add_metric([result], count)
        yield ended
        yield CounterMetricFamily("lookupd_batch_rows", "Rows of lists that were answered.", runner.rows)
        yield GaugeMetricFamily(
            "lookupd_batch_bytes", "Of lists that wait or are worked on, and of results that are kept.", runner.bytes
        )
        yield GaugeMetricFamily(
            "lookupd_batch_usable", "1 if the folder of batches can be used.", float(runner.is_usable)
        )

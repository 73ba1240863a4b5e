"""Every metric, in Prometheus' text format. Base units, closed label sets; values are read on scrape."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd import __version__
from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.model import DROP_REASONS, REFUSE_REASONS, Outcome
from lookupd.observe.counters import ConnectionCounters, QueryCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """Collects from the parts that are told to it."""

    def __init__(self, engine: Engine, engine_name: str) -> None:
        self._engine = engine
        self._engine_name = engine_name
        self._queries: dict[tuple[str, str], QueryCounters] = {}
        self._connections: dict[str, ConnectionCounters] = {}
        self.ready = False
        self.reloads = {"applied": 0, "rejected": 0}
        self.http_refused = 0
        self.http_malformed = 0
        self.started_at = time.time()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def queries(self, dialect: str, transport: str) -> QueryCounters:
        """The counters of a dialect over a transport; the same ones each time."""
        return self._queries.setdefault((dialect, transport), QueryCounters(dialect, transport))

    def connections(self, dialect: str) -> ConnectionCounters:
        """The counters of a dialect's TCP connections; the same ones each time."""
        return self._connections.setdefault(dialect, ConnectionCounters(dialect))

    def all_queries(self) -> list[QueryCounters]:
        """Of every dialect and transport."""
        return list(self._queries.values())

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield InfoMetricFamily("lookupd_build", "Version of the daemon.", {"version": __version__})
        yield InfoMetricFamily("lookupd_engine", "Engine that serves UDP.", {"engine": self._engine_name})
        yield GaugeMetricFamily("lookupd_ready", "1 if queries are answered from data.", float(self.ready))
        yield from self._collect_queries()
        yield from self._collect_connections()
        yield from self._collect_store()
        reloads = CounterMetricFamily("lookupd_config_reloads", "Configuration reloads.", labels=["result"])
        for result, count in self.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        yield CounterMetricFamily(
            "lookupd_http_refused", "HTTP requests from addresses on no client's list.", self.http_refused
        )
        yield CounterMetricFamily("lookupd_http_malformed", "HTTP requests that are none.", self.http_malformed)

    def _collect_queries(self) -> Iterator[Metric]:
        place = ["dialect", "transport"]
        received = CounterMetricFamily("lookupd_queries_received", "Queries that arrived.", labels=place)
        answered = CounterMetricFamily("lookupd_queries_answered", "Answers sent.", labels=[*place, "outcome"])
        refused = CounterMetricFamily("lookupd_queries_refused", "Queries refused.", labels=[*place, "reason"])
        dropped = CounterMetricFamily("lookupd_queries_dropped", "Queries not answered.", labels=[*place, "reason"])
        odd = CounterMetricFamily("lookupd_queries_odd", "Queries answered in spite of a fault.", labels=place)
        for counters in self._queries.values():
            labels = [counters.dialect, counters.transport]
            received.add_metric(labels, counters.received)
            odd.add_metric(labels, counters.odd)
            for outcome in Outcome:
                answered.add_metric([*labels, outcome.label], counters.answered[outcome])
            for at, reason in enumerate(REFUSE_REASONS):
                refused.add_metric([*labels, reason], counters.refused[at])
            for at, reason in enumerate(DROP_REASONS):
                dropped.add_metric([*labels, reason], counters.dropped[at])
        yield from (received, answered, refused, dropped, odd)

    def _collect_connections(self) -> Iterator[Metric]:
        opened = CounterMetricFamily("lookupd_connections_opened", "TCP connections taken.", labels=["dialect"])
        closed = CounterMetricFamily(
            "lookupd_connections_closed", "TCP connections ended.", labels=["dialect", "reason"]
        )
        rejected = CounterMetricFamily(
            "lookupd_connections_rejected", "TCP connections not taken.", labels=["dialect", "reason"]
        )
        for counters in self._connections.values():
            opened.add_metric([counters.dialect], counters.opened)
            for reason, count in counters.closed.items():
                closed.add_metric([counters.dialect, reason], count)
            for reason, count in counters.rejected.items():
                rejected.add_metric([counters.dialect, reason], count)
        yield from (opened, closed, rejected)

    def _collect_store(self) -> Iterator[Metric]:
        reader = self._engine.reader
        damaged = len(reader.damaged) if reader else 0
        yield GaugeMetricFamily("lookupd_store_damaged_blocks", "Blocks found damaged and not served.", damaged)
        yield CounterMetricFamily(
            "lookupd_store_unreadable_entries",
            "Queries that met a damaged block.",
            self._engine.unreadable_total,
        )
        if reader is None:
            return
        try:
            sizes = reader.sizes()
        except StoreError:
            return  # `lookupd_ready` is 0 and the log says why
        state = reader.state
        for name, help_text, value in (
            ("serial", "Serial of the newest commit seen.", self._engine.serial),
            ("ported_numbers", "Numbers with a route of their own.", state.ported),
            ("blocks", "Thousand-blocks in the store.", state.blocks),
            ("bytes", "Size of the store's file in use.", sizes["file"]),
            ("readers", "Reader slots in use.", sizes["readers"]),
        ):
            yield GaugeMetricFamily(f"lookupd_store_{name}", help_text, value)
        if self._engine.age_seconds is not None:
            yield GaugeMetricFamily(
                "lookupd_data_age_seconds",
                "Since the last feed position was confirmed.",
                self._engine.age_seconds,
            )
        sequence = GaugeMetricFamily("lookupd_feed_sequence", "Feed position applied.", labels=["feed"])
        confirmed = GaugeMetricFamily(
            "lookupd_feed_confirmed_timestamp_seconds",
            "When the feed position was confirmed.",
            labels=["feed"],
        )
        for feed, position in state.feeds.items():
            sequence.add_metric([feed], position.sequence)
            confirmed.add_metric([feed], position.confirmed_at)
        yield from (sequence, confirmed)

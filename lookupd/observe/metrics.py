"""Every metric, in Prometheus' text format. Base units, closed label sets; values are read on scrape."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from operator import add
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lookupd import __version__
from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.model import DROP_REASONS, REFUSE_REASONS, Outcome
from lookupd.observe.counters import (
    ALL_DIALECTS,
    USAGE_RESULTS,
    ClientUsage,
    ConnectionCounters,
    QueryCounters,
    Usage,
)
from lookupd.observe.http_counts import HttpCounts

RETIRED_AFTER_SECONDS = 60.0
"""After which nobody counts under a clients list that is no longer in force: a worker takes over the next one between
two batches, within a tenth of a second."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class NativeCounts(Protocol):
    """What the native engine counted for one listener; see `_native.Counts`."""

    received: int
    odd: int
    other: int
    unreadable: int
    answered: list[int]
    refused: list[int]
    dropped: list[int]
    latency: list[list[int]]
    latency_ns: list[int]


class NativeSource(Protocol):
    """A listener of the native engine; goes on telling its counts when it is closed."""

    def counts(self) -> NativeCounts:
        """So far."""
        ...


class NativeService(Protocol):
    """What the native engine's listeners share."""

    def damaged_blocks(self, serial: int) -> list[int]:
        """That look-ups met in the state of this serial."""
        ...


class OwnQuestions(Protocol):
    """What became of the daemon's questions to itself, by dialect and transport; see `canary.Canary`."""

    failures: dict[tuple[str, str], int]
    seconds: dict[tuple[str, str], float]


class _Ended:
    """The sum of native sources that are closed; a source itself."""

    def __init__(self) -> None:
        self.received = self.odd = self.other = self.unreadable = 0
        self.answered: list[int] = []
        self.refused: list[int] = []
        self.dropped: list[int] = []
        self.latency: list[list[int]] = []
        self.latency_ns: list[int] = []

    def counts(self) -> NativeCounts:
        """See NativeSource."""
        return self

    def add(self, more: NativeCounts) -> None:
        """One more is closed."""
        self.received += more.received
        self.odd += more.odd
        self.other += more.other
        self.unreadable += more.unreadable
        self.answered = _sums(self.answered, more.answered)
        self.refused = _sums(self.refused, more.refused)
        self.dropped = _sums(self.dropped, more.dropped)
        self.latency_ns = _sums(self.latency_ns, more.latency_ns)
        known = self.latency or [[] for _ in more.latency]
        self.latency = [_sums(mine, theirs) for mine, theirs in zip(known, more.latency, strict=True)]


def _sums(known: list[int], more: list[int]) -> list[int]:
    return list(map(add, known, more)) if known else list(more)


class _Listed:
    """A clients list's counts, and until when it was in force, of the monotonic clock."""

    def __init__(self, names: list[str], counted: ClientUsage) -> None:
        self.names = names
        self.counted = counted
        self.until = math.inf


def _add_usage(sums: dict[str, list[Usage]], listed: _Listed) -> None:
    for name, by_dialect in zip(listed.names, listed.counted.usage(), strict=True):
        sum_ = sums.setdefault(name, [[0] * len(USAGE_RESULTS) for _ in ALL_DIALECTS])
        for mine, more in zip(sum_, by_dialect, strict=True):
            mine[:] = map(add, mine, more)


class Metrics(Collector):
    """Collects from the parts that are told to it."""

    def __init__(self, engine: Engine, engine_name: str) -> None:
        self._engine = engine
        self.engine_name = engine_name
        self._queries: dict[tuple[str, str], QueryCounters] = {}
        self._native: dict[tuple[str, str], list[NativeSource]] = {}
        self._native_ended: dict[tuple[str, str], _Ended] = {}
        self._native_service: NativeService | None = None
        self._canary: OwnQuestions | None = None
        self._usage: list[_Listed] = []
        self._usage_before: dict[str, list[Usage]] = {}
        self._connections: dict[str, ConnectionCounters] = {}
        self.ready = False
        self.reloads = {"applied": 0, "rejected": 0}
        self.handovers = {"done": 0, "failed": 0}
        self.http = HttpCounts()
        self.started_at = time.time()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, *collectors: Collector) -> None:
        """Tell what other parts know of themselves, too."""
        for collector in collectors:
            self._registry.register(collector)

    def counters(self, dialect: str, transport: str) -> QueryCounters:
        """Where Python counts the queries of a dialect over a transport; the same ones each time."""
        return self._queries.setdefault((dialect, transport), QueryCounters(dialect, transport))

    def add_native(self, dialect: str, transport: str, source: NativeSource) -> None:
        """Where the native engine counts them; all sources of a dialect and transport are added up."""
        self._native.setdefault((dialect, transport), []).append(source)

    def retire_native(self, dialect: str, transport: str, source: NativeSource) -> None:
        """A source that counts nothing more: what it counted stays in the sums, it does not."""
        place = (dialect, transport)
        self._native[place].remove(source)
        ended = self._native_ended.get(place)
        if ended is None:
            ended = self._native_ended[place] = _Ended()
            self._native[place].append(ended)
        ended.add(source.counts())

    def watch_native(self, service: NativeService) -> None:
        """Tell of the blocks that the native engine found damaged, too."""
        self._native_service = service

    def watch_clients(self, names: list[str], counted: ClientUsage) -> None:
        """A clients list comes into force; what was counted under earlier ones stays in the sums."""
        now = time.monotonic()
        if self._usage:
            self._usage[-1].until = now
        while self._usage and now - self._usage[0].until > RETIRED_AFTER_SECONDS:
            _add_usage(self._usage_before, self._usage.pop(0))
        self._usage.append(_Listed(names, counted))

    def watch_canary(self, canary: OwnQuestions) -> None:
        """Tell of the questions that the daemon asks itself."""
        self._canary = canary

    def queries(self, dialect: str, transport: str) -> QueryCounters:
        """What was counted by now, whoever counted it."""
        own = self.counters(dialect, transport)
        sources = self._native.get((dialect, transport))
        if not sources:
            return own
        sum_ = QueryCounters(dialect, transport)
        sum_.add(own.received, own.odd, own.other, own.answered, own.refused, own.dropped)
        for counts in (source.counts() for source in sources):
            sum_.add(counts.received, counts.odd, counts.other, counts.answered, counts.refused, counts.dropped)
        return sum_

    def connections(self, dialect: str) -> ConnectionCounters:
        """The counters of a dialect's TCP connections; the same ones each time."""
        return self._connections.setdefault(dialect, ConnectionCounters(dialect))

    def all_queries(self) -> list[QueryCounters]:
        """Of every dialect and transport."""
        return [self.queries(dialect, transport) for dialect, transport in self._queries]

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield InfoMetricFamily("lookupd_build", "Version of the daemon.", {"version": __version__})
        yield InfoMetricFamily("lookupd_engine", "Engine that serves UDP.", {"engine": self.engine_name})
        yield GaugeMetricFamily("lookupd_ready", "1 if queries are answered from data.", float(self.ready))
        yield from self._collect_queries()
        yield from self._collect_latency()
        yield from self._collect_clients()
        yield from self._collect_connections()
        yield from self._collect_store()
        reloads = CounterMetricFamily("lookupd_config_reloads", "Configuration reloads.", labels=["result"])
        for result, count in self.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        handovers = CounterMetricFamily(
            "lookupd_handovers", "Processes that were to follow this one.", labels=["result"]
        )
        for result, count in self.handovers.items():
            handovers.add_metric([result], count)
        yield handovers
        yield from self._collect_canary()
        yield from self.http.collect("lookupd_http")

    def _collect_queries(self) -> Iterator[Metric]:
        place = ["dialect", "transport"]
        received = CounterMetricFamily("lookupd_queries_received", "Queries that arrived.", labels=place)
        answered = CounterMetricFamily("lookupd_queries_answered", "Answers sent.", labels=[*place, "outcome"])
        refused = CounterMetricFamily("lookupd_queries_refused", "Queries refused.", labels=[*place, "reason"])
        dropped = CounterMetricFamily("lookupd_queries_dropped", "Queries not answered.", labels=[*place, "reason"])
        odd = CounterMetricFamily("lookupd_queries_odd", "Queries answered in spite of a fault.", labels=place)
        other = CounterMetricFamily("lookupd_queries_other", "Messages that ask for no number.", labels=place)
        for counters in self.all_queries():
            labels = [counters.dialect, counters.transport]
            received.add_metric(labels, counters.received)
            odd.add_metric(labels, counters.odd)
            other.add_metric(labels, counters.other)
            for outcome in Outcome:
                answered.add_metric([*labels, outcome.label], counters.answered[outcome])
            for at, reason in enumerate(REFUSE_REASONS):
                refused.add_metric([*labels, reason], counters.refused[at])
            for at, reason in enumerate(DROP_REASONS):
                dropped.add_metric([*labels, reason], counters.dropped[at])
        yield from (received, answered, other, refused, dropped, odd)

    def _collect_canary(self) -> Iterator[Metric]:
        seconds = GaugeMetricFamily(
            "lookupd_canary_seconds",
            "How long the daemon's last question to itself took.",
            labels=["dialect", "transport"],
        )
        failures = CounterMetricFamily(
            "lookupd_canary_failures",
            "Rounds in which a listener did not answer the daemon itself.",
            labels=["dialect", "transport"],
        )
        took, failed = (self._canary.seconds, self._canary.failures) if self._canary else ({}, {})
        for place in sorted(took.keys() | failed.keys()):
            if place in took:
                seconds.add_metric(list(place), took[place])
            failures.add_metric(list(place), failed.get(place, 0))
        yield from (seconds, failures)

    def _collect_latency(self) -> Iterator[Metric]:
        """From a question's arrival at the machine to its answer's departure, where the native engine measures it."""
        reply = HistogramMetricFamily(
            "lookupd_reply_seconds",
            "From a question's arrival to its answer's departure; of UDP in the native engine.",
            labels=["dialect", "transport", "outcome"],
        )
        for (dialect, transport), sources in self._native.items():
            if transport != "udp":
                continue
            found = [source.counts() for source in sources]
            for outcome in (outcome for outcome in Outcome if outcome is not Outcome.REFUSED):
                buckets, below = [], 0
                columns = list(zip(*(counts.latency[outcome] for counts in found), strict=True))
                for at, column in enumerate(columns):
                    below += sum(column)
                    bound = "+Inf" if at == len(columns) - 1 else repr(2**at / 1e6)
                    buckets.append((bound, below))
                seconds = sum(counts.latency_ns[outcome] for counts in found) / 1e9
                reply.add_metric([dialect, transport, outcome.label], buckets, seconds)
        yield reply

    def reply_buckets(self) -> list[int]:
        """Answers that were timed, of all dialects and outcomes, by the histogram's bounds; empty where none are."""
        sums: list[int] = []
        for sources in self._native.values():
            for source in sources:
                for outcome in source.counts().latency:
                    sums = _sums(sums, outcome)
        return sums

    def client_usage(self) -> dict[str, list[Usage]]:
        """By client's name, then by dialect."""
        sums = {name: [list(usage) for usage in by_dialect] for name, by_dialect in self._usage_before.items()}
        for listed in self._usage:
            _add_usage(sums, listed)
        return sums

    def _collect_clients(self) -> Iterator[Metric]:
        queries = CounterMetricFamily(
            "lookupd_client_queries",
            "Queries of a client, by what became of them.",
            labels=["client", "dialect", "result"],
        )
        for name, by_dialect in self.client_usage().items():
            for dialect, usage in zip(ALL_DIALECTS, by_dialect, strict=True):
                for result, count in zip(USAGE_RESULTS, usage, strict=True):
                    queries.add_metric([name, dialect, result], count)
        yield queries

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

    def damaged_blocks(self) -> set[int]:
        """That were met in the newest state seen."""
        reader = self._engine.reader
        if reader is None:
            return set()
        met = self._native_service.damaged_blocks(reader.state.serial) if self._native_service else []
        return reader.damaged.union(met)

    def _collect_store(self) -> Iterator[Metric]:
        reader = self._engine.reader
        yield GaugeMetricFamily(
            "lookupd_store_damaged_blocks", "Blocks found damaged and not served.", len(self.damaged_blocks())
        )
        unreadable = self._engine.unreadable_total
        unreadable += sum(source.counts().unreadable for sources in self._native.values() for source in sources)
        yield CounterMetricFamily("lookupd_store_unreadable_entries", "Queries that met a damaged block.", unreadable)
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

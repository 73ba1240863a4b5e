"""What became of the probe's questions: since it began, for metrics, and by hour in a ledger, for reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

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
from lookupd.clients import Server
from lookupd.ledger import HOUR_SECONDS, Ledger
from lookupd.observe.http_counts import HttpCounts
from lookupd.probe.asker import Result, Sample, Strays
from lookupd.probe.histogram import BEYOND, BOUNDS_NS, bound_of

FILE = "probe.sqlite"
COLUMNS = ("server", "dialect", "ported", "item")
"""Of the ledger. ported: yes, no, or `-` for messages, which are not of a question. item: a Result, `RESULT_ns` for
the sum of its times, `le:BOUND` for a bucket, or one of MESSAGES."""

BUCKET = "le:"
MESSAGES = ("wrong", "late")


class Counts:
    """Of one server's questions, about ported numbers or about others."""

    def __init__(self) -> None:
        self.results: Counter[Result] = Counter()
        self.ns: Counter[Result] = Counter()
        self.buckets: Counter[int] = Counter()

    def add(self, sample: Sample) -> None:
        """One more. What is void is only counted as that."""
        self.results[sample.result] += 1
        if sample.result != "void":
            self.ns[sample.result] += sample.ns
            self.buckets[bound_of(sample.ns)] += 1


class Place:
    """One server, and all that is counted of it."""

    def __init__(self, server: Server, began: float) -> None:
        """began: in Unix seconds."""
        self.server = server
        self.counts = {True: Counts(), False: Counts()}
        self.strays = Strays()
        self.strays_kept = dict.fromkeys(MESSAGES, 0)
        self.last_success = began


class Tally(Collector):
    """Counts into both, and is what /metrics shows."""

    def __init__(self, servers: Iterable[Server], ledger: Ledger | None, wall: Callable[[], float] = time.time) -> None:
        """ledger: None = nothing is kept. wall: the clock that says which hour it is."""
        self.places = [Place(server, wall()) for server in servers]
        self.saves = {"done": 0, "failed": 0}
        self.unkept = 0
        self.http = HttpCounts()
        self._ledger = ledger
        self._wall = wall
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def note(self, place: Place, ported: bool, sample: Sample) -> None:
        """A question is over. ported: whether it was asked as one, if the answer does not tell."""
        kind = ported if sample.ported is None else sample.ported
        place.counts[kind].add(sample)
        if sample.result == "answered":
            place.last_success = self._wall()
        told = "yes" if kind else "no"
        self._keep(place, told, sample.result)
        if sample.result != "void":
            self._keep(place, told, f"{sample.result}_ns", sample.ns)
            self._keep(place, told, f"{BUCKET}{bound_of(sample.ns)}")
        for name in MESSAGES:
            count: int = getattr(place.strays, name)
            self._keep(place, "-", name, count - place.strays_kept[name])
            place.strays_kept[name] = count

    def _keep(self, place: Place, ported: str, item: str, count: int = 1) -> None:
        if self._ledger is not None and count > 0:
            hour = int(self._wall()) // HOUR_SECONDS
            if self._ledger.add(hour, (place.server.url, place.server.dialect, ported, item), count):
                self.unkept += count

    # -- metrics -----------------------------------------------------------------------------------------

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield InfoMetricFamily("lookupd_probe_build", "Version of the probe.", {"version": __version__})
        yield self._collect_seconds()
        yield from self._collect_results()
        yield from self._collect_messages()
        success = GaugeMetricFamily(
            "lookupd_probe_last_success_timestamp_seconds",
            "When the server last answered from data; before the first time, when the probe began.",
            labels=["server", "dialect"],
        )
        for place in self.places:
            success.add_metric([place.server.url, place.server.dialect], place.last_success)
        yield success
        saves = CounterMetricFamily("lookupd_probe_saves", "Savings of what was measured.", labels=["result"])
        for result, count in self.saves.items():
            saves.add_metric([result], count)
        yield saves
        yield CounterMetricFamily(
            "lookupd_probe_unkept", "Counts that no report will have, as too much waited to be saved.", self.unkept
        )
        yield from self.http.collect("lookupd_probe_http")

    def _collect_seconds(self) -> Metric:
        seconds = HistogramMetricFamily(
            "lookupd_probe_seconds",
            "What a dip adds to a call's set-up; a question without an answer, its whole time-out.",
            labels=["server", "dialect", "ported"],
        )
        for labels, counts in self._each():
            below = 0
            buckets = []
            for bound in (*BOUNDS_NS, BEYOND):
                below += counts.buckets[bound]
                buckets.append(("+Inf" if bound == BEYOND else repr(bound / 1e9), below))
            seconds.add_metric(labels, buckets, sum(counts.ns.values()) / 1e9)
        return seconds

    def _collect_results(self) -> Iterator[Metric]:
        families: dict[Result, CounterMetricFamily] = {
            "timeout": _by_kind("lookupd_probe_timeouts", "Questions without an answer in time."),
            "no_data": _by_kind("lookupd_probe_no_data", "Answers that told nothing of the number."),
            "void": _by_kind("lookupd_probe_void", "Questions not counted, as the probe itself was held up."),
        }
        for labels, counts in self._each():
            for result, family in families.items():
                family.add_metric(labels, counts.results[result])
        yield from families.values()

    def _collect_messages(self) -> Iterator[Metric]:
        labels = ["server", "dialect"]
        wrong = CounterMetricFamily(
            "lookupd_probe_wrong", "Messages that were no answer to what was asked.", labels=labels
        )
        late = CounterMetricFamily(
            "lookupd_probe_late", "Answers that came after the time-out, or once more.", labels=labels
        )
        for place in self.places:
            wrong.add_metric([place.server.url, place.server.dialect], place.strays.wrong)
            late.add_metric([place.server.url, place.server.dialect], place.strays.late)
        yield from (wrong, late)

    def _each(self) -> Iterator[tuple[list[str], Counts]]:
        for place in self.places:
            for ported, counts in place.counts.items():
                yield [place.server.url, place.server.dialect, "yes" if ported else "no"], counts


def _by_kind(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=["server", "dialect", "ported"])

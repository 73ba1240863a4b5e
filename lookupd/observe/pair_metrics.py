"""What the daemon tells of its peer, and of standing back, in Prometheus' text format; read on scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.engine import Engine
from lookupd.pair import PairState
from lookupd.pair_watch import PairWatch

_EXACT = (1 << 53) - 1
"""Integers up to it are exact in a double, which is all that a metric can be."""


class PairMetrics(Collector):
    """Of an engine and, with `replica.peer`, of the watch on the peer."""

    def __init__(self, engine: Engine, watch: PairWatch | None) -> None:
        self._engine = engine
        self._watch = watch

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        withdrawn = self._engine.withdrawn is not None
        yield GaugeMetricFamily("lookupd_withdrawn", "1 if this replica stands back for its peer.", float(withdrawn))
        if self._engine.reader is not None:
            yield GaugeMetricFamily(
                "lookupd_store_digest",
                "Lowest 53 bits of the digest: equal to the peer's exactly if the digests are.",
                self._engine.reader.state.digest & _EXACT,
            )
        if self._watch is not None:
            yield from self._collect_peer(self._watch)

    def _collect_peer(self, watch: PairWatch) -> Iterator[Metric]:
        view, peer = watch.view, watch.peer
        yield GaugeMetricFamily("lookupd_peer_up", "1 if the peer answers.", float(watch.up))
        state = GaugeMetricFamily("lookupd_peer_state", "1 for how we stand to the peer.", labels=["state"])
        for name in PairState:
            state.add_metric([name], float(name is view.state))
        yield state
        polls = CounterMetricFamily("lookupd_peer_polls", "Looks at the peer.", labels=["result"])
        for result, count in watch.polls.items():
            polls.add_metric([result], count)
        yield polls
        yield CounterMetricFamily(
            "lookupd_pair_divergences", "Times that the peer was found to differ.", watch.pair.divergences
        )
        yield GaugeMetricFamily("lookupd_peer_lag_files", "Files that we lack; negative: the peer.", view.lag_files)
        yield GaugeMetricFamily(
            "lookupd_peer_lag_seconds", "By how much our files are older; negative: the peer's.", view.lag_seconds
        )
        if peer is not None and watch.up:
            yield GaugeMetricFamily("lookupd_peer_serial", "Serial of the peer's store.", peer.serial)
            yield GaugeMetricFamily(
                "lookupd_peer_digest", "Lowest 53 bits of the peer's digest.", int(peer.digest, 16) & _EXACT
            )

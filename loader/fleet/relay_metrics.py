"""Metrics of the relay, in Prometheus' text format: the engine, the feeds on their way, the replicas behind them.

Told what happened; what depends on the moment is computed on scrape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from loader.fleet.connect import Link
from loader.fleet.followers import Followers
from loader.key_metrics import collect_keys
from loader.trust import PublicKey
from lookupd import __version__
from lookupd.limits import FLEET_SEQUENCES_KEPT
from lookupd.model import UnixMillis
from lookupd.observe.disks import collect_disks
from lookupd.observe.http_counts import HttpCounts

TROUBLES = ("gap", "rejected")
"""Why a feed does not move; the closed set of a metric's label."""

ENGINE_CHANGES = ("wiped", "rolled_back")
"""How an engine can be behind what it had; the closed set of a metric's label."""


class RelayFeedMetrics:
    """Of one feed. sequence: in the engine; source_sequence: the newest delta at hand."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.sequence = 0
        self.source_sequence = 0
        self.published = 0
        self.duplicates = 0
        self.conflicts = 0
        self.foreign = 0
        self.rejected = 0
        self.errors = 0
        self.engine_changes = dict.fromkeys(ENGINE_CHANGES, 0)
        self.blocked: str | None = None
        self.seen_at: UnixMillis | None = None
        self.published_at: OrderedDict[int, UnixMillis] = OrderedDict()

    def note_published(self, sequence: int, at: UnixMillis) -> None:
        """When the engine took it."""
        self.published_at[sequence] = at
        while len(self.published_at) > FLEET_SEQUENCES_KEPT:
            self.published_at.popitem(last=False)


class RelayMetrics(Collector):
    """Of one `lookupd-loader relay`."""

    def __init__(self, link: Link, followers: Followers) -> None:
        self.feeds: dict[str, RelayFeedMetrics] = {}
        self.keys: dict[str, tuple[PublicKey, ...]] = {}
        self.places: dict[str, Path] = {}
        self.http = HttpCounts()
        self._link, self._followers = link, followers
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def feed(self, name: str) -> RelayFeedMetrics:
        """The metrics of a feed; the same ones each time."""
        return self.feeds.setdefault(name, RelayFeedMetrics(name))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        yield InfoMetricFamily("lookupd_relay_build", "Version of the relay.", {"version": __version__})
        yield GaugeMetricFamily("lookupd_relay_connected", "1 if the engine can be used.", float(self._link.connected))
        yield CounterMetricFamily("lookupd_relay_connections", "Connections made to the engine.", self._link.connects)
        yield CounterMetricFamily(
            "lookupd_relay_connection_failures", "Tries to connect that failed.", self._link.failures
        )
        yield from self._collect_feeds()
        yield from self._collect_replicas()
        yield from collect_keys(self.keys)
        yield from collect_disks(self.places)
        yield from self.http.collect("lookupd_relay_http")

    def _collect_feeds(self) -> Iterator[Metric]:
        for name, help_text, key in (
            ("lookupd_relay_published", "Deltas that the engine took from us.", "published"),
            ("lookupd_relay_duplicates", "Deltas that the engine had already.", "duplicates"),
            ("lookupd_relay_conflicts", "Times that another relay was faster.", "conflicts"),
            ("lookupd_relay_foreign_messages", "Messages that no relay has sent.", "foreign"),
            ("lookupd_relay_rejected_files", "Files that were not published.", "rejected"),
            ("lookupd_relay_errors", "Rounds that a source or the engine ended.", "errors"),
        ):
            counter = CounterMetricFamily(name, help_text, labels=["feed"])
            for feed in self.feeds.values():
                counter.add_metric([feed.feed], getattr(feed, key))
            yield counter
        changes = CounterMetricFamily(
            "lookupd_relay_engine_changes", "Times that the engine was behind what it had.", labels=["feed", "reason"]
        )
        sequence = GaugeMetricFamily("lookupd_relay_sequence", "The last delta in the engine.", labels=["feed"])
        newest = GaugeMetricFamily("lookupd_relay_source_sequence", "The newest delta at hand.", labels=["feed"])
        seen = GaugeMetricFamily(
            "lookupd_relay_source_seen_timestamp_seconds", "When the source answered last.", labels=["feed"]
        )
        blocked = GaugeMetricFamily(
            "lookupd_relay_blocked", "1 if the feed does not move, by reason.", labels=["feed", "reason"]
        )
        for feed in self.feeds.values():
            sequence.add_metric([feed.feed], feed.sequence)
            newest.add_metric([feed.feed], feed.source_sequence)
            if feed.seen_at is not None:
                seen.add_metric([feed.feed], feed.seen_at / 1000)
            for reason, times in feed.engine_changes.items():
                changes.add_metric([feed.feed, reason], times)
            for reason in TROUBLES:
                blocked.add_metric([feed.feed, reason], float(feed.blocked == reason))
        yield from (changes, sequence, newest, seen, blocked)

    def _collect_replicas(self) -> Iterator[Metric]:
        by_replica = ["feed", "replica"]
        sequence = GaugeMetricFamily(
            "lookupd_fleet_replica_sequence", "The last delta that callers of a replica see.", labels=by_replica
        )
        visible = GaugeMetricFamily(
            "lookupd_fleet_visible_seconds",
            "From the engine taking a delta to callers of a replica seeing it; of its last one.",
            labels=by_replica,
        )
        count = GaugeMetricFamily("lookupd_fleet_replicas", "Replicas heard of.", labels=["feed"])
        behind = GaugeMetricFamily(
            "lookupd_fleet_behind", "Deltas that the replica furthest back has to come.", labels=["feed"]
        )
        differ = GaugeMetricFamily(
            "lookupd_fleet_digests_differ", "Replicas whose digest is not the most common one.", labels=["feed"]
        )
        for feed in self.feeds.values():
            words = self._followers.of(feed.feed)
            count.add_metric([feed.feed], len(words))
            behind.add_metric([feed.feed], max((max(feed.sequence - w.sequence, 0) for w in words), default=0))
            differ.add_metric([feed.feed], len(self._followers.differing(feed.feed)))
            for word in words:
                sequence.add_metric([feed.feed, word.replica], word.sequence)
                published = feed.published_at.get(word.sequence)
                if published is not None and word.visible_at is not None:
                    visible.add_metric([feed.feed, word.replica], max(word.visible_at - published, 0) / 1000)
        yield from (sequence, visible, count, behind, differ)
        yield CounterMetricFamily(
            "lookupd_fleet_malformed", "Words of replicas that cannot be read.", self._followers.malformed
        )

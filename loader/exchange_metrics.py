"""Metrics of the exchange, in Prometheus' text format: clocks of the notices, the feeds, the agreed second.

Told what happened; values that depend on the moment (margins, ages) are computed on scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from loader.fleet.stream_metrics import StreamMetrics, collect_streams
from loader.formats import Step
from loader.key_metrics import collect_keys
from loader.sequence import Unapplied, clock_start, limit_seconds
from loader.trust import PublicKey
from lookupd import __version__
from lookupd.model import FeedPosition, JournalKind, Notice, NoticeKind, UnixMillis, UnixSeconds
from lookupd.observe.disks import collect_disks
from lookupd.observe.http_counts import HttpCounts
from lookupd.settings import Limits
from lookupd.units import format_millis, format_time

TROUBLES = ("gap", "unfinished", "rejected", "guard")
"""Why a feed does not move; the closed set of a metric's label."""

ERRORS = ("source", "store", "acknowledge", *TROUBLES)
"""What went wrong and was tried again; the closed set of a metric's label."""

VISIBLE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 21_600, 43_200)
LATENESS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 60, 3600)


class Histogram:
    """Counts by upper bound, in seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a value. Below zero counts as zero: a sender's clock may be ahead of ours."""
        seconds = max(seconds, 0.0)
        at = next((i for i, bound in enumerate(self._bounds) if seconds <= bound), len(self._bounds))
        self._counts[at] += times
        self._sum += seconds * times

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """As Prometheus wants it: running totals."""
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((f"{bound:g}" if bound != float("inf") else "+Inf", total))
        family.add_metric(labels, buckets, self._sum)


class FeedMetrics:
    """What is known of one feed."""

    def __init__(self, feed: str, limits: Limits) -> None:
        self.feed = feed
        self.limits = limits
        self.unapplied: dict[str, Unapplied] = {}
        self.visible = {kind.value: Histogram(VISIBLE_BUCKETS) for kind in NoticeKind}
        self.breaches = {kind.value: 0 for kind in NoticeKind}
        self.errors = dict.fromkeys(ERRORS, 0)
        self.blocked: str | None = None
        self.wanted = False
        self.sequence = 0
        self.seen_at: UnixMillis | None = None

    def position(self, sequence: int) -> None:
        """How far the feed is applied."""
        self.sequence = sequence

    def source_seen(self, at: UnixMillis) -> None:
        """The source answered."""
        self.seen_at = at

    def knows(self, step_name: str) -> bool:
        """Whether the step's notices are counted as not applied yet."""
        return step_name in self.unapplied

    def known(self, step_name: str, notices: Unapplied) -> None:
        """A step arrived, and waits."""
        self.unapplied[step_name] = notices

    def unknown(self, step_name: str) -> None:
        """It waits no more."""
        self.unapplied.pop(step_name, None)

    def known_up_to(self, sequence: int, steps: Iterable[Step]) -> None:
        """A snapshot contains every step up to this one."""
        for step in steps:
            if step.sequence <= sequence:
                self.unknown(step.name)

    def applied(self, notices: Iterable[Notice], visible_at: UnixSeconds) -> None:
        """Notices of a delta are visible now; those that wait for their moment are counted when they fire."""
        starts = Counter(
            (notice.kind.value, clock_start(notice.notified_at, notice.effective_at))
            for notice in notices
            if notice.effective_at is None or notice.effective_at <= visible_at
        )
        for (kind, start), times in starts.items():
            self.note(kind, visible_at - start, times)

    def note(self, kind: str, seconds: float, times: int = 1) -> None:
        """So many notices took so long from the start of their clock to being visible."""
        self.visible[kind].observe(seconds, times)
        if seconds > limit_seconds(NoticeKind(kind), self.limits):
            self.breaches[kind] += times

    def error(self, kind: str) -> None:
        """One of ERRORS."""
        self.errors[kind] += 1

    def trouble(self, kind: str | None) -> None:
        """Why the feed does not move; None = it does."""
        self.blocked = kind

    def snapshot_wanted(self, wanted: bool) -> None:
        """Whether only a snapshot can help."""
        self.wanted = wanted

    def tell(self, now: float) -> dict[str, Any]:
        """One feed's part of `ExchangeMetrics.tell`."""
        clocks = {}
        for kind in NoticeKind:
            waiting, oldest = self.oldest(kind.value)
            limit = float(limit_seconds(kind, self.limits))
            clocks[kind.value] = {
                "waiting": waiting,
                "oldest_at": None if oldest is None else format_time(oldest),
                "limit_seconds": limit,
                "margin_seconds": limit if oldest is None else round(min(oldest + limit - now, limit), 1),
                "breaches": self.breaches[kind.value],
            }
        return {
            "sequence": self.sequence,
            "blocked": self.blocked,
            "snapshot_wanted": self.wanted,
            "source_seen_at": None if self.seen_at is None else format_millis(self.seen_at),
            "clocks": clocks,
        }

    def oldest(self, kind: str) -> tuple[int, UnixSeconds | None]:
        """Notices of a kind that are known and not applied, and the earliest start of a clock among them."""
        count = sum(waiting.counts.get(kind, 0) for waiting in self.unapplied.values())
        return count, min((w.oldest[kind] for w in self.unapplied.values() if kind in w.oldest), default=None)


class ExchangeMetrics(Collector):
    """Of one `lookupd-loader sync`. now: the exchange's clock."""

    def __init__(self, now: Callable[[], UnixMillis]) -> None:
        self._now = now
        self.feeds: dict[str, FeedMetrics] = {}
        self.streams: list[StreamMetrics] = []
        self.positions: dict[str, FeedPosition] = {}
        self.keys: dict[str, tuple[PublicKey, ...]] = {}
        self.places: dict[str, Path] = {}
        self.pending = 0
        self.damaged_pending = 0
        self.next_due: UnixSeconds | None = None
        self.lateness = Histogram(LATENESS_BUCKETS)
        self.fired = {"applied": 0, "superseded": 0}
        self.clock_refused_seconds = 0.0
        self.scrub_passes = 0
        self.scrubbed_at: UnixMillis | None = None
        self.damaged_blocks = 0
        self.mended_blocks = 0
        self.http = HttpCounts()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def feed(self, name: str, limits: Limits) -> FeedMetrics:
        """The metrics of a feed; the same ones each time."""
        return self.feeds.setdefault(name, FeedMetrics(name, limits))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def tell(self) -> dict[str, Any]:
        """For the daemon's /v1/feeds: what the store does not say. Seconds, and moments in RFC 3339."""
        now = self._now() / 1000
        return {
            "feeds": {feed.feed: feed.tell(now) for feed in self.feeds.values()},
            "pending": self.pending,
            "next_moment": None if self.next_due is None else format_time(self.next_due),
        }

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        now = self._now() / 1000
        yield InfoMetricFamily("lookupd_loader_build", "Version of the exchange.", {"version": __version__})
        yield from self._collect_notices(now)
        yield from self._collect_feeds(now)
        yield from collect_streams(self.streams)
        yield from collect_keys(self.keys)
        yield from collect_disks(self.places)
        yield from self.http.collect("lookupd_sync_http")
        yield from self._collect_moments()
        yield GaugeMetricFamily(
            "lookupd_clock_step_refused_seconds",
            "How far the wall clock jumped and is not followed; 0 = it is.",
            self.clock_refused_seconds,
        )
        yield CounterMetricFamily("lookupd_scrub_passes", "Whole checks of the store that ended.", self.scrub_passes)
        yield GaugeMetricFamily(
            "lookupd_scrub_damaged_blocks", "Damaged blocks found and not mended.", self.damaged_blocks
        )
        yield CounterMetricFamily("lookupd_scrub_mended_blocks", "Damaged blocks that were mended.", self.mended_blocks)
        if self.scrubbed_at is not None:
            yield GaugeMetricFamily(
                "lookupd_scrub_ended_timestamp_seconds", "When the last whole check ended.", self.scrubbed_at / 1000
            )

    def _collect_notices(self, now: float) -> Iterator[Metric]:
        by_kind = ["feed", "kind"]
        waiting = GaugeMetricFamily("lookupd_notices_unapplied", "Notices known and not applied.", labels=by_kind)
        margin = GaugeMetricFamily(
            "lookupd_notice_margin_seconds",
            "What the oldest unapplied notice has left of its limit; the whole limit if there is none.",
            labels=by_kind,
        )
        limit = GaugeMetricFamily("lookupd_notice_limit_seconds", "Limit of a notice.", labels=["kind"])
        visible = HistogramMetricFamily(
            "lookupd_notice_visible_seconds", "From the start of a notice's clock to being visible.", labels=by_kind
        )
        breaches = CounterMetricFamily("lookupd_notice_breaches", "Notices visible after their limit.", labels=by_kind)
        limits: dict[str, float] = {}
        for feed in self.feeds.values():
            for kind in NoticeKind:
                labels = [feed.feed, kind.value]
                count, oldest = feed.oldest(kind.value)
                limits[kind.value] = limit_seconds(JournalKind(kind.value), feed.limits)
                waiting.add_metric(labels, count)
                left = (
                    limits[kind.value] if oldest is None else min(oldest + limits[kind.value] - now, limits[kind.value])
                )
                margin.add_metric(labels, left)
                feed.visible[kind.value].add_to(visible, labels)
                breaches.add_metric(labels, feed.breaches[kind.value])
        for name, seconds in limits.items():
            limit.add_metric([name], seconds)
        yield from (waiting, margin, limit, visible, breaches)

    def _collect_feeds(self, now: float) -> Iterator[Metric]:
        sequence = GaugeMetricFamily("lookupd_feed_sequence", "Feed position applied.", labels=["feed"])
        age = GaugeMetricFamily(
            "lookupd_feed_age_seconds", "Since the last feed position was confirmed.", labels=["feed"]
        )
        seen = GaugeMetricFamily(
            "lookupd_feed_source_seen_timestamp_seconds", "When the source answered last.", labels=["feed"]
        )
        blocked = GaugeMetricFamily(
            "lookupd_feed_blocked", "1 if the feed does not move, by reason.", labels=["feed", "reason"]
        )
        wanted = GaugeMetricFamily("lookupd_feed_snapshot_wanted", "1 if only a snapshot can help.", labels=["feed"])
        errors = CounterMetricFamily(
            "lookupd_feed_errors", "What went wrong and was tried again.", labels=["feed", "reason"]
        )
        for feed in self.feeds.values():
            sequence.add_metric([feed.feed], feed.sequence)
            position = self.positions.get(feed.feed)
            if position is not None:
                age.add_metric([feed.feed], max(now - position.confirmed_at, 0.0))
            if feed.seen_at is not None:
                seen.add_metric([feed.feed], feed.seen_at / 1000)
            for reason in TROUBLES:
                blocked.add_metric([feed.feed, reason], float(feed.blocked == reason))
            wanted.add_metric([feed.feed], float(feed.wanted))
            for reason, count in feed.errors.items():
                errors.add_metric([feed.feed, reason], count)
        yield from (sequence, age, seen, blocked, wanted, errors)

    def _collect_moments(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("lookupd_pending_notices", "Notices that wait for their moment.", self.pending)
        yield GaugeMetricFamily(
            "lookupd_pending_damaged", "Waiting notices that are damaged and will not fire.", self.damaged_pending
        )
        if self.next_due is not None:
            yield GaugeMetricFamily("lookupd_pending_next_timestamp_seconds", "The next such moment.", self.next_due)
        lateness = HistogramMetricFamily(
            "lookupd_pending_lateness_seconds", "From the agreed moment to being visible.", labels=[]
        )
        self.lateness.add_to(lateness, [])
        yield lateness
        fired = CounterMetricFamily("lookupd_pending_fired", "Notices whose moment came.", labels=["result"])
        for result, count in self.fired.items():
            fired.add_metric([result], count)
        yield fired

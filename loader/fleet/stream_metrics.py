"""What a replica knows of its way through the engine's streams, one set a feed, for `exchange_metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

MESSAGES = ("taken", "reference", "old", "again", "refused", "other")
"""What became of a message: to be applied; to be applied from the files; applied before; here already; not ours, or
not signed, or damaged; another content than what is applied under its sequence."""

CHANGES = ("replaced", "rolled_back", "rewritten")
"""How a stream can stop being the one that was followed: made anew; shorter than it was; other messages in place."""

ACKS = ("sent", "kept", "lost")
"""What became of an acknowledgement: given to the engine; there is none now, it goes later; no stream took it."""

LISTINGS = ("listed", "failed")
"""A look at the signed files themselves."""


class StreamMetrics:
    """Of one feed."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.connected = False
        self.sequence = 0
        self.waiting = 0
        self.held = 0
        self.messages = dict.fromkeys(MESSAGES, 0)
        self.changes = dict.fromkeys(CHANGES, 0)
        self.acks = dict.fromkeys(ACKS, 0)
        self.listings = dict.fromkeys(LISTINGS, 0)


def collect_streams(streams: Iterable[StreamMetrics]) -> Iterator[Metric]:
    """One scrape."""
    connected = GaugeMetricFamily(
        "lookupd_stream_connected", "1 if the engine's stream is followed; 0: the files are.", labels=["feed"]
    )
    sequence = GaugeMetricFamily("lookupd_stream_sequence", "The stream's message that was read last.", labels=["feed"])
    waiting = GaugeMetricFamily(
        "lookupd_stream_waiting_messages", "Messages that the engine has for us and we did not read.", labels=["feed"]
    )
    held = GaugeMetricFamily(
        "lookupd_stream_held_messages", "Messages that were read and wait to be applied.", labels=["feed"]
    )
    counters = {
        "messages": CounterMetricFamily(
            "lookupd_stream_messages", "What became of the messages read.", labels=["feed", "result"]
        ),
        "changes": CounterMetricFamily(
            "lookupd_stream_changes", "The stream is not the one followed before.", labels=["feed", "result"]
        ),
        "acks": CounterMetricFamily(
            "lookupd_stream_acknowledgements", "What became of our words to the engine.", labels=["feed", "result"]
        ),
        "listings": CounterMetricFamily(
            "lookupd_stream_file_listings", "Looks at the signed files themselves.", labels=["feed", "result"]
        ),
    }
    found = list(streams)
    if not found:
        return
    for stream in found:
        labels = [stream.feed]
        connected.add_metric(labels, float(stream.connected))
        sequence.add_metric(labels, stream.sequence)
        waiting.add_metric(labels, stream.waiting)
        held.add_metric(labels, stream.held)
        for name, family in counters.items():
            for result, count in getattr(stream, name).items():
                family.add_metric([stream.feed, result], count)
    yield from (connected, sequence, waiting, held, *counters.values())

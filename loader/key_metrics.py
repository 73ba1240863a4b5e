"""When the senders' keys end, in Prometheus' text format; read on scrape, for `exchange_metrics` and the relay's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from loader.trust import PublicKey


def collect_keys(keys: Mapping[str, tuple[PublicKey, ...]]) -> Iterator[Metric]:
    """keys: by feed. A feed that has a key without end, or needs none, is left out."""
    family = GaugeMetricFamily(
        "lookupd_feed_key_expiry_timestamp_seconds",
        "When the last key of a feed's sender ends: nothing is taken after it.",
        labels=["feed"],
    )
    for feed, known in keys.items():
        ends = [key.until for key in known if key.until is not None]
        if known and len(ends) == len(known):
            family.add_metric([feed], max(ends))
    yield family

"""What HTTP listeners count, whoever they belong to."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

HTTP_REFUSALS = ("unknown_client", "credential", "host", "origin", "permission", "rate")
"""Why a request is refused. unknown_client: its address is on no list. credential: no token or certificate of a client
with that address. host, origin: a web page may be behind it. permission: `may`. rate: `queries_per_second`."""

HTTP_CLOSURES = ("crowded", "handshake", "slow_request", "slow_reader")
"""Why a connection is closed by us. handshake: TLS did not come about, or the client's certificate is none of ours."""


class HttpCounts:
    """Of all the HTTP listeners of a process. connections: those that are open."""

    def __init__(self) -> None:
        self.refused = dict.fromkeys(HTTP_REFUSALS, 0)
        self.closed = dict.fromkeys(HTTP_CLOSURES, 0)
        self.malformed = 0
        self.connections = 0

    def collect(self, prefix: str) -> Iterator[Metric]:
        """prefix: such as `lookupd_http`."""
        for name, help_text, counts in (
            ("refused", "HTTP requests refused, by reason.", self.refused),
            ("closed", "HTTP connections closed by us, by reason.", self.closed),
        ):
            family = CounterMetricFamily(f"{prefix}_{name}", help_text, labels=["reason"])
            for reason, count in counts.items():
                family.add_metric([reason], count)
            yield family
        yield CounterMetricFamily(f"{prefix}_malformed", "HTTP requests that are none.", self.malformed)
        yield GaugeMetricFamily(f"{prefix}_connections", "HTTP connections that are open.", self.connections)

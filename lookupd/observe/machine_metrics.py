"""What may end the service later: full disks and maps, certificates that expire, and the limits that were set.

In Prometheus' text format, read on scrape; what cannot be looked at is left out, and never fails a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cryptography import x509
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.limits import CERTIFICATE_FILE_BYTES_MAX
from lookupd.observe.disks import collect_disks
from lookupd.observe.serving import ServingSeconds
from lookupd.settings import Config
from lookupd.store.readers import Readers

CERTIFICATES = ("certificate", "client_ca", "peer_ca", "peer_certificate")
"""Which file; the closed set of a metric's label."""

LIMITS = ("port", "return", "history", "stale_after", "clock_step")
"""Of `[limits]`, those that are a time; the closed set of a metric's label."""


class MachineMetrics(Collector):
    """Of one daemon. config: the one in force."""

    def __init__(self, engine: Engine, config: Callable[[], Config], serving: ServingSeconds) -> None:
        self._engine, self._config, self._serving = engine, config, serving
        self._readers = Readers()
        self._certificates = Certificates()

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        config = self._config()
        yield from self._collect_serving()
        yield from self._collect_store(config.store_path)
        places = {"store": config.store_path, "usage": config.usage_path}
        if config.query_log.path:
            places["query_log"] = Path(config.query_log.path)
        yield from collect_disks(places)
        yield from self._certificates.collect(certificate_files(config))
        yield from _collect_settings(config)

    def _collect_serving(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "lookupd_serving_seconds", "Time since the start, by how queries were answered.", labels=["state"]
        )
        for state, seconds in self._serving.seconds().items():
            family.add_metric([state], seconds)
        yield family

    def _collect_store(self, path: Path) -> Iterator[Metric]:
        reader = self._engine.reader
        if reader is None:
            return
        try:
            room = reader.room()
        except StoreError:
            return  # `lookupd_ready` is 0 and the log says why
        yield GaugeMetricFamily("lookupd_store_map_bytes", "Size to which the store's file may grow.", room.map_bytes)
        yield GaugeMetricFamily("lookupd_store_readers_max", "Reader slots that there are.", room.readers_max)
        lag = self._readers.lag(path, room.newest, room.readers)
        if lag is not None:
            yield GaugeMetricFamily(
                "lookupd_store_reader_lag_commits",
                "By how many commits the oldest reader of any process is behind: its pages are kept.",
                lag,
            )


class Certificates:
    """When certificates expire. A file is read again only when it is another one."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], float]] = {}

    def collect(self, files: Mapping[str, Path]) -> Iterator[Metric]:
        """files: by CERTIFICATES."""
        family = GaugeMetricFamily(
            "lookupd_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file expires; 0 if it cannot be read.",
            labels=["file"],
        )
        for name, path in files.items():
            family.add_metric([name], self._expiry(path))
        yield family

    def _expiry(self, path: Path) -> float:
        try:
            found = path.stat()
            identity = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._known.get(path, (None, 0.0))[0] != identity:
                self._known[path] = identity, read_expiry(path)
            return self._known[path][1]
        except (OSError, ValueError):
            return 0.0


def read_expiry(path: Path) -> float:
    """When the first certificate of a PEM file expires, in seconds since 1970. Raises OSError or ValueError."""
    with path.open("rb") as file:
        data = file.read(CERTIFICATE_FILE_BYTES_MAX)
    found = x509.load_pem_x509_certificates(data)
    return min(certificate.not_valid_after_utc.timestamp() for certificate in found)


def certificate_files(config: Config) -> dict[str, Path]:
    """By CERTIFICATES, those that are configured."""
    named = (
        config.http.certificate,
        config.http.client_ca,
        config.replica.peer_ca,
        config.replica.peer_certificate,
    )
    return {name: Path(path) for name, path in zip(CERTIFICATES, named, strict=True) if path}


def _collect_settings(config: Config) -> Iterator[Metric]:
    limits = config.limits
    limit = GaugeMetricFamily("lookupd_limit_seconds", "Times of [limits]; 0 = no limit.", labels=["limit"])
    set_to = (limits.port, limits.return_, limits.history, limits.stale_after, limits.clock_step)
    for name, seconds in zip(LIMITS, set_to, strict=True):
        limit.add_metric([name], seconds)
    yield limit
    clients = InfoMetricFamily("lookupd_client", "Account of a client.", labels=["client"])
    for client in config.clients:
        clients.add_metric([client.name], {"account": client.account} if client.account else {})
    yield clients

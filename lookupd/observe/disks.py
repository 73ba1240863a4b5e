"""Room on the disks that a program writes to, in Prometheus' text format; read on scrape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

PLACES = ("store", "spool", "usage", "query_log")
"""What a disk is needed for; the closed set of a metric's label."""


def collect_disks(places: Mapping[str, Path]) -> Iterator[Metric]:
    """places: by PLACES. One that cannot be looked at is left out."""
    free = GaugeMetricFamily(
        "lookupd_disk_free_bytes", "Free for us on the file system of a place that we write to.", labels=["place"]
    )
    size = GaugeMetricFamily("lookupd_disk_size_bytes", "Size of that file system.", labels=["place"])
    for place, path in places.items():
        with suppress(OSError):
            found = os.statvfs(_existing(path))
            free.add_metric([place], found.f_bavail * found.f_frsize)
            size.add_metric([place], found.f_blocks * found.f_frsize)
    yield from (free, size)


def _existing(path: Path) -> Path:
    """The path, or what of it is there: the rest will be made on the same file system."""
    path = path.absolute()
    return next((at for at in (path, *path.parents) if os.path.lexists(at)), path)

"""What was measured of a fleet's parts, as straight lines and spreads that the simulation draws from.

Measures nothing: `replica` and `engine` do.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

SPREAD_POINTS = 101
"""Quantiles kept of a measured spread: every hundredth."""


class Line(msgspec.Struct, frozen=True):
    """fixed + each * count."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Its value there."""
        return self.fixed + self.each * count


class Applied(msgspec.Struct, frozen=True):
    """Deltas of one size. Seconds and CPU seconds of one delta: checked; in its transaction; and of all that sync
    does with it. bytes: of its message, headers and all; plain_bytes: of its data before it was compressed."""

    notices: int
    deltas: int
    check_cpu: float
    apply_cpu: float
    apply_seconds: float
    sync_cpu: float
    sync_seconds: float
    bytes: int
    plain_bytes: int


class ReplicaCosts(msgspec.Struct, frozen=True):
    """Of one replica on this machine's disk. spread: a delta's seconds, x the median of its size, as quantiles."""

    numbers: int
    applied: list[Applied]
    spread: list[float]
    journal_bytes: float
    snapshot_bytes: float

    @property
    def seconds(self) -> Line:
        """Of a delta of so many notices, all that sync does."""
        return fit([(each.notices, each.sync_seconds) for each in self.applied])

    @property
    def cpu(self) -> Line:
        """CPU of that."""
        return fit([(each.notices, each.sync_cpu) for each in self.applied])

    @property
    def message(self) -> Line:
        """Bytes of a message with so many notices."""
        return fit([(each.notices, each.bytes) for each in self.applied])


class Delivered(msgspec.Struct, frozen=True):
    """Messages of one size. ack: seconds from publish to its acknowledgement, as quantiles. publish_cpu, deliver_cpu:
    CPU seconds of all servers, of a message published, and of one delivered to a consumer."""

    servers: int
    bytes: int
    ack: list[float]
    publish_cpu: float
    deliver_cpu: float


class EngineCosts(msgspec.Struct, frozen=True):
    """Of the engine. sync: seconds of one fsync on this machine's disk, as quantiles, which an engine with
    `sync_interval: always` waits for; is_synced: whether the acknowledgements that were measured have it already."""

    version: str
    consumers: int
    delivered: list[Delivered]
    sync: list[float]
    is_synced: bool

    def of(self, servers: int) -> list[Delivered]:
        """Measured with so many servers."""
        return [each for each in self.delivered if each.servers == servers]

    def deliver_cpu(self, servers: int) -> Line:
        """Of a message of so many bytes to one consumer."""
        return fit([(each.bytes, each.deliver_cpu) for each in self.of(servers)])

    def publish_cpu(self, servers: int) -> Line:
        """Of a message of so many bytes, on all servers."""
        return fit([(each.bytes, each.publish_cpu) for each in self.of(servers)])


class Costs(msgspec.Struct, frozen=True):
    """All that a simulation is made of."""

    replica: ReplicaCosts
    engine: EngineCosts


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """A line through points whose counts span decades, so that none is off by much of itself; never below zero."""
    counts, values = (np.array(column, float) for column in zip(*points, strict=True))
    weight = 1.0 / values  # errors count as shares: the small deltas as much as the large
    rows = np.stack([weight, weight * counts], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(rows, np.ones(len(points)), rcond=None)
    if fixed < 0:  # all of it is in the slope
        return Line(0.0, float(np.exp(np.mean(np.log(values / counts)))))
    if each < 0:  # the size does not matter
        return Line(float(np.exp(np.mean(np.log(values)))), 0.0)
    return Line(float(fixed), float(each))


def spread_of(values: Sequence[float]) -> list[float]:
    """Quantiles, the lowest and the highest among them."""
    return [float(value) for value in np.quantile(np.array(values), np.linspace(0.0, 1.0, SPREAD_POINTS))]

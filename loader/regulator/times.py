"""How long things took, as the report tells it: a count, a mean, quantiles and a histogram."""

from __future__ import annotations

from array import array

import numpy as np

from loader.regulator.figures import Times

HOUR, DAY = 3600.0, 86_400.0

BOUNDS = (
    *(0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 1800.0, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 12 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY),
)
"""Seconds. The legal limits, an hour and twelve, are bounds: what is beyond them is a column of its own."""

_QUANTILES = (0.5, 0.95, 0.99)


class Seconds:
    """Collects them: eight bytes each, so that a half-year's five million notices are 40 MB."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, seconds: float) -> None:
        """One more."""
        self._values.append(seconds)

    def times(self) -> Times:
        """What they come to. A quantile is the value that so large a share is not above, never one between two."""
        values = np.sort(np.frombuffer(self._values, np.float64))
        found = np.searchsorted(BOUNDS, values)  # the first bound that is not below
        counts = np.bincount(found, minlength=len(BOUNDS) + 1).tolist()
        buckets = tuple(zip((*BOUNDS, None), counts, strict=True))
        if not len(values):
            return Times(0, None, None, None, None, None, buckets)
        at = [min(int(share * len(values)), len(values) - 1) for share in _QUANTILES]
        p50, p95, p99 = (round(float(values[i]), 3) for i in at)
        return Times(len(values), round(float(values.mean()), 3), p50, p95, p99, round(float(values[-1]), 3), buckets)

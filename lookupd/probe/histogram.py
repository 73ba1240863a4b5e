"""Times sorted into buckets whose bounds grow by the same factor; shares of them read back. Whole nanoseconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

_FIRST_NS, _STEPS_PER_DECADE, _DECADES = 10_000, 20, 6


def _bound(step: int) -> int:
    """Three digits are enough, and the same on each machine."""
    exact: float = _FIRST_NS * 10 ** (step / _STEPS_PER_DECADE)
    unit: int = 10 ** (len(str(int(exact))) - 3)
    return round(exact / unit) * unit


BOUNDS_NS: Final = tuple(_bound(step) for step in range(0, _STEPS_PER_DECADE * _DECADES + 1, 3))
"""Upper bounds, from 10 us to 10 s: each is 1.41 times the one before. Ledgers name buckets by them: a bound that is
changed later spoils nothing."""

BEYOND: Final = 0
"""In the place of a bound: over all of them."""


def bound_of(ns: int) -> int:
    """The bucket of a time: the lowest bound that is not below it, or BEYOND."""
    at = bisect_left(BOUNDS_NS, ns)
    return BOUNDS_NS[at] if at < len(BOUNDS_NS) else BEYOND


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The bound of the bucket in which this share of the times ends: so many took no longer. None if there are none.

    counts: by bound. share: above 0, at most 1. BEYOND if they end over all bounds.
    """
    total = sum(counts.values())
    below = 0
    for bound in sorted(counts, key=_order):
        below += counts[bound]
        if below and below >= share * total:
            return bound
    return None


def worst(counts: Mapping[int, int]) -> int | None:
    """The bound of the longest time's bucket; None if there is none."""
    return max((bound for bound, count in counts.items() if count), key=_order, default=None)


def _order(bound: int) -> float:
    return float("inf") if bound == BEYOND else bound

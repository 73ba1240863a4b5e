"""The probe's histogram against the times themselves."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from lookupd.probe.histogram import BEYOND, BOUNDS_NS, bound_of, quantile, worst

TIMES = st.lists(
    st.one_of(
        st.integers(0, 20_000_000_000), st.sampled_from(BOUNDS_NS), st.sampled_from(BOUNDS_NS).map(lambda b: b + 1)
    ),
    min_size=1,
    max_size=300,
)
SHARES = st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0])


def lower(bound: int) -> int:
    """Times of the bucket are above it."""
    if bound == BEYOND:
        return BOUNDS_NS[-1]
    at = BOUNDS_NS.index(bound)
    return BOUNDS_NS[at - 1] if at else -1


def holds(bound: int, ns: int) -> bool:
    return lower(bound) < ns <= (math.inf if bound == BEYOND else bound)


@given(TIMES, SHARES)
def test_quantile_is_the_bucket_of_the_exact_one(times: list[int], share: float) -> None:
    found = quantile(Counter(map(bound_of, times)), share)
    exact = sorted(times)[math.ceil(Fraction(share) * len(times)) - 1]
    assert found is not None
    assert holds(found, exact)


@given(TIMES)
def test_each_time_is_in_the_bucket_that_holds_it_and_the_longest_is_the_worst(times: list[int]) -> None:
    assert all(holds(bound_of(ns), ns) for ns in times)
    assert worst(Counter(map(bound_of, times))) == bound_of(max(times))


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert worst({}) is None


def test_bounds_reach_from_ten_microseconds_to_ten_seconds_and_grow_evenly() -> None:
    assert (BOUNDS_NS[0], BOUNDS_NS[-1]) == (10_000, 10_000_000_000)
    steps = [after / before for before, after in itertools.pairwise(BOUNDS_NS)]
    assert all(1.39 < step < 1.43 for step in steps)

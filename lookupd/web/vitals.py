"""How the daemon does, over the last seconds and the last minute: a look at its counters each second.

For people and for the peer; what is exact and since the start is in the metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from lookupd.model import Outcome, Vitals
from lookupd.observe.metrics import Metrics

LOOK_SECONDS = 1.0
RATE_LOOKS, MINUTE_LOOKS = 10, 60
"""Looks that a rate, and the rest, is made of."""


class _Look(NamedTuple):
    """at: monotonic seconds. The rest are counts since the start."""

    at: float
    received: dict[str, int]
    answered: list[int]
    replies: list[int]


class VitalSigns:
    """Of one daemon. Until it has looked twice it knows nothing, and says zero."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looks: deque[_Look] = deque(maxlen=MINUTE_LOOKS + 1)

    async def keep(self) -> None:
        """Look each second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Once."""
        received: dict[str, int] = {}
        answered = [0] * len(Outcome)
        for counters in self._metrics.all_queries():
            received[counters.dialect] = received.get(counters.dialect, 0) + counters.received
            for at, count in enumerate(counters.answered):
                answered[at] += count
            answered[Outcome.REFUSED] += sum(counters.refused)
        self._looks.append(_Look(time.monotonic(), received, answered, self._metrics.reply_buckets()))

    def tell(self) -> Vitals:
        """As of the last look."""
        if len(self._looks) < 2:
            return Vitals()
        now, before, first = self._looks[-1], self._looks[-min(RATE_LOOKS, len(self._looks) - 1) - 1], self._looks[0]
        rates = {
            dialect: (count - before.received.get(dialect, 0)) / (now.at - before.at)
            for dialect, count in now.received.items()
        }
        replies = [count - was for count, was in zip(now.replies, first.replies or [0] * len(now.replies), strict=True)]
        return Vitals(
            queries_per_second=round(sum(rates.values()), 1),
            by_dialect={dialect: round(rate, 1) for dialect, rate in rates.items()},
            reply_p50_seconds=quantile(replies, 0.5),
            reply_p99_seconds=quantile(replies, 0.99),
            outcomes={outcome.label: now.answered[outcome] - first.answered[outcome] for outcome in Outcome},
            over_seconds=round(now.at - first.at, 1),
        )


def quantile(buckets: list[int], share: float) -> float | None:
    """Seconds, from counts by upper bounds of 1, 2, 4 ... microseconds; None if there are none.

    Between two bounds it is where it would be if what lies there lay evenly; above the last one, that one.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted, below = share * total, 0
    for at, count in enumerate(buckets[:-1]):
        if below + count >= wanted and count:
            lower, upper = (2 ** (at - 1) if at else 0), 2**at
            return float((lower + (upper - lower) * (wanted - below) / count) / 1e6)
        below += count
    return float(2 ** (len(buckets) - 2) / 1e6)

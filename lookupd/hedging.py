"""Whom the client library asks first, and how long it waits before it asks the next: by what it has seen lately.

No socket and no clock: whoever asks tells when. Each server has the outcome of its last questions; those that were
answered well count their time, every other one counts as endless.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from lookupd.limits import (
    CLIENT_HEDGE_SECONDS_MIN,
    CLIENT_OUTCOMES_KEPT,
    CLIENT_PROBE_QUESTIONS,
    CLIENT_UNDER_WAY_MAX,
)

ENDLESS = float("inf")

OUTCOMES_MIN = 8
"""Fewer say nothing about how long a server takes."""

SLOWER_TIMES, SLOWER_SECONDS = 3.0, 0.001
"""A server is passed over when it is so much slower than the best one: below that, the order given holds."""


class Record:
    """What one server did with the questions it got."""

    def __init__(self, patience: float) -> None:
        """patience: seconds after which a question counts as not answered."""
        self.patience = patience
        self._outcomes: deque[float] = deque(maxlen=CLIENT_OUTCOMES_KEPT)
        self._under_way: OrderedDict[int, float] = OrderedDict()
        self._slow: float | None = None

    @property
    def slow(self) -> float:
        """Seconds that nearly all answers stayed below: the second longest time. As long as nothing is known, the
        patience: better than a server that is silent, worse than one that answers."""
        if self._slow is None:
            worst = sorted(self._outcomes)[-2:]
            self._slow = worst[0] if len(worst) > 1 else self.patience
        return self._slow

    @property
    def hedge(self) -> float | None:
        """Seconds after which an answer is no longer likely; None = nothing is known yet."""
        return self.slow if len(self._outcomes) >= OUTCOMES_MIN else None

    def asked(self, query_id: int, now: float) -> None:
        """A question leaves. One that is asked again keeps its first time."""
        self.look(now)
        self._under_way.setdefault(query_id, now)
        if len(self._under_way) > CLIENT_UNDER_WAY_MAX:
            self._under_way.popitem(last=False)

    def answered(self, query_id: int, now: float, well: bool = True) -> None:
        """An answer came, maybe when nobody waited any more. well: from data."""
        since = self._under_way.pop(query_id, None)
        if since is not None:
            self._add(now - since if well else ENDLESS)

    def failed(self, query_id: int) -> None:
        """It could not be asked, or its answer cannot be read."""
        if self._under_way.pop(query_id, None) is not None:
            self._add(ENDLESS)

    def look(self, now: float) -> None:
        """Count what was not answered in time."""
        while self._under_way:
            query_id, since = next(iter(self._under_way.items()))
            if now - since <= self.patience:
                break
            del self._under_way[query_id]
            self._add(ENDLESS)

    def _add(self, seconds: float) -> None:
        self._outcomes.append(seconds)
        self._slow = None


class Plan:
    """Of one question: which servers are asked, and after how many seconds each."""

    def __init__(self, records: Sequence[Record], hedge: float) -> None:
        """records: of the servers, the preferred one first. hedge: the longest wait for the first answer."""
        self._records = records
        self._hedge = hedge
        self._questions = 0

    def next(self, now: float) -> list[tuple[float, int]]:
        """(seconds, place) of each server, the first to be asked first.

        One question of CLIENT_PROBE_QUESTIONS goes to another server at once too, in turn: so that it is known what
        that one would do, and one that has recovered is seen. Nobody waits for it.
        """
        for record in self._records:
            record.look(now)
        best = min(record.slow for record in self._records)
        bound = best * SLOWER_TIMES + SLOWER_SECONDS
        order = sorted(range(len(self._records)), key=lambda place: (self._records[place].slow > bound, place))
        first = self._records[order[0]].hedge
        wait = self._hedge if first is None else min(max(first, CLIENT_HEDGE_SECONDS_MIN), self._hedge)
        if first == ENDLESS:  # everybody is in trouble: no use in waiting for this one
            wait = min(CLIENT_HEDGE_SECONDS_MIN, self._hedge)
        self._questions += 1
        probed = self._probed(order)
        steps = [(0.0 if place == probed else wait * rank, place) for rank, place in enumerate(order)]
        return sorted(steps, key=lambda step: step[0])  # stable: the first of the order stays first

    def _probed(self, order: Sequence[int]) -> int | None:
        if len(order) < 2 or self._questions % CLIENT_PROBE_QUESTIONS:
            return None
        return order[1 + self._questions // CLIENT_PROBE_QUESTIONS % (len(order) - 1)]

"""Query + store -> Answer: the number, then its range holder, then not allocated.

Knows no dialect, no socket and no clock: the caller says when it is.
"""

from __future__ import annotations

from lookupd.errors import StoreError
from lookupd.model import Answer, Outcome, Route, UnixSeconds
from lookupd.numbering import Plan
from lookupd.store.reader import Reader
from lookupd.store.schema import RESTRICTED, ROUTE_MASK

SERIAL_MASK = 0xFFFF_FFFF


class Engine:
    """Resolves numbers in one store, batch by batch.

    `begin` once per batch, then `resolve` for each number: a batch's answers come from one state.
    """

    def __init__(self, plan: Plan, stale_after: float = 0) -> None:
        """stale_after: seconds; 0 = answer however old the data is."""
        self.plan = plan
        self.stale_after = stale_after
        self.reader: Reader | None = None
        self.serial = 0
        self.age_seconds: int | None = None
        self.usable = False
        self.reason = "no store is open"
        self.damaged_total = 0

    def begin(self, now: UnixSeconds) -> None:
        """Pin the newest commit and judge whether its data may be answered from.

        Sets usable and, when it is not, reason. Never raises: a store that cannot be read is not usable.
        """
        if self.reader is None:
            self._unusable("no store is open")
            return
        try:
            self.reader.pin()
        except StoreError as error:
            self._unusable(str(error))
            return
        state = self.reader.state
        self.serial = state.serial & SERIAL_MASK
        if not state.feeds:
            self._unusable("no snapshot was loaded yet")
            return
        confirmed_at = min(position.confirmed_at for position in state.feeds.values())
        self.age_seconds = max(now - confirmed_at, 0)
        self.usable = not self.stale_after or self.age_seconds <= self.stale_after
        self.reason = (
            "" if self.usable else f"data is {self.age_seconds} s old, limits.stale_after is {self.stale_after:g} s"
        )

    def _unusable(self, reason: str) -> None:
        self.usable = False
        self.reason = reason
        self.age_seconds = None

    def resolve(self, asked: str) -> Answer:
        """The answer to one number, as it was dialled: E.164 digits with or without `+`, or national.

        Never raises for any text.
        """
        tn = self.plan.read(asked)
        if not self.usable or self.reader is None:
            return Answer(asked, tn, Outcome.UNAVAILABLE, None, False, self.serial, self.age_seconds)
        if tn is None:
            return Answer(asked, None, Outcome.NOT_PORTABLE, None, False, self.serial, self.age_seconds)
        route: Route | None = None
        try:
            entry = self.reader.entry(tn)
            if entry & ROUTE_MASK:
                outcome = Outcome.PORTED
                route = self.reader.route(entry & ROUTE_MASK)
            else:
                kind = self.plan.kind(tn)
                in_plan = self.plan.covers(tn)
                outcome = Outcome.NOT_PORTABLE
                # A number of another country has no kind here; the ranges table may know it all the same.
                if (kind is not None and kind.portable) or not in_plan:
                    held = self.reader.range_holder(tn)
                    if held is not None:
                        outcome, route = Outcome.NOT_PORTED, self.reader.route(held[1])
                    elif in_plan:
                        outcome = Outcome.NOT_ALLOCATED
        except StoreError:  # a damaged block, or a route that is missing: never served as an answer
            self.damaged_total += 1
            return Answer(asked, tn, Outcome.UNAVAILABLE, None, False, self.serial, self.age_seconds)
        return Answer(asked, tn, outcome, route, entry & RESTRICTED != 0, self.serial, self.age_seconds)

    def refuse(self, asked: str) -> Answer:
        """The answer to a client that is over its rate."""
        return Answer(asked, None, Outcome.REFUSED, None, False, self.serial, self.age_seconds)

"""Query + store -> Answer: the number, then its range holder, then not allocated.

Knows no dialect, no socket and no clock: the caller says when it is.
"""

from __future__ import annotations

from lookupd.errors import StoreError
from lookupd.limits import E164_DIGITS_MAX
from lookupd.model import TN, Answer, InForce, Outcome, Route, UnixSeconds
from lookupd.numbering import Plan
from lookupd.store.reader import Reader
from lookupd.store.schema import RESTRICTED, ROUTE_MASK, State

SERIAL_MASK = 0xFFFF_FFFF

# Looked up once: an enumeration's member costs 50 ns each time.
_PORTED, _NOT_PORTED = Outcome.PORTED, Outcome.NOT_PORTED

Found = tuple[Outcome, Route | None, InForce | None]
_FOUND_UNAVAILABLE: Found = (Outcome.UNAVAILABLE, None, None)
_FOUND_NOT_PORTABLE: Found = (Outcome.NOT_PORTABLE, None, None)


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
        self.now = UnixSeconds(0)
        """Of the batch: restrictions begin and lapse by it."""
        self.age_seconds: int | None = None
        self.usable = False
        self.reason = "no store is open"
        self.unreadable_total = 0
        self.withdrawn: str | None = None
        """Why this replica stands back, as long as it does: its twin answers, it does not."""
        self._state: State | None = None
        self._confirmed_at: UnixSeconds | None = None

    def begin(self, now: UnixSeconds) -> None:
        """Pin the newest commit and judge whether its data may be answered from.

        Sets usable and, when it is not, reason. Never raises: a store that cannot be read is not usable.
        """
        self.now = now
        if self.reader is None:
            self._unusable("no store is open")
            return
        try:
            self.reader.pin()
        except StoreError as error:
            self._unusable(str(error))
            return
        state = self.reader.state
        if state is not self._state:
            self._state = state
            self.serial = state.serial & SERIAL_MASK
            self._confirmed_at = min((position.confirmed_at for position in state.feeds.values()), default=None)
        if self._confirmed_at is None:
            self._unusable("no snapshot was loaded yet")
            return
        self.age_seconds = max(now - self._confirmed_at, 0)
        if self.withdrawn is not None:
            self.usable, self.reason = False, f"withdrawn: {self.withdrawn}"
            return
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
        digits = self.plan.digits(asked)
        outcome, route, restriction = self.find(digits)
        tn = None if digits is None else TN(int(digits))
        return Answer(asked, tn, outcome, route, restriction, self.serial, self.age_seconds)

    def find(self, digits: str | None) -> Found:
        """Outcome, route and restriction in force, for dialects that need no more. digits: as `Plan.digits` gives."""
        reader = self.reader
        if not self.usable or reader is None:
            return _FOUND_UNAVAILABLE
        if digits is None:
            return _FOUND_NOT_PORTABLE
        try:
            entry = reader.entry(int(digits))
            restriction = reader.restriction(int(digits), self.now) if entry & RESTRICTED else None
            route_id = entry & ROUTE_MASK
            if route_id:
                return _PORTED, reader.route(route_id), restriction
            outcome, route = self._find_unported(reader, digits)
            return outcome, route, restriction
        except StoreError:  # a damaged block, or a route or a restriction that is missing: never served as an answer
            self.unreadable_total += 1
            return _FOUND_UNAVAILABLE

    def _find_unported(self, reader: Reader, digits: str) -> tuple[Outcome, Route | None]:
        kind = self.plan.kind_of(digits)
        if kind is None:
            # A number of another country has no kind here; the ranges table may know it all the same.
            if self.plan.covers(digits):
                return Outcome.NOT_PORTABLE, None
        elif not kind.portable:
            return Outcome.NOT_PORTABLE, None
        held = reader.range_holder(digits)
        if held is not None:
            return _NOT_PORTED, reader.route(held[1])
        return Outcome.NOT_ALLOCATED if kind is not None else Outcome.NOT_PORTABLE, None

    def has_under(self, digits: str, *, ranges: bool) -> bool:
        """Whether longer numbers begin with these digits: ported ones, and those of served ranges if ranges is set.

        Needs data to answer from. What cannot be read may be there.
        """
        reader = self.reader
        if not self.usable or reader is None or len(digits) >= E164_DIGITS_MAX or digits[:1] == "0":
            return False
        try:
            return (ranges and reader.touches_range(digits) and self.plan.continues(digits)) or reader.has_ported_under(
                digits
            )
        except StoreError:
            return True

    def refuse(self, asked: str) -> Answer:
        """The answer to a client that is over its rate."""
        return Answer(asked, None, Outcome.REFUSED, None, None, self.serial, self.age_seconds)

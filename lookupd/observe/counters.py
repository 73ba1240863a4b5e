"""What happened to queries, in plain integers: cheap to raise on the hot path, read by `metrics` on scrape.

The conservation law: received = answered + other + refused + dropped, at any moment between two messages.
"""

from __future__ import annotations

from typing import Protocol

from lookupd.model import DROP_REASONS, REFUSE_REASONS, Outcome

UNKNOWN_CLIENT, RATE = range(len(REFUSE_REASONS))
DROP = {reason: at for at, reason in enumerate(DROP_REASONS)}
LATE, UNAVAILABLE, NO_ROOM, UNSENT = (DROP[reason] for reason in ("late", "unavailable", "no_room", "unsent"))


class QueryCounters:
    """Of one dialect over one transport. A batch query counts once for each of its numbers.

    other: messages that are what they should be and ask for no number: a DNS zone's own records, SIP's OPTIONS,
    CANCEL and ACK, a call that was dipped already.
    """

    __slots__ = ("answered", "dialect", "dropped", "odd", "other", "received", "refused", "transport")

    def __init__(self, dialect: str, transport: str) -> None:
        self.dialect = dialect
        self.transport = transport
        self.received = 0
        self.odd = 0
        self.other = 0
        self.answered = [0] * len(Outcome)
        self.refused = [0] * len(REFUSE_REASONS)
        self.dropped = [0] * len(DROP_REASONS)

    def add(
        self, received: int, odd: int, other: int, answered: list[int], refused: list[int], dropped: list[int]
    ) -> None:
        """Count what was counted elsewhere."""
        self.received += received
        self.odd += odd
        self.other += other
        for sums, more in ((self.answered, answered), (self.refused, refused), (self.dropped, dropped)):
            for at, count in enumerate(more):
                sums[at] += count

    def balance(self) -> int:
        """0 as long as every query received is accounted for."""
        return self.received - sum(self.answered) - self.other - sum(self.refused) - sum(self.dropped)


DIALECTS = ("npq", "pdb", "enum", "sip")
"""That both engines speak; the order is the native engine's too."""

ALL_DIALECTS = (*DIALECTS, "http")
"""What a client's queries are counted by."""

USAGE_RESULTS = (*(outcome.label for outcome in Outcome), "over_rate", "dropped", "other")
"""What became of a client's queries: answered by outcome, refused for its rate, not answered, not about a number."""

OVER_RATE, DROPPED, OTHER = (len(Outcome) + at for at in range(3))

Usage = list[int]
"""One client's queries in one dialect, by USAGE_RESULTS."""


class ClientUsage(Protocol):
    """Counts by client, as long as a clients list is in force and after."""

    def usage(self) -> list[list[Usage]]:
        """By client, then by ALL_DIALECTS."""
        ...


CLOSE_REASONS = ("peer", "idle", "slow", "frame_too_long", "unframed", "drain", "handed_over")
"""Why a connection ended; the closed set of a metric's label. handed_over: it goes on in the process that follows this
one. unframed: where a message ends cannot be told, which its
sender was told, as for SIP without Content-Length."""

REJECT_REASONS = ("unknown_client", "gone", "too_many", "too_many_from_source")
"""Why a connection was not taken."""


class ConnectionCounters:
    """Of one dialect over TCP."""

    __slots__ = ("closed", "dialect", "opened", "rejected")

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.opened = 0
        self.closed = dict.fromkeys(CLOSE_REASONS, 0)
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)

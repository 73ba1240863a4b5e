"""The records that pass between the parts: frozen, without behaviour beyond their own text form.

Checked values (`TN`, `RoutingNumber`, `NetworkCode`) are made by `numbering` only.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NewType

import msgspec

TN = NewType("TN", int)
"""Telephone number in full E.164 form, its digits read as an integer; at most 15 digits."""

RoutingNumber = NewType("RoutingNumber", str)
"""Routing number (`rn`) sent on for a ported number: 1 to 15 of 0-9 A-F (RFC 4694 section 4)."""

NetworkCode = NewType("NetworkCode", str)
"""An operator's opaque identifier, 1 to 8 of 0-9 A-Z; never arithmetic."""

Serial = NewType("Serial", int)
"""The store's version as published: 32 bits, compared by RFC 1982."""

UnixSeconds = NewType("UnixSeconds", int)
"""Seconds since 1970-01-01T00:00:00Z."""

UnixMillis = NewType("UnixMillis", int)
"""Milliseconds since then: the clocks of the notices, where an agreed second is held to a tenth."""


class Outcome(IntEnum):
    """What became of a query. The value is the one `npq` sends."""

    PORTED = 0
    NOT_PORTED = 1
    NOT_ALLOCATED = 2
    NOT_PORTABLE = 3
    UNAVAILABLE = 4
    REFUSED = 5

    @property
    def label(self) -> str:
        """As JSON, metrics and people write it: `not_ported`."""
        return self.name.lower()


REFUSE_REASONS = ("unknown_client", "rate")
"""Why a query was refused; the closed set of a metric's label."""

DROP_REASONS = (
    "malformed",
    "not_a_query",
    "too_long",
    "late",
    "unavailable",
    "no_room",
    "unsent",
)
"""Why a query got no answer; the closed set of a metric's label.

malformed: bytes that are not a message of the dialect. not_a_query: an answer, or a version or form that
is not served. too_long: over the dialect's bound. late: the client has given up. unavailable: the dialect
stays silent rather than answer from no data or damaged data. no_room: a batch's tail that did not fit.
unsent: the kernel refused the answer.
"""


class Route(msgspec.Struct, frozen=True):
    """Where a number is sent: a network, and perhaps a routing number of its own.

    own: the network's own route, whose routing_number follows the networks table; otherwise the routing
    number came with the number. pdb_carrier_id: 1 to 999, None = unmapped.
    """

    network_code: NetworkCode
    routing_number: RoutingNumber | None
    operator: str
    pdb_carrier_id: int | None
    own: bool


class Measure(IntEnum):
    """What an authority ordered, the strictest first. The value is the one that is stored and that `npq` sends."""

    STOP = 1
    LIMIT = 2
    NO_ROAMING = 3
    ALERT = 4

    @property
    def label(self) -> str:
        """As feeds, JSON and people write it: `no_roaming`."""
        return self.name.lower()


class Target(StrEnum):
    """What a restriction is placed on."""

    NUMBER = "number"
    IMSI = "imsi"


class Restriction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one authority ordered in one case (FCA articles 16 to 18, 21; EPR article 36).

    first, last: numbers, or IMSIs as `restrictions.imsi_key` has them; equal for a single one. In force from begins_at
    until before until. extended: its one extension was used. Which it is, is told by target, first, last, authority
    and case: those of other authorities and cases are kept apart.
    """

    target: Target
    first: int
    last: int
    authority: str
    case: str
    measure: Measure
    begins_at: UnixSeconds
    until: UnixSeconds
    extended: bool = False


class RestrictionTerms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a notice or a person says of a restriction. None: `restrict` takes the notice's moment and the longest
    time that is allowed, `extend` the longest, `lift` none of them."""

    target: Target
    first: int
    last: int
    authority: str
    case: str
    measure: Measure | None = None
    begins_at: UnixSeconds | None = None
    until: UnixSeconds | None = None


class InForce(msgspec.Struct, frozen=True, gc=False):
    """What an answer tells of the restrictions that hold now: the strictest one, and how long it holds."""

    measure: Measure
    until: UnixSeconds


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to one query, before any dialect has dressed it.

    tn: None when what was asked is no E.164 number. age_seconds: since the last feed position was
    confirmed, None when there is no data.
    """

    asked: str
    tn: TN | None
    outcome: Outcome
    route: Route | None
    restriction: InForce | None
    serial: int
    age_seconds: int | None


class AnswerView(msgspec.Struct, frozen=True):
    """An answer as JSON shows it to people and programs: absent values are null, keys never vanish."""

    number: str
    outcome: str
    network_code: str | None
    routing_number: str | None
    operator: str | None
    restriction: dict[str, str] | None
    serial: int
    age_seconds: int | None


class NoticeKind(StrEnum):
    """What a notice changes."""

    PORT = "port"
    RETURN = "return"
    CORRECT = "correct"
    RESTRICT = "restrict"
    EXTEND = "extend"
    LIFT = "lift"


OF_RESTRICTIONS = frozenset({NoticeKind.RESTRICT, NoticeKind.EXTEND, NoticeKind.LIFT})
"""Notices that change no route."""


class Notice(msgspec.Struct, frozen=True, gc=False):
    """One change as the clearinghouse announced it: a number, or a range of consecutive numbers.

    tn_to equals tn for a single number. effective_at is None when the change holds at once. restriction: of the
    notices OF_RESTRICTIONS; one of IMSIs has tn 0.
    """

    kind: NoticeKind
    tn: TN
    tn_to: TN
    recipient: NetworkCode | None
    routing_number: RoutingNumber | None
    donor: NetworkCode | None
    notified_at: UnixSeconds
    effective_at: UnixSeconds | None
    ref: str | None
    restriction: RestrictionTerms | None = None


class Ported(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the store knows of consecutive ported numbers that share everything.

    donor and ported_at are None when no feed told them; sequence is the feed position of the change.
    """

    tn: TN
    tn_to: TN
    network_code: NetworkCode
    routing_number: RoutingNumber | None
    donor: NetworkCode | None
    ported_at: UnixSeconds | None
    sequence: int


class FeedPosition(msgspec.Struct, frozen=True, array_like=True):
    """How far a feed has been applied, and by which file."""

    sequence: int
    type: str
    sha256: str
    created_at: UnixSeconds | None
    confirmed_at: UnixSeconds


class StreamPosition(msgspec.Struct, frozen=True, array_like=True):
    """Which message of a fleet's engine brought a feed to its position.

    stream, created: which stream, and when it was made: one of the same name, made anew, is another one. sequence:
    the message's, in the stream. message: its id.
    """

    stream: str
    created: str
    sequence: int
    message: str


class JournalKind(StrEnum):
    """What a journal entry records."""

    PORT = "port"
    RETURN = "return"
    CORRECT = "correct"
    RESTRICT = "restrict"
    EXTEND = "extend"
    LIFT = "lift"
    REFUSED = "refused"
    SCHEDULED = "scheduled"
    SUPERSEDED = "superseded"
    EMPTY = "empty"
    SNAPSHOT = "snapshot"
    NETWORKS = "networks"
    RANGES = "ranges"
    CLOCK = "clock"
    PRUNED = "pruned"
    RESTORED = "restored"
    REPAIRED = "repaired"


OF_A_RESTRICTION = frozenset({JournalKind.RESTRICT, JournalKind.EXTEND, JournalKind.LIFT, JournalKind.REFUSED})
"""Entries about restrictions. refused: a notice that the rules forbid, such as a second extension; nothing changed."""

CHANGES_NOTHING = frozenset({JournalKind.SCHEDULED, JournalKind.SUPERSEDED, JournalKind.EMPTY}) | OF_A_RESTRICTION
"""Entries that name numbers without changing where they are routed: a notice that waits, and one whose moment came
after a later notice of the same number, or was in a snapshot already; a delta that says that nothing happened; and
what is said of restrictions."""


class JournalEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One change of the store, kept as proof (NPR article 28: at least half a year).

    previous: BLAKE2b-128 of the entry before, as stored; zeros in the first. old: runs of numbers that
    were ported before the change; a number of the range that is in none was not ported. new: the state
    after it, None = not ported (of a correction over numbers with different pasts, donor and ported_at are
    None: each kept its own). digest: the store's, after this change. added, removed, changed: numbers.
    A snapshot's old states lie block by block beside the journal, not in the entry; from_empty: none are
    kept, since no number was ported before it. line: of a notice in its delta. reason: the words of the
    person who let a change through the guard, took a clock step over, repaired, restored or pruned, "who: why".
    old_states_hash, tables_hash: `journal.Fold` over what lies beside the entry, in `journal_blocks` (a
    snapshot's old states) and in `journal_tables`; empty = nothing does. restriction: as the entry left it, or, of
    one that was lifted, as it was; of an entry that was refused, None.
    """

    previous: bytes
    kind: JournalKind
    applied_at: UnixSeconds
    digest: int
    added: int
    removed: int
    changed: int
    feed: str | None = None
    sequence: int | None = None
    tn: TN | None = None
    tn_to: TN | None = None
    old: tuple[Ported, ...] = ()
    new: Ported | None = None
    notified_at: UnixSeconds | None = None
    effective_at: UnixSeconds | None = None
    ref: str | None = None
    source: str | None = None
    sha256: str | None = None
    from_empty: bool = False
    line: int | None = None
    reason: str | None = None
    old_states_hash: bytes = b""
    tables_hash: bytes = b""
    restriction: Restriction | None = None


class Vitals(msgspec.Struct, frozen=True):
    """How a daemon does. queries_per_second, by_dialect: over the last ten seconds. The rest: over the last minute, or
    the over_seconds that are known; reply times are null where nobody measures them."""

    queries_per_second: float = 0.0
    by_dialect: dict[str, float] = {}
    reply_p50_seconds: float | None = None
    reply_p99_seconds: float | None = None
    outcomes: dict[str, int] = {}
    over_seconds: float = 0.0


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """The clocks of one commit: a delta, a snapshot, or pending notices that fired together (type `fired`).

    Stored under the commit's last serial; it covers the journal entries first_serial to that one. visible_at
    is None until the commit is known to be seen by readers, which is noted right after it. applied and
    pending count notices (a snapshot's rows); sequence is 0 and sha256 empty for `fired`.
    """

    type: str
    feed: str
    sequence: int
    source: str
    sha256: str
    first_serial: int
    received_at: UnixMillis
    confirmed_at: UnixMillis
    visible_at: UnixMillis | None
    applied: int
    pending: int
    digest: int

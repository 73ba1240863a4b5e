"""What a delta would change, line by line, read from a pinned state: nothing is written, nobody waits.

The notices are applied to a memory of the numbers they name, in line order, so that a later line sees what an
earlier one did. What a notice means is `apply`'s; this follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from loader import differences
from loader.apply import Progress
from loader.differences import Side
from loader.files import FeedFile, line_chunks, verified
from loader.restrict import Forbidden, after, no_room
from loader.validate import KnownNetworks, read_delta
from lookupd.limits import DELTA_LINE_BYTES_MAX, RESTRICTIONS_PER_BLOCK_MAX
from lookupd.model import (
    TN,
    FeedPosition,
    Notice,
    NoticeKind,
    Ported,
    Restriction,
    RestrictionTerms,
    Target,
    UnixSeconds,
)
from lookupd.numbering import Plan
from lookupd.restriction_view import restriction_view, restriction_words
from lookupd.store.reader import Reader
from lookupd.store.restricted import RECORD, blocks_of, records_of
from lookupd.store.restrictions import imsi_text, key_of, row_key, unpack_row
from lookupd.store.schema import BLOCK_KEY
from lookupd.units import format_time

Order = Literal["next", "duplicate", "contained", "gap"]

HEADER = (
    "line",
    "kind",
    "tn",
    "tn_to",
    "effective_at",
    "waits",
    *differences.HEADER[2:],
    "imsi",
    "imsi_to",
    "restriction",
)

NOT_PORTED = Side()


class Change(msgspec.Struct, frozen=True):
    """Consecutive numbers of one line that go from one state to another; equal states = nothing changes.

    waits: for effective_at; until then the old state holds. It is compared with what holds now. restriction: of a
    notice that changes no route: what becomes of it, or why it will be refused; of IMSIs, tn is 0
    and imsi and imsi_to tell which.
    """

    line: int
    kind: str
    tn: TN
    tn_to: TN
    waits: bool
    effective_at: str | None
    old: Side
    new: Side
    imsi: str | None = None
    imsi_to: str | None = None
    restriction: str | None = None

    @property
    def numbers(self) -> int:
        """How many."""
        return self.tn_to - self.tn + 1


class Preview(msgspec.Struct):
    """What a delta would do. order: next = it can be applied now. Counts are of numbers; waiting, of notices
    and of their numbers, which are in none of the other counts; restrictions, of notices about them, likewise."""

    file: str
    order: Order
    serial: int
    store_sequence: int | None
    file_sequence: int
    notices: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    waiting_notices: int = 0
    waiting_numbers: int = 0
    restrictions: int = 0

    def count(self, change: Change) -> None:
        """Count one."""
        if change.restriction is not None:
            self.restrictions += 1
        elif change.waits:
            self.waiting_numbers += change.numbers
        elif change.new == NOT_PORTED and change.old == NOT_PORTED:
            self.unchanged += change.numbers
        elif change.new == NOT_PORTED:
            self.removed += change.numbers
        elif change.old == NOT_PORTED:
            self.added += change.numbers
        else:
            self.changed += change.numbers


def read(file: FeedFile, plan: Plan, reader: Reader, progress: Progress) -> list[Notice]:
    """The delta's notices, checked. Raises FeedError, Rejected."""
    with verified(file, progress.stage("verify", file.bytes)) as (data, _):
        chunks = line_chunks(file, data, DELTA_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
        return read_delta(file, chunks, plan, KnownNetworks(reader.routes))


def preview(reader: Reader, file: FeedFile, notices: list[Notice]) -> Preview:
    """The counts, all zero, and the order; `changes` fills them."""
    position = reader.state.feeds.get(file.feed)
    at = None if position is None else position.sequence
    return Preview(file.name, _order(file, position), reader.state.serial, at, file.sequence, len(notices))


def _order(file: FeedFile, position: FeedPosition | None) -> Order:
    at = 0 if position is None else position.sequence
    if file.sequence <= at:
        return "duplicate" if position is not None and file.sequence == at else "contained"
    return "next" if file.follows <= at else "gap"


def changes(reader: Reader, notices: list[Notice], now: UnixSeconds, counted: Preview) -> Iterator[Change]:
    """Each line's changes as runs of numbers, in order; counts them as they pass. Raises StoreError."""
    seen: dict[int, Side] = {}
    restrictions: dict[bytes, Restriction | None] = {}
    for line, notice in enumerate(notices, 1):
        if notice.restriction is not None:
            change = _of_restriction(reader, line, notice, notice.restriction, restrictions)
            counted.count(change)
            yield change
            continue
        waits = notice.effective_at is not None and notice.effective_at > now
        counted.waiting_notices += waits
        for change in _runs(reader, line, notice, waits, seen):
            counted.count(change)
            yield change


def _of_restriction(
    reader: Reader, line: int, notice: Notice, terms: RestrictionTerms, seen: dict[bytes, Restriction | None]
) -> Change:
    key = row_key(terms.target, terms.first, terms.last, terms.authority, terms.case)
    if key not in seen:
        seen[key] = _stored(reader, key)
    try:
        found = after(seen[key], notice.kind, terms, notice.notified_at)
        if found is not None and found.until > notice.notified_at:
            _check_room(reader, found, notice.notified_at, seen)
    except Forbidden as error:
        words = f"refused: {error}"
    else:
        kept = found or seen[key]
        assert kept is not None
        words, seen[key] = restriction_words(restriction_view(kept)), found
    first, last = (imsi_text(terms.first), imsi_text(terms.last)) if terms.target is Target.IMSI else (None, None)
    return Change(line, notice.kind, notice.tn, notice.tn_to, False, None, NOT_PORTED, NOT_PORTED, first, last, words)


def _stored(reader: Reader, key: bytes) -> Restriction | None:
    value = reader.stored("restrictions", key)
    return None if value is None else unpack_row(key, value)


def _check_room(reader: Reader, found: Restriction, moment: UnixSeconds, seen: dict[bytes, Restriction | None]) -> None:
    """As `restrict.check_room`, with what the lines before have done. Raises Forbidden."""
    for block in blocks_of(found):
        value = reader.stored("restricted", BLOCK_KEY.pack(block)) or b""
        if len(value) // RECORD.size + len(seen) < RESTRICTIONS_PER_BLOCK_MAX:
            continue  # a value has more bytes than that for each

        def outlasts(it: Restriction | None, block: int = block) -> bool:
            return it is not None and it.until > moment and block in blocks_of(it)

        count = sum(record.until > moment for record in records_of(reader.stored_from, block))
        for key, it in seen.items():
            count += (key != key_of(found) and outlasts(it)) - outlasts(_stored(reader, key))
        if count >= RESTRICTIONS_PER_BLOCK_MAX:
            raise no_room(block)


def _runs(reader: Reader, line: int, notice: Notice, waits: bool, seen: dict[int, Side]) -> Iterator[Change]:
    first, before, after = notice.tn, NOT_PORTED, NOT_PORTED
    for tn in range(notice.tn, notice.tn_to + 1):
        old = seen[tn] if tn in seen else _state(reader.ported(TN(tn)))
        new = _applied(notice, old)
        if not waits:
            seen[tn] = new
        if tn > notice.tn and (old, new) != (before, after):
            yield _change(line, notice, waits, first, TN(tn - 1), before, after)
            first = TN(tn)
        before, after = old, new
    yield _change(line, notice, waits, first, notice.tn_to, before, after)


def _change(line: int, notice: Notice, waits: bool, tn: TN, tn_to: TN, old: Side, new: Side) -> Change:
    return Change(line, notice.kind, tn, tn_to, waits, format_time(notice.effective_at), old, new)


def _state(ported: Ported | None) -> Side:
    if ported is None:
        return NOT_PORTED
    return Side(ported.network_code, ported.routing_number, ported.donor, format_time(ported.ported_at))


def _applied(notice: Notice, old: Side) -> Side:
    """A correction keeps when and from where a number came, unless it names the donor."""
    if notice.kind is NoticeKind.RETURN:
        return NOT_PORTED
    if notice.kind is NoticeKind.CORRECT:
        return Side(notice.recipient, notice.routing_number, notice.donor or old.donor, old.ported_at)
    ported_at = format_time(notice.effective_at or notice.notified_at)
    return Side(notice.recipient, notice.routing_number, notice.donor, ported_at)

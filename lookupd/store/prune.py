"""Takes entries out of the journal that are old enough, on a person's word, and leaves an anchor for the chain.

In short transactions, each of which leaves a whole store: the loader waits for one of them at most, and a kill
between two loses nothing. First the entries go and the anchor moves along, then what lay beside them; rows that
a kill left behind are passed over by everybody and taken by the next pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from lookupd.errors import ConfigError
from lookupd.model import JournalKind, UnixSeconds
from lookupd.store import journal
from lookupd.store.change import Change, Counts
from lookupd.store.reader import Reader
from lookupd.store.schema import JOURNAL_BLOCK_KEY, META_ANCHOR, SERIAL_KEY, Anchor, pack_anchor, unpack_anchor
from lookupd.store.writer import Writer
from lookupd.units import format_time

PRUNED_AT_ONCE: Final = 50_000
"""Entries, or rows beside them, taken in one transaction: about a tenth of a second in which nobody else writes."""

_END_OF_TIME: Final = UnixSeconds((1 << 63) - 1)


class Pruned(msgspec.Struct, frozen=True):
    """What was taken. rows: beside the entries. anchor: where the history begins now, None = nothing was ever taken."""

    entries: int
    rows: int
    anchor: Anchor | None


def prune(
    writer: Writer,
    before: UnixSeconds,
    now: UnixSeconds,
    history: float,
    sign_off: str,
    advance: Callable[[int], None] = lambda count: None,
) -> Pruned:
    """Take the entries that were applied before a moment, from the oldest up to the first that is not older.

    history: seconds that entries are kept, `limits.history`. sign_off: a person's word, "who: why"; it is
    journalled with each transaction. advance: told how many entries and rows went. Never taken are the newest
    entry, and what follows the oldest entry that scheduled a notice which still waits.
    Raises ConfigError when the moment is too young, StoreError when the store cannot be written; what was
    committed until then stays.
    """
    youngest = UnixSeconds(int(now - history))
    if before > youngest:
        raise ConfigError(
            f"--before {format_time(before)}: entries of the last {history / 86_400:g} days are kept "
            f"(limits.history): {format_time(youngest)} is the youngest moment; nothing was pruned"
        )
    entries = 0
    while True:
        with writer.change(now) as change:
            taken = _take_entries(change, before, sign_off, entries)
        entries += taken
        advance(taken)
        if taken < PRUNED_AT_ONCE:
            break
    with writer.reader() as reader:
        anchor = reader.anchor()
    rows = 0 if anchor is None else sum(_sweep(writer, name, anchor.serial, now, advance) for name in _SERIALS)
    return Pruned(entries, rows, anchor)


def _take_entries(change: Change, before: UnixSeconds, sign_off: str, count: int) -> int:
    """Take the oldest entries, move the anchor behind them and journal that; returns how many."""
    stop = min([change.serial, *(waits.serial for waits in change.due(_END_OF_TIME))])
    stored_anchor = change.transaction.get(META_ANCHOR, db=change.handles["meta"])
    fed = stored_anchor is not None and unpack_anchor(stored_anchor).fed
    newest: tuple[int, UnixSeconds, bytes] | None = None
    taken = 0
    with change.transaction.cursor(db=change.handles["journal"]) as cursor:
        more = cursor.first()
        while more and taken < PRUNED_AT_ONCE:
            serial, stored = SERIAL_KEY.unpack(cursor.key())[0], bytes(cursor.value())
            head = journal.unpack_head(serial, stored)
            if serial >= stop or head.applied_at >= before:
                break
            newest = serial, head.applied_at, stored
            fed |= head.feed is not None
            taken += 1
            more = cursor.delete()  # moves to the next
    if newest is None:
        return 0
    serial, applied_at, stored = newest
    anchor = Anchor(serial, journal.entry_hash(stored), applied_at, change.now, sign_off, count + taken, fed)
    change.transaction.put(META_ANCHOR, pack_anchor(anchor), db=change.handles["meta"])
    change.record(JournalKind.PRUNED, Counts(), source=journal.pruned_words(anchor), reason=sign_off)
    return taken


def _of_block(key: bytes) -> int:
    return int(JOURNAL_BLOCK_KEY.unpack(key)[1])


def _of_row(key: bytes) -> int:
    return journal.split_row_key(key)[1]


def _of_receipt(key: bytes) -> int:
    return int(SERIAL_KEY.unpack(key)[0])


_SERIALS: Final = {"journal_blocks": _of_block, "journal_tables": _of_row, "receipts": _of_receipt}
"""Databases beside the journal: their keys' serials."""


def _sweep(writer: Writer, name: str, anchored: int, now: UnixSeconds, advance: Callable[[int], None]) -> int:
    """Delete the rows of pruned serials. They are looked for without a lock: none can come to them."""
    after, swept = b"", 0
    while True:
        with writer.reader() as reader:
            stale = list(islice(_stale(reader, name, after, anchored), PRUNED_AT_ONCE))
        if not stale:
            return swept
        with writer.change(now) as change:
            for key in stale:
                change.transaction.delete(key, db=change.handles[name])
            change.swept = True
        swept += len(stale)
        advance(len(stale))
        after = stale[-1]


def _stale(reader: Reader, name: str, after: bytes, anchored: int) -> Iterator[bytes]:
    serial_of = _SERIALS[name]
    return (key for key, _ in reader.stored_from(name, after) if serial_of(key) <= anchored)

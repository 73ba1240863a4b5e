"""Proof that the history is whole: the chain of hashes from its anchor to the state, and all that lies beside it.

Reads only, and tells; the answers' own proof is `verify`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

from lookupd.errors import StoreError
from lookupd.limits import RANGE_NUMBERS_MAX
from lookupd.model import JournalEntry, JournalKind
from lookupd.store import journal
from lookupd.store.reader import Reader
from lookupd.store.restrictions import decode_restriction
from lookupd.store.schema import (
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    PENDING_KEY,
    SERIAL_KEY,
    Anchor,
    PendingNotice,
    decode_receipt,
    decode_route,
    unpack_pending,
)

Tell = Callable[[str], None]

_NIL = b"\xc0"
_text = msgspec.msgpack.Decoder(str)
_number = msgspec.msgpack.Decoder(int)


class _Beside(msgspec.Struct):
    """What the entries of the chain say lies beside them. anchored, newest: serials where the chain begins and ends."""

    anchored: int
    newest: int = 0
    states: dict[int, bytes] = msgspec.field(default_factory=dict)
    tables: dict[int, bytes] = msgspec.field(default_factory=dict)
    notice_blocks: int = 0


def check_history(reader: Reader, tell: Tell) -> int:
    """Tell every problem of the pinned state's history; returns how many entries there are.

    The chain comes first. What lies beside it is judged by the entries that could be read.
    """
    try:
        anchor = reader.anchor()
    except StoreError as error:
        tell(str(error))
        anchor = None
    entries, beside = _check_chain(reader, anchor, tell)
    for check in (_check_old_states, _check_tables, _check_receipts, _check_pending):
        try:
            check(reader, beside, tell)
        except StoreError as error:
            tell(str(error))
    return entries


def _check_chain(reader: Reader, anchor: Anchor | None, tell: Tell) -> tuple[int, _Beside]:
    """Each entry carries the hash of the one before; the anchor has the first one's, the state the last one's."""
    serial, previous = (0, journal.FIRST) if anchor is None else (anchor.serial, anchor.hash)
    beside = _Beside(serial)
    entries = 0
    pruned: JournalEntry | None = None
    try:
        for found, entry, digest in reader.journal():
            if found != serial + 1:
                lost = "an anchor is missing or changed, or " if not entries else ""
                tell(f"journal entry {found}: {lost}entries {serial + 1} to {found - 1} are missing")
            if entry.previous != previous:
                tell(f"journal entry {found}: the entry before was changed or is missing")
            serial, previous = found, digest
            entries += 1
            pruned = entry if entry.kind is JournalKind.PRUNED else pruned
            _note_beside(reader, found, entry, beside, tell)
    except StoreError as error:
        tell(str(error))
    if serial != reader.state.serial:
        tell(f"journal ends at {serial}, the state says {reader.state.serial}")
    elif previous != reader.state.journal_head:
        tell(f"journal entry {serial}, the newest, was changed")
    _check_anchor(anchor, pruned, tell)
    beside.newest = serial
    return entries, beside


def _check_anchor(anchor: Anchor | None, pruned: JournalEntry | None, tell: Tell) -> None:
    """The newest pruning's entry says what the anchor must be."""
    if pruned is None:
        if anchor is not None:
            tell("journal: there is an anchor, but no entry of a pruning")
    elif anchor is None:
        tell("journal: entries were pruned, but their anchor is missing")
    elif (pruned.source, pruned.reason, pruned.applied_at) != (
        journal.pruned_words(anchor),
        anchor.sign_off,
        anchor.pruned_at,
    ):
        tell("journal: the anchor is not the one that the newest pruning wrote")


def _note_beside(reader: Reader, serial: int, entry: JournalEntry, beside: _Beside, tell: Tell) -> None:
    if entry.old_states_hash:
        beside.states[serial] = entry.old_states_hash
    if entry.tables_hash:
        beside.tables[serial] = entry.tables_hash
    if entry.tn is not None and entry.tn_to is not None:
        if not 0 <= entry.tn_to - entry.tn < RANGE_NUMBERS_MAX:  # not what was written: the chain tells too
            tell(f"journal entry {serial}: {entry.tn} to {entry.tn_to} is no range")
            return
        for block in range(entry.tn // NUMBERS_PER_BLOCK, entry.tn_to // NUMBERS_PER_BLOCK + 1):
            beside.notice_blocks += 1
            if reader.stored("journal_blocks", JOURNAL_BLOCK_KEY.pack(block, serial)) != b"":
                tell(f"journal entry {serial}: block {block} does not refer to it")


def _check_old_states(reader: Reader, beside: _Beside, tell: Tell) -> None:
    """Each snapshot's old states are those it was recorded with; each notice's reference is one of its entry's."""
    folds: dict[int, journal.Fold] = {}
    notice_blocks = 0
    for key, value in reader.stored_from("journal_blocks"):
        if len(key) != JOURNAL_BLOCK_KEY.size:
            tell(f"journal_blocks: a key is damaged: {key.hex()}")
            continue
        block, serial = JOURNAL_BLOCK_KEY.unpack(key)
        if serial <= beside.anchored:
            continue  # left behind by a pruning that was cut short; the next one takes it
        if reader.stored("journal", SERIAL_KEY.pack(serial)) is None:
            tell(f"journal_blocks: block {block} refers to entry {serial}, which is missing")
        if value:
            folds.setdefault(serial, journal.Fold()).add(key, value)
        else:
            notice_blocks += 1
    if notice_blocks != beside.notice_blocks:
        tell(f"journal_blocks: {notice_blocks} references to notices, the entries need {beside.notice_blocks}")
    _compare(beside.states, folds, "old states", tell)


def _check_tables(reader: Reader, beside: _Beside, tell: Tell) -> None:
    """Each table row's past is what it was recorded as, and can be read."""
    folds: dict[int, journal.Fold] = {}
    for key, value in reader.stored_from("journal_tables"):
        try:
            name, serial = journal.split_row_key(key)
            if serial <= beside.anchored:
                continue
            _decode_row(name, value)
        except (StoreError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            tell(f"journal_tables: row {key.hex()}: {error}")
            continue
        folds.setdefault(serial, journal.Fold()).add(key, value)
    _compare(beside.tables, folds, "rows of journal_tables", tell)


def _decode_row(name: bytes, value: bytes) -> None:
    if name[:1] == journal.CLOCK_FELL:
        _number.decode(value)
    elif name[:1] == journal.LEGEND:
        journal.decode_legend(value)
    elif value != _NIL and name[:1] == journal.RESTRICTION:
        decode_restriction(value)
    elif value != _NIL:
        decode_route(value) if name[:1] == journal.NETWORK else _text.decode(value)


def _compare(recorded: dict[int, bytes], folds: dict[int, journal.Fold], what: str, tell: Tell) -> None:
    for serial in sorted(recorded.keys() | folds.keys()):
        found = folds[serial].digest() if serial in folds else b""
        if found != recorded.get(serial, b""):
            tell(f"journal entry {serial}: its {what} were changed or are missing")


def _check_receipts(reader: Reader, beside: _Beside, tell: Tell) -> None:
    """Receipts can be read, cover entries that were recorded, and each entry lies in one at most."""
    last = beside.anchored
    for key, value in reader.stored_from("receipts"):
        serial = SERIAL_KEY.unpack(key)[0] if len(key) == SERIAL_KEY.size else 0
        if 0 < serial <= beside.anchored:
            continue
        try:
            receipt = decode_receipt(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            tell(f"receipt {serial} is damaged: {error}")
            continue
        # Of a delta without notices, the first serial is the one after its last.
        if not last < max(receipt.first_serial, beside.anchored + 1) <= serial + 1 <= beside.newest + 1:
            tell(f"receipt {serial} covers entries {receipt.first_serial} to {serial}: that cannot be")
        last = serial


def _check_pending(reader: Reader, beside: _Beside, tell: Tell) -> None:
    """Each waiting notice can be read, lies under its own moment, and the entry that scheduled it is there."""
    for key, value in reader.stored_from("pending"):
        try:
            waits = unpack_pending(value)
        except (msgspec.MsgspecError, ValueError, struct.error) as error:
            tell(f"pending notice {key.hex()} is damaged: {error}")
            continue
        name = f"pending notice {waits.feed} {waits.sequence}, line {waits.line}"
        if key != PENDING_KEY.pack(waits.notice.effective_at or 0, waits.sequence, waits.line):
            tell(f"{name}: it lies under another notice's key")
        stored = reader.stored("journal", SERIAL_KEY.pack(waits.serial))
        if stored is None:
            tell(f"{name}: journal entry {waits.serial}, which scheduled it, is missing")
        elif not _scheduled(waits, journal.unpack(waits.serial, stored)):
            tell(f"{name}: journal entry {waits.serial} did not schedule it")


def _scheduled(waits: PendingNotice, entry: JournalEntry) -> bool:
    notice = waits.notice
    return entry.kind is JournalKind.SCHEDULED and (
        (entry.feed, entry.sequence, entry.tn, entry.tn_to, entry.notified_at, entry.effective_at, entry.ref)
        == (waits.feed, waits.sequence, notice.tn, notice.tn_to, notice.notified_at, notice.effective_at, notice.ref)
    )


def stored_entries(reader: Reader, first: int) -> Iterator[tuple[int, bytes]]:
    """Serial and bytes of each entry from serial `first` on, as they are hashed."""
    for key, stored in reader.stored_from("journal", SERIAL_KEY.pack(first)):
        yield SERIAL_KEY.unpack(key)[0], stored

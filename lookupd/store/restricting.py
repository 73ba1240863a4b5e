"""Restrictions inside a write transaction: rows, the bits of the numbers, what look-ups read, digest, history.

What may be placed, extended and lifted, and by whom, is the loader's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from lookupd.limits import RESTRICTIONS_PER_BLOCK_MAX
from lookupd.model import Restriction, Target, UnixSeconds
from lookupd.store import restrictions
from lookupd.store.change import Change
from lookupd.store.restricted import blocks_of, record_of
from lookupd.store.restrictions import (
    KEY,
    NUMBERS,
    REACHES_KEY,
    key_of,
    pack_row,
    reaches_keys,
    restriction_term,
    row_key,
)
from lookupd.store.schema import NUMBERS_PER_BLOCK, RESTRICTED, U16, encode


def known(change: Change, target: Target, first: int, last: int, authority: str, case: str) -> Restriction | None:
    """The one of this target, authority and case; None if there is none. Raises StoreError if it is damaged."""
    key = row_key(target, first, last, authority, case)
    value = change.transaction.get(key, db=change.handles["restrictions"])
    return None if value is None else restrictions.unpack_row(key, bytes(value))


def full_block(change: Change, restriction: Restriction, moment: UnixSeconds) -> int | None:
    """A block with no room for it: RESTRICTIONS_PER_BLOCK_MAX others that reach into it lapse after the moment.

    One that has lapsed by then needs none, whichever they are. Else None; the same whenever it is asked.
    """
    it = restriction
    if it.until <= moment:
        return None
    before = known(change, it.target, it.first, it.last, it.authority, it.case)
    is_among = before is not None and before.until > moment
    for block in blocks_of(it):
        records = change.restricted.unpack(block)
        if len(records) - is_among >= RESTRICTIONS_PER_BLOCK_MAX:
            outlast = sum(record.until > moment for record in records)
            if outlast - is_among >= RESTRICTIONS_PER_BLOCK_MAX:
                return block
    return None


def put(change: Change, restriction: Restriction) -> None:
    """Place it, or put it in the place of the one of the same target, authority and case.

    Whether there is room is told by `full_block`; without, answers read the rows, which takes longer.
    """
    it = restriction
    before = known(change, it.target, it.first, it.last, it.authority, it.case)
    handle = change.handles["restrictions"]
    change.keep_row(restrictions.history_name(key_of(restriction)), encode(before))
    for block in blocks_of(restriction):
        was = None if before is None else record_of(block, before)
        change.restricted.replace(block, was, record_of(block, restriction))
    change.transaction.put(key_of(restriction), pack_row(restriction), db=handle)
    change.digest += restriction_term(restriction) - (0 if before is None else restriction_term(before))
    if before is None and restriction.target is Target.NUMBER:
        for key in reaches_keys(restriction):
            change.transaction.put(key, b"", db=handle)
        change.mark(range(restriction.first, restriction.last + 1), restricted=True)


def delete(change: Change, restriction: Restriction) -> None:
    """Take it out; numbers of which no other tells are free. It must be there as it is given."""
    handle = change.handles["restrictions"]
    change.keep_row(restrictions.history_name(key_of(restriction)), encode(restriction))
    for block in blocks_of(restriction):
        change.restricted.replace(block, record_of(block, restriction))
    change.transaction.delete(key_of(restriction), db=handle)
    change.digest -= restriction_term(restriction)
    if restriction.target is Target.NUMBER:
        for key in reaches_keys(restriction):
            change.transaction.delete(key, db=handle)
        left = set(_covered(change, restriction.first, restriction.last))
        change.mark((tn for tn in range(restriction.first, restriction.last + 1) if tn not in left), restricted=False)


def restore_bits(change: Change, block: int, entries: bytearray) -> None:
    """Set the bits of a block's entries anew, from the rows, and what look-ups read of them."""
    change.restricted.unpack(block)  # and so writes it anew
    first = block * NUMBERS_PER_BLOCK
    marked = set(_covered(change, first, first + NUMBERS_PER_BLOCK - 1))
    for offset in range(NUMBERS_PER_BLOCK):
        entry = U16.unpack_from(entries, 2 * offset)[0] & ~RESTRICTED
        U16.pack_into(entries, 2 * offset, entry | (RESTRICTED if first + offset in marked else 0))


def _covered(change: Change, first: int, last: int) -> Iterator[int]:
    """Numbers from first to last that a row is about."""
    for of_first, of_last in {*_beginning(change, first, last), *_reaching(change, first, last)}:
        yield from range(max(first, of_first), min(last, of_last) + 1)


def _beginning(change: Change, first: int, last: int) -> Iterator[tuple[int, int]]:
    for key, _ in change.rows_from("restrictions", KEY.pack(NUMBERS, first, 0, 0)):
        name, of_first, of_last, _ = KEY.unpack(key) if key[:1] == NUMBERS else (b"", last + 1, 0, 0)
        if name != NUMBERS or of_first > last:
            break
        yield of_first, of_last


def _reaching(change: Change, first: int, last: int) -> Iterator[tuple[int, int]]:
    for key, _ in change.rows_from(
        "restrictions", REACHES_KEY.pack(restrictions.REACHES, first // NUMBERS_PER_BLOCK, 0, 0, 0)
    ):
        if key[:1] != restrictions.REACHES:
            break
        _, block, of_first, of_last, _ = REACHES_KEY.unpack(key)
        if block > last // NUMBERS_PER_BLOCK:
            break
        yield of_first, of_last

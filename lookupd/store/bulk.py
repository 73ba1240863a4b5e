"""A whole snapshot against the store: find the difference window by window, and write only that.

A window is a few thousand blocks, so memory is bounded whatever the store's size. Reading the difference
and writing it are separate steps: a comparison uses the first one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lookupd import native_bulk
from lookupd.errors import StoreError
from lookupd.limits import BLOCKS_PER_LOT, BLOCKS_PER_WINDOW
from lookupd.store import restricting
from lookupd.store.change import Change, Counts
from lookupd.store.columns import (
    DETAIL_DTYPE,
    PREVIOUS_DTYPE,
    THOUSAND,
    Columns,
    U16s,
    U64s,
    block_starts,
    number_terms,
    sums_by_row,
)
from lookupd.store.schema import (
    BLOCK_KEY,
    ENTRIES_BYTES,
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    RESTRICTED,
    ROUTE_MASK,
    U64,
    UNKNOWN_ROUTE,
    Handle,
    block_is_sound,
    pack_block,
    pack_details,
    unpack_details,
)

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_Packed = tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], int]


@dataclass(frozen=True)
class Window:
    """Some consecutive blocks as they are (old) and as a snapshot says they should be (new).

    A position is row * 1000 + offset, where row is the block's index in `blocks`. new_at and old_at are
    the rising positions of ported numbers; new_in_old says where a new one would stand among the old.
    """

    blocks: U64s
    existed: Mask
    damaged: Mask
    entries: U16s
    content: U64s
    old_at: Positions
    old_route: U16s
    old_details: npt.NDArray[np.void]
    new_at: Positions
    new: Columns
    new_in_old: Positions
    known: Mask
    same: Mask

    @property
    def counts(self) -> Counts:
        """How many numbers the snapshot adds, removes and changes here."""
        known = int(self.known.sum())
        same = int(self.same.sum())
        return Counts(len(self.new_at) - known, len(self.old_at) - known, known - same, same, int(self.damaged.sum()))

    @property
    def removed_at(self) -> Mask:
        """Which old numbers the snapshot does not have."""
        removed = np.ones(len(self.old_at), bool)
        removed[self.new_in_old[self.known]] = False
        return removed


class Comparable(Protocol):
    """A state of the store that a snapshot is compared with: a Change, or a reader's pinned state."""

    @property
    def transaction(self) -> Any:
        """LMDB's, for reading."""
        ...

    @property
    def handles(self) -> dict[str, Handle]:
        """Of the databases, by name."""
        ...

    def flush(self) -> None:
        """Write out what is only in memory."""
        ...


def windows(change: Comparable, snapshot: Columns) -> Iterator[Window]:
    """Compare a snapshot with the store, a window at a time, in the order of the numbers."""
    for numbers, blocks, existed in _of_windows(change, snapshot):
        yield _window(change, numbers, blocks, existed)


def _of_windows(change: Comparable, snapshot: Columns) -> Iterator[tuple[Columns, U64s, Mask]]:
    """For each window what the snapshot wants in it, the blocks of either side, and which of them are stored."""
    change.flush()
    with change.transaction.cursor(db=change.handles["blocks"]) as cursor:
        stored = np.frombuffer(b"".join(cursor.iternext(keys=True, values=False)), ">u8").astype(np.uint64)
    wanted = snapshot.tn[block_starts(snapshot.tn)] // THOUSAND
    blocks = np.union1d(stored, wanted)
    existed = np.isin(blocks, stored, assume_unique=True)
    for at in range(0, len(blocks), BLOCKS_PER_WINDOW):
        some = blocks[at : at + BLOCKS_PER_WINDOW]
        first, end = np.searchsorted(snapshot.tn, [some[0] * THOUSAND, (some[-1] + np.uint64(1)) * THOUSAND])
        yield snapshot.slice(int(first), int(end)), some, existed[at : at + BLOCKS_PER_WINDOW]


def _window(change: Comparable, new: Columns, blocks: U64s, existed: Mask) -> Window:
    new_at = _positions(blocks, new.tn)
    damaged, entries, content, details, old_at = _read(change, blocks, existed)
    old_route = entries.reshape(-1)[old_at] & np.uint16(ROUTE_MASK)
    new_in_old = np.searchsorted(old_at, new_at)
    known = np.zeros(len(new_at), bool)
    inside = new_in_old < len(old_at)
    known[inside] = old_at[new_in_old[inside]] == new_at[inside]
    same = known.copy()
    at = new_in_old[known]
    same[known] = (
        (old_route[at] == new.route[known])
        & (details["donor"][at] == new.donor[known])
        & (details["ported_at"][at] == new.ported_at[known])
    )
    return Window(
        blocks,
        existed,
        damaged,
        entries,
        content,
        old_at,
        old_route,
        details,
        new_at,
        new,
        new_in_old,
        known,
        same,
    )


def _positions(blocks: U64s, tn: U64s) -> Positions:
    starts = block_starts(tn)
    block = tn[starts] // THOUSAND
    shift = (np.searchsorted(blocks, block).astype(np.uint64) - block) * THOUSAND  # mod 2^64
    return (tn + np.repeat(shift, np.diff(starts, append=len(tn)))).astype(np.int64)


def _read(change: Comparable, blocks: U64s, existed: Mask) -> tuple[Mask, U16s, U64s, npt.NDArray[np.void], Positions]:
    """Which blocks are damaged; entries, content digests, details and positions of the ported numbers.

    A damaged block is read as if it were empty, so that the snapshot mends it.
    """
    get = change.transaction.get
    damaged = np.zeros(len(blocks), bool)
    entries = np.zeros((len(blocks), NUMBERS_PER_BLOCK), np.uint16)
    content = np.zeros(len(blocks), np.uint64)
    details: list[bytes] = []
    lengths = np.zeros(len(blocks), np.int64)
    for row in np.flatnonzero(existed).tolist():
        block = int(blocks[row])
        key = BLOCK_KEY.pack(block)
        value = get(key, b"", db=change.handles["blocks"])
        try:
            records = unpack_details(block, get(key, db=change.handles["details"]))
        except StoreError:
            records = b""  # entries without details: found out below
        if not block_is_sound(block, value):
            damaged[row] = True
            continue
        entries[row] = np.frombuffer(value, "<u2", NUMBERS_PER_BLOCK)
        content[row] = U64.unpack_from(value, ENTRIES_BYTES)[0]
        details.append(records)
        lengths[row] = len(records) // DETAIL_DTYPE.itemsize
    joined = np.frombuffer(b"".join(details), DETAIL_DTYPE)
    rows = np.repeat(np.arange(len(blocks)), lengths)
    at = rows * NUMBERS_PER_BLOCK + joined["offset"] % NUMBERS_PER_BLOCK
    ported = (entries & np.uint16(ROUTE_MASK)) != 0
    damaged |= ported.sum(axis=1) != lengths
    damaged[rows[~ported.reshape(-1)[at]]] = True
    if damaged.any():
        keep = ~damaged[rows]
        joined, at = joined[keep], at[keep]
        entries[damaged] = 0
        content[damaged] = 0
    return damaged, entries, content, joined, at


def replace_all(
    change: Change, snapshot: Columns, sequence: int, advance: Callable[[int], None] = lambda blocks: None
) -> Counts:
    """Make the snapshot the store's whole state; returns what that changed.

    sequence: feed position noted with each changed number. advance: told how many blocks were done.
    The caller records the change in the journal right after: old states go under the next serial.
    """
    fingerprints = np.array(change.fingerprints, np.uint64)
    if native_bulk.available() and _is_bare(change):
        total = Counts(added=len(snapshot))
        content = _fill(change, snapshot, sequence, fingerprints, advance)
    else:
        total, content = _replace(change, snapshot, sequence, fingerprints, advance)
    change.ported = len(snapshot)
    change.blocks = change.transaction.stat(change.handles["blocks"])["entries"]
    change.digest = content + change.tables_digest()  # afresh: of a damaged block the old share is unknown
    return total


def _replace(
    change: Change, snapshot: Columns, sequence: int, fingerprints: U64s, advance: Callable[[int], None]
) -> tuple[Counts, int]:
    """Write what differs, window by window; returns what that changed, and the sum of the content digests."""
    total, content = Counts(), 0
    from_empty = change.blocks == 0
    for wanted, every, stored in _of_windows(change, snapshot):
        advance(len(every))
        numbers, blocks, existed = wanted, every, stored
        if native_bulk.available():
            same, count, share = _unchanged(change, wanted, every[stored])
            total.unchanged += count
            content += share
            if len(same) == len(every):
                continue
            numbers = _without(wanted, same)
            left = np.isin(every, same, assume_unique=True, invert=True)
            blocks, existed = every[left], stored[left]
        window = _window(change, numbers, blocks, existed)
        counts = window.counts
        if counts.added or counts.removed or counts.changed or counts.mended:
            content += _write(change, window, sequence, fingerprints, from_empty)
        else:
            content += int(window.content.sum())
        total.add(counts)
    return total, content


def _unchanged(change: Change, numbers: Columns, blocks: U64s) -> tuple[U64s, int, int]:
    """Which of these stored blocks the snapshot leaves as they are, their numbers, and their content digests' sum."""
    keys = [BLOCK_KEY.pack(block) for block in blocks.tolist()]
    stored: list[Any] = []  # py-lmdb: bytes, or views where the transaction was begun so
    for name in ("blocks", "details"):
        with change.transaction.cursor(db=change.handles[name]) as cursor:
            stored.append(cursor.getmulti(keys))
    same, count, content = native_bulk.unchanged_blocks(
        numbers.tn, numbers.route, numbers.donor, numbers.ported_at, *stored
    )
    return np.frombuffer(same, np.uint64), count, content


def _without(numbers: Columns, blocks: U64s) -> Columns:
    """The numbers that are not in these blocks."""
    starts = block_starts(numbers.tn)
    kept = np.isin(numbers.tn[starts] // THOUSAND, blocks, assume_unique=True, invert=True)
    mask = np.repeat(kept, np.diff(starts, append=len(numbers)))
    return Columns(numbers.tn[mask], numbers.route[mask], numbers.donor[mask], numbers.ported_at[mask])


def _is_bare(change: Change) -> bool:
    """Whether there is neither a block nor a detail, and the state says so too."""
    change.flush()
    return change.blocks == 0 and not any(
        change.transaction.stat(change.handles[name])["entries"] for name in ("blocks", "details")
    )


def _fill(change: Change, snapshot: Columns, sequence: int, fingerprints: U64s, advance: Callable[[int], None]) -> int:
    """Write a snapshot into a store without blocks, packed natively; returns the sum of the content digests.

    What `windows` and `_write` would do, one lot being packed while the last one is put.
    """
    handles = change.handles
    with (
        ThreadPoolExecutor(1, "pack") as thread,
        change.transaction.cursor(db=handles["blocks"]) as blocks,
        change.transaction.cursor(db=handles["details"]) as details,
    ):

        def put(packing: Future[_Packed]) -> int:
            block_rows, details_rows, content = packing.result()
            for cursor, rows in ((details, details_rows), (blocks, block_rows)):
                consumed, added = cursor.putmulti(rows, append=True)
                if (consumed, added) != (len(rows), len(rows)):
                    raise StoreError("blocks did not go in at the end: load into a new store")
            change.blocks += len(block_rows)
            advance(len(block_rows))
            return content

        content = 0
        ahead: Future[_Packed] | None = None
        for part in _lots(snapshot):
            packing = thread.submit(
                native_bulk.pack_numbers, part.tn, part.route, part.donor, part.ported_at, sequence, fingerprints
            )
            if ahead is not None:
                content += put(ahead)
            ahead = packing
        return content + put(ahead) if ahead is not None else content


def _lots(snapshot: Columns) -> Iterator[Columns]:
    """Whole blocks, as many at a time as one thread packs while another puts."""
    starts = block_starts(snapshot.tn)[::BLOCKS_PER_LOT].tolist()
    for first, end in pairwise([*starts, len(snapshot)]):
        yield snapshot.slice(first, end)


def _write(change: Change, window: Window, sequence: int, fingerprints: U64s, from_empty: bool) -> int:
    """Write the window's touched blocks; returns the sum of the content digests of all its blocks."""
    new, rows = window.new, window.new_at // NUMBERS_PER_BLOCK
    row_count = len(window.blocks)
    entries = window.entries & np.uint16(RESTRICTED)
    for row in np.flatnonzero(window.damaged).tolist():
        bits = bytearray(ENTRIES_BYTES)
        restricting.restore_bits(change, int(window.blocks[row]), bits)
        entries[row] = np.frombuffer(bits, "<u2")
    entries.reshape(-1)[window.new_at] |= new.route
    content = sums_by_row(number_terms(new.tn, fingerprints[new.route]), rows, row_count)
    details = np.zeros(len(new), DETAIL_DTYPE)
    details["offset"] = window.new_at % NUMBERS_PER_BLOCK
    details["donor"] = new.donor
    details["ported_at"] = new.ported_at
    details["sequence"] = sequence
    details["sequence"][window.same] = window.old_details["sequence"][window.new_in_old[window.same]]

    touched = window.damaged.copy()
    touched[rows[~window.same]] = True
    touched[window.old_at[window.removed_at] // NUMBERS_PER_BLOCK] = True
    bounds = np.searchsorted(rows, np.arange(row_count + 1)).tolist()
    put, delete = change.transaction.put, change.transaction.delete
    blocks_db, details_db = change.handles["blocks"], change.handles["details"]
    for row in np.flatnonzero(touched).tolist():
        block = int(window.blocks[row])
        key = BLOCK_KEY.pack(block)
        first, end = bounds[row], bounds[row + 1]
        if end > first:
            put(key, pack_details(block, details[first:end].tobytes()), db=details_db, append=from_empty)
        else:
            delete(key, db=details_db)
        if end > first or entries[row].any():
            put(
                key,
                pack_block(block, entries[row].tobytes(), int(content[row])),
                db=blocks_db,
                append=from_empty,
            )
            change.blocks += not window.existed[row]
        else:
            delete(key, db=blocks_db)
            change.blocks -= 1
    if not from_empty:
        _keep_old_states(change, window)
    return int(content.sum())


def _keep_old_states(change: Change, window: Window) -> None:
    """Beside the journal, block by block: what each changed number was before (PREVIOUS records).

    Of a damaged block nobody knows: one record says so for all of its numbers.
    """
    changed = window.known & ~window.same
    before = np.concatenate((np.flatnonzero(window.removed_at), window.new_in_old[changed]))
    added = window.new_at[~window.known]
    added = added[~window.damaged[added // NUMBERS_PER_BLOCK]]
    mended = np.flatnonzero(window.damaged) * NUMBERS_PER_BLOCK
    at = np.concatenate((window.old_at[before], added, mended))
    if not len(at):
        return
    records = np.zeros(len(at), PREVIOUS_DTYPE)
    records["route"][len(before) + len(added) :] = UNKNOWN_ROUTE
    records["offset"] = at % NUMBERS_PER_BLOCK
    told = slice(0, len(before))
    records["route"][told] = window.old_route[before]
    for name in ("donor", "ported_at", "sequence"):
        records[name][told] = window.old_details[name][before]
    order = np.argsort(at, kind="stable")
    rows = at[order] // NUMBERS_PER_BLOCK
    stored = records.view(np.uint8).reshape(-1, PREVIOUS_DTYPE.itemsize)[order]  # with the gaps, which stay zero
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]]).tolist()
    for first, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        key = JOURNAL_BLOCK_KEY.pack(int(window.blocks[rows[first]]), change.serial + 1)
        value = stored[first:end].tobytes()
        change.transaction.put(key, value, db=change.handles["journal_blocks"])
        change.old_states_fold.add(key, value)
    change.old_routes.update(np.unique((records["route"], records["donor"])).tolist())

"""Damaged blocks written afresh from the numbers that another replica has for them, and the proof that they fit.

The store's digest was kept while the block was whole. So the digest summed anew, with what was written in the
damaged block's place, equals it exactly if the numbers are those that were lost: that is the proof, and no
other is needed. The sequence of a detail, the donor and the time, which no digest covers, are the peer's word.

The journal: a proven mend changes no number's state, so its entry (`repaired`) has no numbers and no old
states, and whoever asks for the state as of a moment passes over it. A mend that is not proven may have changed
any number of its block: beside its entry lies one record for the block that says that nobody knows what was
before, as for a block that a snapshot mended, and a question that reaches back behind it is answered so.

Finding damage is for `scrub`, fetching the numbers for the loader's `peer`, mending from files for its `mend`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from lookupd.errors import StoreError
from lookupd.model import JournalKind, NetworkCode, RoutingNumber
from lookupd.store import restricting
from lookupd.store.change import Change, Counts
from lookupd.store.columns import DETAIL_DTYPE, U16s
from lookupd.store.portable import Row
from lookupd.store.schema import (
    BLOCK_KEY,
    DETAIL,
    ENTRIES_BYTES,
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    PREVIOUS,
    ROUTE_MASK,
    U16,
    U64,
    UNKNOWN_ROUTE,
    Value,
    block_is_sound,
    format_digest,
    number_term,
    pack_block,
    pack_details,
    unpack_details,
)

_NOBODY_KNOWS = PREVIOUS.pack(0, UNKNOWN_ROUTE, 0, 0, 0)


class Sums(msgspec.Struct, frozen=True):
    """Read anew from all blocks. damaged: blocks that could not be counted in."""

    digest: int
    ported: int
    damaged: tuple[int, ...]


class MendedBlocks(msgspec.Struct, frozen=True):
    """What was mended. proven: the numbers are exactly those that were lost."""

    blocks: tuple[int, ...]
    numbers: int
    proven: bool
    serial: int
    digest: str


def mend_blocks(
    change: Change, rows: Mapping[int, Sequence[Row]], source: str, reason: str, *, unproven: bool = False
) -> MendedBlocks:
    """Write these blocks afresh, correct digest and counts, and journal it; the caller's transaction commits.

    rows: by block, as `peer.fetch_block` gives them. source: whose they are, for the journal. reason: "who: why",
    or the program's. unproven: keep the outcome even if the store's digest says that other numbers were lost,
    or if other blocks are damaged, too. Raises StoreError: the caller must let its transaction go.
    """
    for block in sorted(rows):
        mend_block(change, block, rows[block])
    sums = resum(change)
    proven = sums.digest == change.digest % (1 << 64) and sums.ported == change.ported and not sums.damaged
    if not proven and not unproven:
        raise StoreError(_not_proven(change, sums, source))
    if not proven:
        for block in sorted(rows):
            key = JOURNAL_BLOCK_KEY.pack(block, change.serial + 1)
            change.transaction.put(key, _NOBODY_KNOWS, db=change.handles["journal_blocks"])
            change.old_states_fold.add(key, _NOBODY_KNOWS)
        change.digest, change.ported = sums.digest, sums.ported
    counts = Counts(mended=len(rows))
    serial = change.record(JournalKind.REPAIRED, counts, source=f"{source}, blocks {_told(rows)}", reason=reason)
    numbers = sum(map(len, rows.values()))
    return MendedBlocks(tuple(sorted(rows)), numbers, proven, serial, format_digest(change.digest))


def mend_restricted(change: Change, blocks: Collection[int], reason: str) -> int:
    """Write anew what look-ups read of these blocks' restrictions, from the rows; returns the serial. Needs nobody."""
    for block in blocks:
        change.restricted.unpack(block)  # and so writes it anew
    source = f"the restrictions' rows, blocks {_told(blocks)}"
    return change.record(JournalKind.REPAIRED, Counts(mended=len(blocks)), source=source, reason=reason)


def _told(blocks: Collection[int]) -> str:
    """A few of them by number."""
    more = f" and {len(blocks) - 20} more" if len(blocks) > 20 else ""
    return ", ".join(map(str, sorted(blocks)[:20])) + more


def mend_block(change: Change, block: int, rows: Sequence[Row], sequence: int | None = None) -> None:
    """Write one block and its details afresh; its restriction bits follow the restrictions.

    sequence: for every number, instead of each row's own. Does not correct the store's digest and count of
    numbers, since what the damaged block had in them cannot be read: `resum` says what they must be once all are
    written. A change that records nothing is not committed, so the caller journals it, too, as `mend_blocks` does.
    Raises StoreError if a row's network is not in the networks table.
    """
    change.flush()
    entries = bytearray(ENTRIES_BYTES)
    details = bytearray()
    content = 0
    for row in rows:
        route_id = _route_id(change, row.network_code, row.routing_number)
        donor_id = _route_id(change, row.donor, None) if row.donor else 0
        U16.pack_into(entries, 2 * row.offset, route_id)
        details += DETAIL.pack(row.offset, donor_id, row.ported_at or 0, row.sequence if sequence is None else sequence)
        content += number_term(block * NUMBERS_PER_BLOCK + row.offset, change.fingerprints[route_id])
    content %= 1 << 64
    key = BLOCK_KEY.pack(block)
    blocks_db, details_db = change.handles["blocks"], change.handles["details"]
    restricting.restore_bits(change, block, entries)
    if details:
        change.transaction.put(key, pack_details(block, details), db=details_db)
    else:
        change.transaction.delete(key, db=details_db)
    if entries.count(0) < ENTRIES_BYTES:
        change.transaction.put(key, pack_block(block, entries, content), db=blocks_db)
    else:
        change.transaction.delete(key, db=blocks_db)
    change.blocks = change.transaction.stat(blocks_db)["entries"]


def resum(change: Change) -> Sums:
    """Digest and count of ported numbers as all blocks and tables say now. A second or two for 100,000 blocks."""
    change.flush()
    content = ported = 0
    damaged = []
    for key, value in change.transaction.cursor(db=change.handles["blocks"]):
        block = BLOCK_KEY.unpack(key)[0]
        if not block_is_sound(block, value) or not _details_fit(change, block, value):
            damaged.append(block)
            continue
        content += U64.unpack_from(value, ENTRIES_BYTES)[0]
        ported += int(np.count_nonzero(_routes(value)))
    return Sums((content + change.tables_digest()) % (1 << 64), ported, tuple(damaged))


def _routes(value: Value) -> U16s:
    return np.frombuffer(value, "<u2", NUMBERS_PER_BLOCK) & np.uint16(ROUTE_MASK)


def _details_fit(change: Change, block: int, value: Value) -> bool:
    """Whether exactly the block's ported numbers have details."""
    try:
        records = unpack_details(block, change.transaction.get(BLOCK_KEY.pack(block), db=change.handles["details"]))
    except StoreError:
        return False
    return np.array_equal(np.frombuffer(records, DETAIL_DTYPE)["offset"], np.flatnonzero(_routes(value)))


def _route_id(change: Change, code: str, routing_number: str | None) -> int:
    if change.network_id(code) is None:
        raise StoreError(f"network {code} is not in the networks table here: load the peer's table first")
    return change.route_id(NetworkCode(code), RoutingNumber(routing_number) if routing_number else None)


def _not_proven(change: Change, sums: Sums, source: str) -> str:
    if sums.damaged:
        others = ", ".join(map(str, sums.damaged[:20]))
        return f"{source}: more blocks are damaged: {others}: mend all of them together; the store is unchanged"
    return (
        f"{source}: does not have the numbers that were lost: with its blocks the store would have digest "
        f"{format_digest(sums.digest)} and {sums.ported} numbers, it had {format_digest(change.digest)} and "
        f"{change.ported}: let both replicas apply the same files and try again, or load the newest snapshot; "
        "the store is unchanged"
    )

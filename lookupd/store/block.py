"""One thousand-block, unpacked for change: its details kept in order while numbers come and go.

What its digest must become, and when it is read and written, is the transaction's.
"""

from __future__ import annotations

from bisect import bisect_left

from lookupd.errors import DamagedBlock
from lookupd.store.schema import (
    BLOCK_BYTES,
    CHECKED_BYTES,
    DETAIL,
    ENTRIES_BYTES,
    U16,
    U64,
    Value,
    block_is_sound,
    checksum,
    unpack_details,
)


class UnpackedBlock:
    """Entries, content digest and details records (sorted by offset) of a thousand numbers.

    entries: a whole block's bytes, of which only the first 2,000 are kept true; the rest is filled in by `pack`,
    so that a block is copied once on its way in and not at all on its way out. existed: whether the store had
    the block before.
    """

    __slots__ = ("content", "details", "entries", "existed")

    def __init__(self, block: int, value: Value | None, details: Value | None) -> None:
        """value, details: as stored; None = there is none. Raises DamagedBlock when they are not what was written."""
        self.existed = value is not None
        if value is None:
            self.entries, self.content = bytearray(BLOCK_BYTES), 0
            self.details = bytearray()
            return
        if not block_is_sound(block, value):
            raise DamagedBlock(block, f"block {block} is damaged: load the last snapshot again; nothing was changed")
        self.entries = bytearray(value)
        self.content = U64.unpack_from(value, ENTRIES_BYTES)[0]
        self.details = bytearray(unpack_details(block, details))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to keep: no number is ported, no restriction exists."""
        return not self.details and not any(memoryview(self.entries)[:ENTRIES_BYTES])

    def pack(self, block: int) -> bytearray:
        """The block's value; ours, until it is written."""
        U64.pack_into(self.entries, ENTRIES_BYTES, self.content)
        U64.pack_into(self.entries, CHECKED_BYTES, checksum(memoryview(self.entries)[:CHECKED_BYTES], block))
        return self.entries

    def find_detail(self, offset: int) -> int:
        """Byte position of the offset's record, or where it belongs."""
        # The offsets as a sequence of their own, every eighth u16 of the records: bisect runs in C.
        return bisect_left(memoryview(self.details).cast("H")[:: DETAIL.size // 2], offset) * DETAIL.size

    def detail(self, offset: int) -> tuple[int, int, int]:
        """Donor's route id, ported_at and sequence of a number; zeros if none is kept."""
        at = self.find_detail(offset)
        if at < len(self.details):
            found, donor_id, ported_at, sequence = DETAIL.unpack_from(self.details, at)
            if found == offset:
                return donor_id, ported_at, sequence
        return 0, 0, 0

    def put_detail(self, offset: int, donor_id: int, ported_at: int, sequence: int) -> None:
        """Keep a number's record, in its place."""
        at = self.find_detail(offset)
        have = at < len(self.details) and U16.unpack_from(self.details, at)[0] == offset
        record = DETAIL.pack(offset, donor_id, ported_at, sequence)
        self.details[at : at + DETAIL.size if have else at] = record

    def exchange_detail(
        self, offset: int, donor_id: int | None, ported_at: int | None, sequence: int
    ) -> tuple[int, int, int]:
        """`detail`, then `put_detail`, in one search; None keeps what was there, zero if there was nothing."""
        details = self.details
        at = bisect_left(memoryview(details).cast("H")[:: DETAIL.size // 2], offset) * DETAIL.size
        if at < len(details):
            found, known_donor, known_at, known_sequence = DETAIL.unpack_from(details, at)
            if found == offset:
                donor_id = known_donor if donor_id is None else donor_id
                DETAIL.pack_into(details, at, offset, donor_id, known_at if ported_at is None else ported_at, sequence)
                return known_donor, known_at, known_sequence
        details[at:at] = DETAIL.pack(offset, donor_id or 0, ported_at or 0, sequence)
        return 0, 0, 0

    def delete_detail(self, offset: int) -> None:
        """Drop a number's record, if there is one."""
        at = self.find_detail(offset)
        if at < len(self.details) and U16.unpack_from(self.details, at)[0] == offset:
            del self.details[at : at + DETAIL.size]

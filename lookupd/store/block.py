"""One thousand-block, unpacked for change: its details kept in order while numbers come and go.

Packing it again, and what its digest must become, is the writer's.
"""

from __future__ import annotations

from bisect import bisect_left

from lookupd.store.schema import DETAIL, U16


class UnpackedBlock:
    """Entries (2,000 bytes), content digest and details records (sorted by offset) of a thousand numbers.

    existed: whether the store had the block before.
    """

    __slots__ = ("content", "details", "entries", "existed")

    def __init__(self, entries: bytearray, content: int, details: bytearray, existed: bool) -> None:
        self.entries = entries
        self.content = content
        self.details = details
        self.existed = existed

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

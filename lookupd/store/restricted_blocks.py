"""The values of `restricted` inside a write transaction: unpacked when a row of theirs changes, packed at its end.

The rows are written by `restricting`, which tells of each change here before it makes it.
"""

from __future__ import annotations

from contextlib import suppress

import lmdb

from lookupd.limits import RESTRICTIONS_CACHED_MAX
from lookupd.store.restricted import Record, pack, records_of
from lookupd.store.restrictions import RowsFrom
from lookupd.store.schema import BLOCK_KEY, Handle


class RestrictedBlocks:
    """Of one transaction. rows_from: as it has them."""

    def __init__(self, transaction: lmdb.Transaction, handle: Handle, rows_from: RowsFrom) -> None:
        self._transaction = transaction
        self._handle = handle
        self._rows_from = rows_from
        self._records: dict[int, list[Record]] = {}
        self._count = 0

    def unpack(self, block: int) -> list[Record]:
        """What a block's value will be written from: always from the rows, so that what was damaged is mended."""
        found = self._records.get(block)
        if found is None:
            if self._count >= RESTRICTIONS_CACHED_MAX:
                self.flush()
            found = self._records[block] = records_of(self._rows_from, block)
            self._count += len(found) + 1
        return found

    def replace(self, block: int, old: Record | None = None, new: Record | None = None) -> None:
        """To be called before the row is changed; None = there was none, or there will be none."""
        records = self.unpack(block)
        if old is not None:
            with suppress(ValueError):  # what led to its row was lost; `verify` tells
                records.remove(old)
        if new is not None:
            records.append(new)
            self._count += 1

    def flush(self) -> None:
        """Write all of them, and begin again."""
        for block in sorted(self._records):
            key, records = BLOCK_KEY.pack(block), self._records[block]
            if records:
                self._transaction.put(key, pack(block, records), db=self._handle)
            else:
                self._transaction.delete(key, db=self._handle)
        self._records.clear()
        self._count = 0

"""Columns that grow while a snapshot is read: each row in memory once, whatever their number.

Memory is taken from the kernel page by page as it is filled, and a column that grows is moved by its page
tables, not copied. What the rows mean is for `validate`.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from lookupd.store.columns import Columns

_DTYPES: tuple[np.dtype[Any], ...] = (
    np.dtype(np.uint64),
    np.dtype(np.uint16),
    np.dtype(np.uint16),
    np.dtype(np.uint32),
)
_ROWS_AT_FIRST = 1 << 20


class GrowingColumns:
    """Rows of snapshots' parts, one behind the other. rising: whether each number is greater than the last."""

    def __init__(self) -> None:
        self._count = 0
        self._room = _ROWS_AT_FIRST
        self._maps = [_memory(dtype.itemsize * self._room) for dtype in _DTYPES]
        self._last = -1
        self.rising = True

    def __len__(self) -> int:
        return self._count

    def add(self, part: Columns) -> None:
        """Copy a part behind what is there."""
        if not len(part):
            return
        self.rising = self.rising and int(part.tn[0]) > self._last and bool((part.tn[1:] > part.tn[:-1]).all())
        self._last = int(part.tn[-1])
        self._make_room(self._count + len(part))
        for memory, dtype, values in zip(
            self._maps, _DTYPES, (part.tn, part.route, part.donor, part.ported_at), strict=True
        ):
            np.frombuffer(memory, dtype, len(part), self._count * dtype.itemsize)[:] = values
        self._count += len(part)

    def _make_room(self, rows: int) -> None:
        if rows <= self._room:
            return
        self._room = max(rows, 2 * self._room)
        for memory, dtype in zip(self._maps, _DTYPES, strict=True):
            memory.resize(self._room * dtype.itemsize)

    def columns(self) -> Columns:
        """All rows, as views; nothing can be added from then on."""
        tn, route, donor, ported_at = (
            np.frombuffer(memory, dtype, self._count) for memory, dtype in zip(self._maps, _DTYPES, strict=True)
        )
        return Columns(tn, route, donor, ported_at)


def _memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # a fault for 2 MB instead of one for 4 kB
    return memory

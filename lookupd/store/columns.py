"""Many numbers at once, as numpy columns: the shape in which snapshots, comparisons and checks move.

Only memory; what is read from and written to the store is in `bulk` and `verify`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookupd.store.schema import TN_FACTOR

U16s = npt.NDArray[np.uint16]
U32s = npt.NDArray[np.uint32]
U64s = npt.NDArray[np.uint64]

THOUSAND = np.uint64(1000)
_PART_ROWS = 1 << 16

DETAIL_DTYPE = np.dtype([("offset", "<u2"), ("donor", "<u2"), ("ported_at", "<u4"), ("sequence", "<u8")])
"""schema.DETAIL."""

PREVIOUS_DTYPE = np.dtype(
    {
        "names": ["offset", "route", "donor", "ported_at", "sequence"],
        "formats": ["<u2", "<u2", "<u2", "<u4", "<u8"],
        "offsets": [0, 2, 4, 8, 16],
        "itemsize": 24,
    }
)
"""schema.PREVIOUS."""


@dataclass(frozen=True)
class Columns:
    """Ported numbers, one index a number; tn strictly rising. 16 bytes a number.

    route and donor are route ids (donor 0 = not told), ported_at is in Unix seconds (0 = not told).
    """

    tn: U64s
    route: U16s
    donor: U16s
    ported_at: U32s

    def __len__(self) -> int:
        return len(self.tn)

    def slice(self, first: int, end: int) -> Columns:
        """A view of the numbers first..end-1."""
        return Columns(self.tn[first:end], self.route[first:end], self.donor[first:end], self.ported_at[first:end])


def block_starts(tn: U64s) -> npt.NDArray[np.int64]:
    """Index of the first number of each block; tn: in their order. A part at a time, which stays in cache."""
    found: list[npt.NDArray[np.int64]] = []
    last = None
    for at in range(0, len(tn), _PART_ROWS):
        blocks = tn[at : at + _PART_ROWS] // THOUSAND
        found.append(np.flatnonzero(np.r_[blocks[0] != last, blocks[1:] != blocks[:-1]]) + at)
        last = blocks[-1]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def mix_all(values: U64s) -> U64s:
    """`schema.mix` of every value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def number_terms(tn: U64s, fingerprint: U64s) -> U64s:
    """`schema.number_term` of every number; fingerprint: of each number's route."""
    return mix_all(tn * np.uint64(TN_FACTOR) + fingerprint)


def sums_by_row(values: U64s, rows: npt.NDArray[np.int64], row_count: int) -> U64s:
    """Sum mod 2^64 of the values of each row; rows: each value's row, never falling."""
    sums = np.zeros(row_count, np.uint64)
    if len(values):
        starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        sums[rows[starts]] = np.add.reduceat(values, starts)
    return sums

"""Where a snapshot and the store differ, number by number: what `bulk`'s windows say, as columns.

Reads nothing itself and changes nothing. Whether a difference matters, or is mended, is the loader's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookupd.store.bulk import Window
from lookupd.store.columns import Columns, U16s, U64s
from lookupd.store.schema import NUMBERS_PER_BLOCK

MISSING, EXTRA, ROUTE, DETAILS = range(4)
KINDS = ("missing", "extra", "route", "details")
"""missing: in the file, not in the store. extra: in the store, not in the file. route: both, and the network or
the routing number differs. details: the route is the same, the donor or the time differs."""


@dataclass(frozen=True)
class Asked:
    """What of a number is compared: the columns that the file has.

    route_of: what a route id counts as, by id: itself, or its network's own route where routing numbers are
    not compared.
    """

    route_of: U16s
    donor: bool
    ported_at: bool


@dataclass(frozen=True)
class Differences:
    """Numbers that differ, in their order: kind (an index into KINDS), the store's state, the file's.

    Columns of `old` and `new` are as long as `kind`; a side that does not have the number has route 0.
    """

    kind: npt.NDArray[np.uint8]
    old: Columns
    new: Columns

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def tn(self) -> U64s:
        """The numbers."""
        return self.old.tn


def of_window(window: Window, asked: Asked) -> Differences:
    """The differences of one window."""
    at = window.new_in_old[window.known]
    new = window.new
    route_differs = asked.route_of[window.old_route[at]] != asked.route_of[new.route[window.known]]
    details_differ = np.zeros(len(at), bool)
    for name, compared in (("donor", asked.donor), ("ported_at", asked.ported_at)):
        if compared:
            details_differ |= window.old_details[name][at] != getattr(new, name)[window.known]
    differs = np.flatnonzero(route_differs | details_differ)
    both_new = np.flatnonzero(window.known)[differs]
    added = np.flatnonzero(~window.known)
    removed = np.flatnonzero(window.removed_at)
    old_index = np.concatenate((np.full(len(added), -1), removed, at[differs]))
    new_index = np.concatenate((added, np.full(len(removed), -1), both_new))
    kind = np.concatenate(
        (
            np.full(len(added), MISSING),
            np.full(len(removed), EXTRA),
            np.where(route_differs[differs], ROUTE, DETAILS),
        )
    ).astype(np.uint8)
    position = np.concatenate((window.new_at[added], window.old_at[removed], window.old_at[at[differs]]))
    order = np.argsort(position, kind="stable")
    position = position[order]
    tn = window.blocks[position // NUMBERS_PER_BLOCK] * np.uint64(NUMBERS_PER_BLOCK)
    tn += (position % NUMBERS_PER_BLOCK).astype(np.uint64)
    details = window.old_details
    old = _side(tn, old_index[order], window.old_route, details["donor"], details["ported_at"])
    return Differences(kind[order], old, _side(tn, new_index[order], new.route, new.donor, new.ported_at))


def joined(parts: Iterable[Differences]) -> Differences:
    """Differences of consecutive windows as one."""
    found = list(parts)
    if not found:
        none = np.zeros(0, np.uint64)
        nothing = Columns(none, none.astype(np.uint16), none.astype(np.uint16), none.astype(np.uint32))
        return Differences(np.zeros(0, np.uint8), nothing, nothing)
    kind = np.concatenate([part.kind for part in found])
    return Differences(kind, _stacked([part.old for part in found]), _stacked([part.new for part in found]))


def _stacked(parts: list[Columns]) -> Columns:
    return Columns(
        np.concatenate([part.tn for part in parts]),
        np.concatenate([part.route for part in parts]),
        np.concatenate([part.donor for part in parts]),
        np.concatenate([part.ported_at for part in parts]),
    )


def _side(
    tn: U64s,
    index: npt.NDArray[np.int64],
    route: U16s,
    donor: npt.NDArray[np.uint16],
    ported_at: npt.NDArray[np.uint32],
) -> Columns:
    """The columns at these indices; zeros where the index is -1."""
    there = index >= 0
    made = Columns(
        tn, np.zeros(len(index), np.uint16), np.zeros(len(index), np.uint16), np.zeros(len(index), np.uint32)
    )
    made.route[there] = route[index[there]]
    made.donor[there] = donor[index[there]]
    made.ported_at[there] = ported_at[index[there]]
    return made

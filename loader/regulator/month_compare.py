"""A monthly exchange file, ours or another operator's, against what the store was at the month's end.

Of all its numbers the store has many that are in no such file, so only those are looked at that are in the file or came
in the month by our journal. The differences are `reconcile`'s, so that they are told, and mended, like any other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loader.reconcile import LentRoutes, NetworkCounts, Read, Reconciled
from loader.regulator.month import PortedIn, as_told, still_there
from lookupd.errors import FeedError
from lookupd.limits import MONTH_NUMBERS_PER_STEP
from lookupd.model import TN, Ported
from lookupd.store import journal
from lookupd.store.columns import Columns
from lookupd.store.compare import DETAILS, EXTRA, MISSING, ROUTE, Differences
from lookupd.store.history import Past
from lookupd.store.reader import Reader
from lookupd.store.schema import SERIAL_KEY, format_digest


def compare_month(
    reader: Reader, read: Read, found: PortedIn, advance: Callable[[int], None]
) -> tuple[Reconciled, Differences]:
    """read: the file's rows. found: what came, by the journal. Raises StoreError, and FeedError for a file that has
    numbers of another network than the one asked for."""
    _check_networks(read, found.network)
    ours = {state.tn: state for state in still_there(reader, found)}
    in_file = read.columns.tn.tolist()
    past = Past(reader, found.end_serial)
    for at, tn in enumerate(in_file, 1):
        if tn not in ours and (state := past.ported(TN(tn))) is not None:
            ours[TN(tn)] = state
        if at % MONTH_NUMBERS_PER_STEP == 0:
            advance(MONTH_NUMBERS_PER_STEP)
    differences = _differences(ours, {tn: as_told(found, state) for tn, state in ours.items()}, read)
    return _result(reader, read, found, ours, differences), differences


def _check_networks(read: Read, network: str | None) -> None:
    if network is None:
        return
    codes = {record.network_code for at in np.unique(read.columns.route) if (record := read.routes.records[at])}
    if others := sorted(codes - {network}):
        raise FeedError(
            f"{read.file.name}: has numbers of {', '.join(others[:10])} beside --network {network}: leave the option "
            "out, or take the file of that network"
        )


def _differences(ours: dict[TN, Ported], told: dict[TN, Ported], read: Read) -> Differences:
    """Of every number of either side. told: ours, as the exchange file would have them. What a difference says of our
    side is the store's own state: a repair holds it against that."""
    theirs = read.columns
    stored = _columns(ours, read.routes)
    numbers = np.union1d(stored.tn, theirs.tn)
    left, right = _spread(numbers, _columns(told, read.routes)), _spread(numbers, theirs)
    asked = read.asked
    route = asked.route_of[left.route] != asked.route_of[right.route]
    details = np.zeros(len(numbers), bool)
    if asked.donor:
        details |= left.donor != right.donor
    if asked.ported_at:
        details |= left.ported_at != right.ported_at
    kind = np.full(len(numbers), 255, np.uint8)
    kind[details] = DETAILS
    kind[route] = ROUTE
    kind[right.route == 0] = EXTRA
    kind[left.route == 0] = MISSING
    at = np.flatnonzero(kind != 255)
    return Differences(kind[at], _taken(_spread(numbers, stored), at), _taken(right, at))


def _columns(ours: dict[TN, Ported], routes: LentRoutes) -> Columns:
    """With the file's route ids."""
    states = [ours[tn] for tn in sorted(ours)]
    count = len(states)
    route = (
        routes.network_id(state.network_code)
        if state.routing_number is None
        else routes.route_id(state.network_code, state.routing_number)
        for state in states
    )
    donor = (0 if state.donor is None else routes.network_id(state.donor) for state in states)
    return Columns(
        np.fromiter((state.tn for state in states), np.uint64, count),
        np.fromiter(route, np.uint16, count),
        np.fromiter(donor, np.uint16, count),
        np.fromiter((state.ported_at or 0 for state in states), np.uint32, count),
    )


def _spread(numbers: np.ndarray, columns: Columns) -> Columns:
    """A row for each of these numbers; route 0 where the columns do not have it."""
    at = np.searchsorted(numbers, columns.tn)
    made = Columns(
        numbers,
        np.zeros(len(numbers), np.uint16),
        np.zeros(len(numbers), np.uint16),
        np.zeros(len(numbers), np.uint32),
    )
    made.route[at], made.donor[at], made.ported_at[at] = columns.route, columns.donor, columns.ported_at
    return made


def _taken(columns: Columns, at: np.ndarray) -> Columns:
    return Columns(columns.tn[at], columns.route[at], columns.donor[at], columns.ported_at[at])


def without_extra(found: Differences) -> Differences:
    """What a repair may mend: a number that the file lacks is told, never taken away; another operator's file is no
    word on where it went."""
    at = np.flatnonzero(found.kind != EXTRA)
    return Differences(found.kind[at], _taken(found.old, at), _taken(found.new, at))


def _result(
    reader: Reader, read: Read, found: PortedIn, ours: dict[TN, Ported], differences: Differences
) -> Reconciled:
    missing, extra, route, details = np.bincount(differences.kind, minlength=4).tolist()
    stored = reader.stored("journal", SERIAL_KEY.pack(found.end_serial))
    position = reader.state.feeds.get(read.file.feed)
    return Reconciled(
        file=read.file.name,
        result="different" if len(differences) else "equal",
        serial=found.end_serial,
        digest=format_digest(journal.unpack_head(found.end_serial, stored).digest),
        store_sequence=None if position is None else position.sequence,
        file_sequence=None,
        compared=read.names,
        in_store=len(ours),
        in_file=len(read.columns),
        missing=missing,
        extra=extra,
        route=route,
        details=details,
        damaged_blocks=0,
        unknown_networks=tuple(sorted(read.routes.unknown)),
        by_network=tuple(_by_network(read.routes, ours, read.columns, differences)),
    )


def _by_network(
    routes: LentRoutes, ours: dict[TN, Ported], theirs: Columns, found: Differences
) -> Sequence[NetworkCounts]:
    codes, network_of = routes.networks()
    names = np.array([*codes, ""])

    def count(route: np.ndarray) -> dict[str, int]:
        present, counts = np.unique(network_of[route], return_counts=True)
        return {str(names[at]): int(many) for at, many in zip(present, counts, strict=True) if at >= 0}

    in_store, in_file = count(_columns(ours, routes).route), count(theirs.route)
    missing, extra = count(found.new.route[found.kind == MISSING]), count(found.old.route[found.kind == EXTRA])
    left, came = count(found.old.route[found.kind == ROUTE]), count(found.new.route[found.kind == ROUTE])
    return [
        NetworkCounts(code, *(counts.get(code, 0) for counts in (in_store, in_file, missing, extra, left, came)))
        for code in codes
        if in_store.get(code) or in_file.get(code)
    ]

"""A snapshot's file against the store, read-only: what is missing, what is extra, what differs.

The monthly reconciliation, and what `diff` shows before a load. Writes nothing; mending is for `corrections`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from loader.apply import Progress
from loader.files import FeedFile, line_chunks, verified
from loader.validate import read_columns
from lookupd.errors import FeedError
from lookupd.limits import SNAPSHOT_LINE_BYTES_MAX
from lookupd.model import NetworkCode, RoutingNumber
from lookupd.numbering import Plan
from lookupd.store.bulk import windows
from lookupd.store.columns import Columns
from lookupd.store.compare import EXTRA, KINDS, MISSING, ROUTE, Asked, Differences, of_window
from lookupd.store.reader import Reader
from lookupd.store.schema import RouteRecord, format_digest

_IDS_MAX = 0xFFFF
"""A column has 16 bits for a route id, twice what a store may have: room for those a file lends."""

Sink = Callable[[Differences], None]


class LentRoutes:
    """The store's routes, and ids lent to those that only the file has. The store never sees these."""

    def __init__(self, records: Sequence[RouteRecord | None]) -> None:
        self.records = list(records)
        self.known = len(self.records)
        self.unknown: list[str] = []
        self._ids: dict[tuple[str, str | None], int] = {}
        for route_id, record in enumerate(self.records):
            if record is not None:
                self._ids[record.network_code, None if record.own else record.routing_number] = route_id

    def network_id(self, code: str) -> int:
        """Id of a network's own route, lent if the networks table does not have it."""
        found = self._ids.get((code, None))
        if found is None:
            self.unknown.append(code)
            found = self._lend(RouteRecord(NetworkCode(code), None, "", None, True))
        return found

    def route_id(self, code: NetworkCode, routing_number: RoutingNumber | None) -> int:
        """Id of a route, lent if the store does not have it."""
        found = self._ids.get((code, routing_number))
        if found is None:
            found = self._lend(RouteRecord(code, routing_number, "", None, routing_number is None))
        return found

    def _lend(self, record: RouteRecord) -> int:
        if len(self.records) > _IDS_MAX:
            raise FeedError(f"more than {_IDS_MAX} routes: too many different routing numbers for one store")
        self._ids[record.network_code, None if record.own else record.routing_number] = len(self.records)
        self.records.append(record)
        return len(self.records) - 1

    def networks(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """All network codes, sorted, and each route id's index among them (id 0: -1)."""
        codes = sorted({record.network_code for record in self.records if record is not None})
        index = {code: at for at, code in enumerate(codes)}
        of_route = [-1 if record is None else index[record.network_code] for record in self.records]
        return list(codes), np.array(of_route, np.int64)


@dataclass
class Read:
    """A file's rows, whose route ids are those of `routes`, and the columns it has."""

    file: FeedFile
    sha256: str
    columns: Columns
    names: tuple[str, ...]
    routes: LentRoutes

    @property
    def asked(self) -> Asked:
        """What of a number the file tells."""
        route_of = np.arange(len(self.routes.records), dtype=np.uint16)
        if "routing_number" not in self.names:
            for route_id, record in enumerate(self.routes.records):
                if record is not None:
                    route_of[route_id] = self.routes.network_id(record.network_code)
        return Asked(route_of, "donor" in self.names, "ported_at" in self.names)

    def moved_to(self, records: Sequence[RouteRecord | None]) -> Read:
        """The same rows by the ids of another state of the store."""
        routes = LentRoutes(records)
        moved = np.zeros(len(self.routes.records), np.uint16)
        for route_id, record in enumerate(self.routes.records):
            if record is not None:
                code, number = record.network_code, None if record.own else record.routing_number
                moved[route_id] = routes.network_id(code) if record.own else routes.route_id(code, number)
        old = self.columns
        columns = Columns(old.tn, moved[old.route], moved[old.donor], old.ported_at)
        return Read(self.file, self.sha256, columns, self.names, routes)


class NetworkCounts(msgspec.Struct, frozen=True):
    """One network's numbers. from_here: it serves them in the store and another route in the file; to_here: the
    other way round (both, when only the routing number differs)."""

    network_code: str
    in_store: int
    in_file: int
    missing: int
    extra: int
    from_here: int
    to_here: int


class Reconciled(msgspec.Struct, frozen=True):
    """What a comparison found; result is equal or different.

    missing, extra, route and details count numbers (see `compare.KINDS`). compared: the file's columns.
    unknown_networks: codes of the file that the networks table does not have; their numbers differ.
    damaged_blocks: their numbers count as missing.
    """

    file: str
    result: str
    serial: int
    digest: str
    store_sequence: int | None
    file_sequence: int | None
    compared: tuple[str, ...]
    in_store: int
    in_file: int
    missing: int
    extra: int
    route: int
    details: int
    damaged_blocks: int
    unknown_networks: tuple[str, ...]
    by_network: tuple[NetworkCounts, ...]

    @property
    def differs(self) -> int:
        """Numbers."""
        return self.missing + self.extra + self.route + self.details


def read_file(file: FeedFile, plan: Plan, reader: Reader, progress: Progress) -> Read:
    """All rows of a snapshot's file. Raises FeedError or Rejected; unknown networks are no reason."""
    routes = LentRoutes(reader.route_records())
    with verified(file, progress.stage("verify", file.bytes)) as (data, sha256):
        chunks = line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
        columns, names = read_columns(file, chunks, plan, routes)
    return Read(file, sha256, columns, names, routes)


def compare(reader: Reader, read: Read, progress: Progress, sink: Sink) -> Reconciled:
    """The file's rows against the reader's pinned state. sink: told the differences, in the numbers' order."""
    asked = read.asked
    kinds = np.zeros(len(KINDS), np.int64)
    codes, network_of = read.routes.networks()
    tally = _Tally(len(codes), network_of)
    damaged = 0
    advance = progress.stage("compare", None)
    for window in windows(reader, read.columns):
        found = of_window(window, asked)
        kinds += np.bincount(found.kind, minlength=len(KINDS))
        tally.add(window.old_route, window.new.route, found)
        damaged += int(window.damaged.sum())
        if len(found):
            sink(found)
        advance(len(window.blocks))
    missing, extra, route, details = kinds.tolist()
    position = reader.state.feeds.get(read.file.feed)
    return Reconciled(
        file=read.file.name,
        result="different" if kinds.any() or damaged else "equal",
        serial=reader.state.serial,
        digest=format_digest(reader.state.digest),
        store_sequence=None if position is None else position.sequence,
        file_sequence=read.file.sequence or None,
        compared=read.names,
        in_store=int(tally.of_store.sum()),
        in_file=len(read.columns),
        missing=missing,
        extra=extra,
        route=route,
        details=details,
        damaged_blocks=damaged,
        unknown_networks=tuple(sorted(read.routes.unknown)),
        by_network=tally.result(codes),
    )


class _Tally:
    """Counts by network, as arrays."""

    def __init__(self, networks: int, network_of: npt.NDArray[np.int64]) -> None:
        self._networks = networks
        self._network_of = network_of
        self.of_store, self.of_file, self.missing, self.extra, self.from_here, self.to_here = (
            np.zeros(networks, np.int64) for _ in range(6)
        )

    def add(self, old: npt.NDArray[np.uint16], new: npt.NDArray[np.uint16], found: Differences) -> None:
        """Another window: the routes of all its numbers, and its differences."""
        self.of_store += self._count(old)
        self.of_file += self._count(new)
        self.missing += self._count(found.new.route[found.kind == MISSING])
        self.extra += self._count(found.old.route[found.kind == EXTRA])
        self.from_here += self._count(found.old.route[found.kind == ROUTE])
        self.to_here += self._count(found.new.route[found.kind == ROUTE])

    def _count(self, route: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        by_route = np.bincount(route, minlength=len(self._network_of))
        counted = np.zeros(self._networks, np.int64)
        np.add.at(counted, self._network_of[by_route > 0], by_route[by_route > 0])
        return counted

    def result(self, codes: list[str]) -> tuple[NetworkCounts, ...]:
        """The networks that have numbers on either side."""
        rows = zip(
            codes,
            *(
                column.tolist()
                for column in (self.of_store, self.of_file, self.missing, self.extra, self.from_here, self.to_here)
            ),
            strict=True,
        )
        return tuple(NetworkCounts(*row) for row in rows if row[1] or row[2])

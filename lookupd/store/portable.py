"""A pinned state as two replicas compare it: digests of blocks and groups, numbers by what their ids stand for.

Route ids and checksums differ between replicas that agree; what is here does not. Who asks, and over what, is
for `web.store` and the loader.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Self

import msgspec

from lookupd.errors import StoreError
from lookupd.model import FeedPosition, NetworkCode, Restriction, RoutingNumber, Vitals
from lookupd.store import restrictions
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    BLOCK_KEY,
    DETAIL,
    ENTRIES_BYTES,
    META_STATE,
    NUMBERS_PER_BLOCK,
    ROUTE_KEY,
    ROUTE_MASK,
    U16,
    U64,
    RouteRecord,
    State,
    block_is_sound,
    decode_route,
    format_digest,
    unpack_details,
    unpack_state,
)
from lookupd.store.trail import Step, read_trail
from lookupd.store.waiting import waiting

NetworkRow = tuple[str, str, str | None, int | None]
"""network code, operator, routing number, pdb carrier id"""

RangeRow = tuple[str, str]
"""prefix, network code of its holder"""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One ported number of a block. None = not told; routing_number None = the network's own."""

    offset: int
    network_code: NetworkCode
    routing_number: RoutingNumber | None
    donor: NetworkCode | None
    ported_at: int | None
    sequence: int

    @property
    def route(self) -> tuple[NetworkCode, RoutingNumber | None]:
        """What decides an answer."""
        return self.network_code, self.routing_number


class Standing(msgspec.Struct, frozen=True):
    """What a daemon knows of itself beside its store. ready: queries are answered from data. withdrawn: why it stands
    back. damaged: blocks that were found damaged. vitals: how it does."""

    ready: bool = False
    withdrawn: str | None = None
    started_at: float = 0.0
    damaged: int = 0
    vitals: Vitals | None = None


class StoreState(msgspec.Struct, frozen=True):
    """What a replica says of itself, as JSON. digest: 16 hex digits.

    overdue: seconds since the moment of a notice that still waits. The rest: see Standing. An older daemon does not
    tell what has a default here.
    """

    replica: str
    serial: int
    digest: str
    ported: int
    blocks: int
    feeds: dict[str, FeedPosition]
    ready: bool = False
    withdrawn: str | None = None
    started_at: float = 0.0
    damaged: int = 0
    overdue: float = 0.0
    trail: tuple[Step, ...] = ()
    vitals: Vitals | None = None


class Tables(msgspec.Struct, frozen=True, array_like=True):
    """The networks and ranges tables, and the restrictions."""

    networks: list[NetworkRow]
    ranges: list[RangeRow]
    restrictions: list[Restriction] = []


class Pinned:
    """One state of the store, held as long as it takes; light to make. A context manager.

    To be closed before the reader it was made from. Methods raise lmdb.Error once it is closed.
    """

    def __init__(self, reader: Reader) -> None:
        self._handles = reader.handles
        self._transaction = reader.begin()
        self._routes: dict[int, RouteRecord | None] = {}
        stored = self._transaction.get(META_STATE, db=self._handles["meta"])
        try:
            self.state = State() if stored is None else unpack_state(stored)
        except (msgspec.MsgspecError, ValueError) as error:
            self.close()
            raise StoreError(f"{reader.path}: the store's state is damaged: {error}; restore it") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the state; again does nothing."""
        self._transaction.abort()

    def tell(self, replica: str, standing: Standing, trail: tuple[Step, ...], now: float) -> StoreState:
        """All that a peer is told of this state. now: the wall clock's. Raises lmdb.Error."""
        state = self.state
        moment = waiting(self._transaction, self._handles["pending"]).moment
        return StoreState(
            replica,
            state.serial,
            format_digest(state.digest),
            state.ported,
            state.blocks,
            state.feeds,
            standing.ready,
            standing.withdrawn,
            standing.started_at,
            standing.damaged,
            max(now - moment, 0.0) if moment else 0.0,
            trail,
            standing.vitals,
        )

    def trail(self) -> tuple[Step, ...]:
        """See `trail.read_trail`."""
        return read_trail(self._transaction, self._handles, self.state)

    def contents(self, first: int = 0) -> Generator[tuple[int, int], None, None]:
        """Every block from `first` on, with its content digest; 0 for a damaged one, as for one that is not there."""
        with self._transaction.cursor(db=self._handles["blocks"]) as cursor:
            more = cursor.set_range(BLOCK_KEY.pack(first))
            while more:
                block = BLOCK_KEY.unpack(cursor.key())[0]
                value = cursor.value()
                yield block, U64.unpack_from(value, ENTRIES_BYTES)[0] if block_is_sound(block, value) else 0
                more = cursor.next()

    def rows(self, block: int) -> list[Row] | None:
        """A block's ported numbers, in order; None if it or its details are damaged."""
        key = BLOCK_KEY.pack(block)
        value = self._transaction.get(key, db=self._handles["blocks"])
        if value is None:
            return []
        if not block_is_sound(block, value):
            return None
        try:
            records = unpack_details(block, self._transaction.get(key, db=self._handles["details"]))
        except StoreError:
            return None
        entries = [entry & ROUTE_MASK for (entry,) in U16.iter_unpack(value[:ENTRIES_BYTES])]
        details = {offset: told for offset, *told in DETAIL.iter_unpack(records)}
        if details.keys() != {offset for offset, route_id in enumerate(entries) if route_id}:
            return None
        rows = []
        for offset, (donor_id, ported_at, sequence) in sorted(details.items()):
            record, donor = self._route(entries[offset]), self._route(donor_id) if donor_id else None
            if record is None:
                return None
            number = None if record.own else record.routing_number
            code = donor.network_code if donor else None
            rows.append(Row(offset, record.network_code, number, code, ported_at or None, sequence))
        return rows

    def _route(self, route_id: int) -> RouteRecord | None:
        if route_id not in self._routes:
            stored = self._transaction.get(ROUTE_KEY.pack(route_id), db=self._handles["routes"])
            self._routes[route_id] = None if stored is None else decode_route(stored)
        return self._routes[route_id]

    def networks(self) -> Iterator[NetworkRow]:
        """The networks table, in no order that means something."""
        for _, value in self._transaction.cursor(db=self._handles["routes"]):
            record = decode_route(value)
            if record.own:
                yield record.network_code, record.operator, record.routing_number, record.pdb_carrier_id

    def ranges(self) -> Iterator[RangeRow]:
        """The ranges table, by prefix."""
        for prefix, value in self._transaction.cursor(db=self._handles["ranges"]):
            record = self._route(U16.unpack(value)[0])
            yield bytes(prefix).decode(), record.network_code if record else ""

    def restrictions(self) -> Iterator[Restriction]:
        """All of them, by target. Raises StoreError for a damaged row."""
        return restrictions.every(self._rows_from)

    def _rows_from(self, name: str, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor(db=self._handles[name]) as cursor:
            more = cursor.set_range(first) if first else cursor.first()
            while more:
                yield bytes(cursor.key()), bytes(cursor.value())
                more = cursor.next()


def first_number(block: int) -> int:
    """Of a block."""
    return block * NUMBERS_PER_BLOCK

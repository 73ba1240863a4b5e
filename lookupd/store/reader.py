"""Read side of the store: pin one state, look numbers up in it, see the next state at the next pin.

A Reader belongs to one thread. What it returns is owned by the caller; nothing borrowed leaves it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import lmdb
import msgspec
import xxhash

from lookupd.errors import DamagedBlock, StoreError
from lookupd.limits import E164_DIGITS_MAX, TN_DIGITS_MIN
from lookupd.model import (
    TN,
    InForce,
    JournalEntry,
    Ported,
    Receipt,
    Restriction,
    Route,
    StreamPosition,
    UnixSeconds,
)
from lookupd.store import journal, restricted, restrictions
from lookupd.store.native import as_native, open_native
from lookupd.store.schema import (
    BLOCK_BYTES,
    BLOCK_KEY,
    CHECKED_BYTES,
    DETAIL,
    META_ANCHOR,
    META_STATE,
    META_STREAM,
    NUMBERS_PER_BLOCK,
    ROUTE_KEY,
    ROUTE_MASK,
    SERIAL_KEY,
    U16,
    U64,
    Anchor,
    Handle,
    PendingNotice,
    RouteRecord,
    State,
    block_is_sound,
    decode_receipt,
    decode_route,
    file_identity,
    open_databases,
    open_environment,
    unpack_anchor,
    unpack_details,
    unpack_pending,
    unpack_state,
    unpack_streams,
)
from lookupd.store.waiting import Waiting, waiting

if TYPE_CHECKING:
    from lookupd import _native

DEFAULT_MAP_SIZE = 64 * 1024**3


def _open(path: Path, map_size: int, native: bool) -> lmdb.Environment:
    if native:
        return open_native(path, map_size=map_size)
    return open_environment(path, map_size=map_size, readonly=True)


class Room(NamedTuple):
    """map_bytes: what the file may grow to. readers, readers_max: slots in use, and in all. newest: transaction."""

    map_bytes: int
    readers: int
    readers_max: int
    newest: int


class Reader:
    """One pinned state of the store after another.

    `pin()` moves to the newest commit (0.4 us); everything else reads the pinned state.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_size: int = DEFAULT_MAP_SIZE,
        environment: lmdb.Environment | None = None,
        native: bool = False,
    ) -> None:
        """Open the store at `path`. Raises StoreError when it is missing or not one of ours.

        environment: the writer's, borrowed, when writer and reader live in one process (LMDB must not open
        a store twice in a process); otherwise one of our own.
        native: whether ours is the native engine's, shared with its workers; LMDB must then be opened no other way.
        """
        self.path = path
        self._owns_environment = environment is None
        self._file = file_identity(path)  # before it is opened: replaced in between, it is opened once more at worst
        self._native = native and environment is None
        self._environment = environment or _open(path, map_size, native)
        try:
            self._handles = open_databases(self._environment, create=False)
            self._environment.reader_check()
            self._transaction = self._environment.begin(db=self._handles["blocks"], buffers=True)
            self._get = self._transaction.get
            self._stored: bytes | None = None
            self._loaded = False
            self.state = State()
            self.damaged: set[int] = set()
            self.routes: list[Route | None] = [None]
            self._ranges: tuple[tuple[int, dict[str, int]], ...] = ()
            self._range_starts: set[str] = set()
            self._load_state()
        except BaseException:
            if self._owns_environment:
                self._environment.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the pinned state, and of the environment if it is ours."""
        self._transaction.abort()
        if self._owns_environment:
            self._environment.close()

    # -- pinning -----------------------------------------------------------------------------------------

    def pin(self) -> None:
        """Move to the newest commit. Answers of one batch come from one state: call once per batch.

        Raises StoreError; nothing may be read until a later pin succeeds.
        """
        self._transaction.abort()
        try:
            self._transaction = self._begin()
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from None
        self._get = self._transaction.get
        # Not by the transaction's id: LMDB reads the newest id and then that commit's roots, and a thread that sleeps
        # in between for two commits gets later roots under the earlier id.
        stored = self._get(META_STATE, db=self._handles["meta"])
        if not self._loaded or (None if stored is None else bytes(stored)) != self._stored:
            self._load_state()

    def _begin(self) -> lmdb.Transaction[memoryview]:
        try:
            return self._environment.begin(db=self._handles["blocks"], buffers=True)
        except lmdb.MapResizedError:
            self._environment.set_mapsize(0)  # the writer's map has grown: take its size
            return self._environment.begin(db=self._handles["blocks"], buffers=True)

    def _load_state(self) -> None:
        tables = self.state.tables
        first, self._loaded = not self._loaded, True
        self.damaged.clear()  # each commit may have mended a block; the next read of it tells
        stored = self._get(META_STATE, db=self._handles["meta"])
        try:
            self._stored = None if stored is None else bytes(stored)
            self.state = State() if stored is None else unpack_state(stored)
            if first or self.state.tables != tables:
                self._load_tables()
        except (lmdb.Error, msgspec.MsgspecError, struct.error, ValueError) as error:
            self._loaded = False
            raise StoreError(f"{self.path}: the store's state or tables are damaged: {error}; restore it") from None

    def _load_tables(self) -> None:
        self.routes = [record.route() if record else None for record in self.route_records()]
        by_length: dict[int, dict[str, int]] = {}
        for prefix, route_id in self.ranges():
            by_length.setdefault(len(prefix), {})[prefix] = route_id
        self._ranges = tuple(sorted(by_length.items(), reverse=True))
        self._range_starts = {
            prefix[:end] for prefixes in by_length.values() for prefix in prefixes for end in range(len(prefix))
        }

    def replaced(self) -> bool:
        """Whether another store lies at our path now, such as a restored one: open that one then."""
        found = file_identity(self.path)
        return found is not None and found != self._file

    # -- the hot column ----------------------------------------------------------------------------------

    def entry(self, tn: int) -> int:
        """The number's 16-bit entry; 0 = not ported and no restriction.

        Raises DamagedBlock when the block's bytes are not those that were written.
        """
        block, offset = divmod(tn, NUMBERS_PER_BLOCK)
        try:
            value = self._get(BLOCK_KEY.pack(block))
        except lmdb.Error as error:
            raise self._unreadable(error) from None
        if value is None:
            return 0
        # `schema.block_is_sound`, written out: a call costs a tenth of a look-up.
        if (
            len(value) != BLOCK_BYTES
            or xxhash.xxh3_64_intdigest(value[:CHECKED_BYTES], block) != U64.unpack_from(value, CHECKED_BYTES)[0]
        ):
            self.damaged.add(block)
            raise DamagedBlock(block)
        entry: int = U16.unpack_from(value, 2 * offset)[0]
        return entry

    def route(self, route_id: int) -> Route:
        """The route of an id. Raises StoreError if the store has none of that id."""
        route = self.routes[route_id] if route_id < len(self.routes) else None
        if route is None:
            raise StoreError(f"{self.path}: route {route_id} is missing: load networks and the last snapshot again")
        return route

    def range_holder(self, digits: str) -> tuple[str, int] | None:
        """The longest prefix in the ranges table that the number starts with, and its holder's route id."""
        for length, prefixes in self._ranges:
            route_id = prefixes.get(digits[:length])
            if route_id is not None:
                return digits[:length], route_id
        return None

    def restriction(self, tn: int, now: UnixSeconds) -> InForce | None:
        """Of a number whose entry has RESTRICTED: the strictest that is in force. Raises StoreError for a damaged
        value, or if there is none."""
        block, offset = divmod(tn, NUMBERS_PER_BLOCK)
        try:
            value = self._get(BLOCK_KEY.pack(block), db=self._handles["restricted"])
        except lmdb.Error as error:
            raise self._unreadable(error) from None
        if value is None:
            raise StoreError(f"{self.path}: the restrictions of block {block} are missing: restore the store")
        is_told, holds = restricted.find(block, value, offset, now)
        if is_told:
            return holds
        found = self.restrictions(tn)
        if not found:
            raise StoreError(f"{self.path}: the restriction of {tn} is missing: restore the store")
        return restrictions.in_force(found, now)

    def touches_range(self, digits: str) -> bool:
        """Whether a number that begins with these digits may be in a range: one holds it, or begins with it."""
        return digits in self._range_starts or self.range_holder(digits) is not None

    def has_ported_under(self, digits: str) -> bool:
        """Whether a ported number is longer than these digits and begins with them. digits: 1 to 15, no zero first.

        A block that exists counts where the digits end above its thousand. Raises StoreError for a page or a block
        that is damaged.
        """
        for length in range(max(len(digits) + 1, TN_DIGITS_MIN), E164_DIGITS_MAX + 1):
            open_digits = length - len(digits)
            first = int(digits) * 10**open_digits
            end = first + 10**open_digits
            block = self._block_from(first // NUMBERS_PER_BLOCK)
            if block is None:
                return False  # longer numbers would lie behind it
            if block * NUMBERS_PER_BLOCK >= end:
                continue
            if end - first >= NUMBERS_PER_BLOCK or any(self.entry(tn) & ROUTE_MASK for tn in range(first, end)):
                return True
        return False

    def _block_from(self, block: int) -> int | None:
        """The first block in the store that is not below this one."""
        try:
            with self._transaction.cursor(db=self._handles["blocks"]) as cursor:
                return BLOCK_KEY.unpack(cursor.key())[0] if cursor.set_range(BLOCK_KEY.pack(block)) else None
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    # -- the cold column and the tables ------------------------------------------------------------------

    def ported(self, tn: TN) -> Ported | None:
        """All that is known of a ported number; None if it is not ported."""
        route_id = self.entry(tn) & ROUTE_MASK
        if route_id == 0:
            return None
        route = self.route(route_id)
        donor_id, ported_at, sequence = self._detail(tn)
        return Ported(
            tn,
            tn,
            route.network_code,
            None if route.own else route.routing_number,
            self.route(donor_id).network_code if donor_id else None,
            UnixSeconds(ported_at) if ported_at else None,
            sequence,
        )

    def _detail(self, tn: TN) -> tuple[int, int, int]:
        block, offset = divmod(tn, NUMBERS_PER_BLOCK)
        try:
            value = self._get(BLOCK_KEY.pack(block), db=self._handles["details"])
        except lmdb.Error as error:
            raise self._unreadable(error) from None
        records = unpack_details(block, value)
        for found, donor_id, ported_at, sequence in DETAIL.iter_unpack(records):
            if found == offset:
                return donor_id, ported_at, sequence
        return 0, 0, 0

    def route_records(self) -> list[RouteRecord | None]:
        """All routes, indexed by id; index 0 is None."""
        records: list[RouteRecord | None] = [None]
        for key, value in self._each("routes"):
            route_id = ROUTE_KEY.unpack(key)[0]
            records.extend([None] * (route_id + 1 - len(records)))
            records[route_id] = decode_route(value)
        return records

    def ranges(self) -> list[tuple[str, int]]:
        """The ranges table: prefix, route id of its holder."""
        return [(bytes(key).decode(), U16.unpack(value)[0]) for key, value in self._each("ranges")]

    def restrictions(self, tn: int) -> list[Restriction]:
        """All that are about a number, in force or not. Raises StoreError for a damaged row."""
        return restrictions.of_number(self.stored_from, tn)

    def imsi_restrictions(self, imsi: int) -> list[Restriction]:
        """All that are about an IMSI, by its key. Raises StoreError for a damaged row."""
        return restrictions.of_imsi(self.stored_from, imsi)

    def every_restriction(self) -> Iterator[Restriction]:
        """All of them. Raises StoreError for a damaged row."""
        return restrictions.every(self.stored_from)

    def pending(self) -> list[PendingNotice]:
        """Changes that wait for their moment, the earliest first; damaged ones are left out."""
        return [waits for waits in self._pending() if waits is not None]

    def waiting(self) -> Waiting:
        """What stands at the head of the pending notices."""
        try:
            return waiting(self._transaction, self._handles["pending"])
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    def _pending(self) -> Iterator[PendingNotice | None]:
        for _, value in self._each("pending"):
            try:
                yield unpack_pending(value)
            except (ValueError, msgspec.MsgspecError, struct.error):
                yield None

    def _each(self, name: str, first: bytes = b"") -> Iterator[tuple[memoryview, memoryview]]:
        """Every key from `first` on and its value, borrowed until the next step."""
        try:
            with self._transaction.cursor(db=self._handles[name]) as cursor:
                if cursor.set_range(first):
                    yield from cursor.iternext()
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: lmdb.Error) -> StoreError:
        """A page of LMDB's tree is damaged; no checksum of ours is on those."""
        return StoreError(f"{self.path}: {error}: restore the store")

    # -- history -----------------------------------------------------------------------------------------

    def stored(self, name: str, key: bytes) -> bytes | None:
        """The bytes under a key of a database."""
        try:
            value = self._get(key, db=self._handles[name])
        except lmdb.Error as error:
            raise self._unreadable(error) from None
        return None if value is None else bytes(value)

    def stored_from(self, name: str, first: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a database in the keys' order, from the first key that is not below `first`."""
        try:
            with self._transaction.cursor(db=self._handles[name]) as cursor:
                more = cursor.set_range(first) if first else cursor.first()
                while more:
                    yield bytes(cursor.key()), bytes(cursor.value())
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    def anchor(self) -> Anchor | None:
        """Where the kept history begins, if something was pruned."""
        value = self.stored("meta", META_ANCHOR)
        try:
            return None if value is None else unpack_anchor(value)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreError(f"{self.path}: the journal's anchor is damaged: {error}: restore the store") from None

    def streams(self) -> dict[str, StreamPosition]:
        """Where each feed of a fleet is in its stream."""
        return unpack_streams(self.stored("meta", META_STREAM))

    def history(self, tn: TN, newest: int = 5) -> list[tuple[int, JournalEntry]]:
        """The last journal entries that changed this number, newest first, with their serials."""
        try:
            return journal.of_number(
                self._transaction, self._handles["journal"], self._handles["journal_blocks"], tn, newest
            )
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    def receipts(self, first: int = 0) -> Iterator[tuple[int, Receipt]]:
        """The clocks of each commit from serial `first` on: its last serial, and the receipt."""
        try:
            with self._transaction.cursor(db=self._handles["receipts"]) as cursor:
                more = cursor.set_range(SERIAL_KEY.pack(first))
                while more:
                    yield SERIAL_KEY.unpack(cursor.key())[0], decode_receipt(cursor.value())
                    more = cursor.next()
        except lmdb.Error as error:
            raise self._unreadable(error) from None
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self.path}: a receipt is damaged: {error}: restore the store") from None

    def newest_receipts(self, count: int) -> list[tuple[int, Receipt]]:
        """The clocks of the newest commits, the oldest of them first."""
        found: list[tuple[int, Receipt]] = []
        with self._transaction.cursor(db=self._handles["receipts"]) as cursor:
            more = cursor.last()
            while more and len(found) < count:
                found.append((SERIAL_KEY.unpack(cursor.key())[0], decode_receipt(cursor.value())))
                more = cursor.prev()
        return found[::-1]

    def journal(self) -> Iterator[tuple[int, JournalEntry, bytes]]:
        """The whole journal from its oldest entry: serial, entry, its hash."""
        try:
            yield from journal.entries(self._transaction, self._handles["journal"])
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    # -- for comparisons (`bulk.Comparable`) and for readers beside this one ------------------------------

    @property
    def transaction(self) -> lmdb.Transaction[memoryview]:
        """LMDB's, of the pinned state; another one after the next pin."""
        return self._transaction

    @property
    def handles(self) -> dict[str, Handle]:
        """Of the databases, by name."""
        return self._handles

    @property
    def native(self) -> _native.Environment | None:
        """The native engine's environment, for its workers; None when LMDB was opened by py-lmdb."""
        return as_native(self._environment) if self._native else None

    def flush(self) -> None:
        """A reader has nothing to write."""

    def begin(self) -> lmdb.Transaction[memoryview]:
        """A transaction of its own on the newest commit, for who needs one state for longer than a batch.

        The caller aborts it before this reader is closed.
        """
        return self._begin()

    # -- all blocks --------------------------------------------------------------------------------------

    def blocks(self, first: int = 0) -> Iterator[tuple[int, memoryview]]:
        """Every block from number `first` on: its number and its value, borrowed until the next step."""
        for key, value in self._each("blocks", BLOCK_KEY.pack(first)):
            yield BLOCK_KEY.unpack(key)[0], value

    def details(self, first: int = 0) -> Iterator[tuple[int, memoryview]]:
        """Every details value from block `first` on: its block's number and the value, borrowed until the next step."""
        for key, value in self._each("details", BLOCK_KEY.pack(first)):
            yield BLOCK_KEY.unpack(key)[0], value

    def restricted(self, first: int = 0) -> Iterator[tuple[int, memoryview]]:
        """What look-ups read of restrictions, of every block from `first` on, likewise. Raises StoreError."""
        for key, value in self._each("restricted", BLOCK_KEY.pack(first)):
            if len(key) != BLOCK_KEY.size:
                raise StoreError(f"restricted: the key {key.hex()} is damaged: restore the store")
            yield BLOCK_KEY.unpack(key)[0], value

    def count(self, name: str) -> int:
        """How many values a database has. Raises StoreError."""
        try:
            return int(self._transaction.stat(self._handles[name])["entries"])
        except lmdb.Error as error:
            raise self._unreadable(error) from None

    def copy_to(self, file: int) -> None:
        """Write the pinned state, compacted, to a descriptor; may run in a thread while this one waits."""
        try:
            self._environment.copyfd(file, compact=True, txn=self._transaction)
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: cannot copy the store: {error}") from None

    def warm(self) -> int:
        """Read every block and check it, so that no call waits for a page; returns how many are damaged.

        The native environment reads all other databases too, without the interpreter's lock.
        """
        if self._native:
            self.damaged = set(as_native(self._environment).warm()[1])
            return len(self.damaged)
        self.damaged = {block for block, value in self.blocks() if not block_is_sound(block, value)}
        return len(self.damaged)

    def check_readers(self) -> int:
        """Give back the slots of readers that died; returns how many."""
        return int(self._environment.reader_check())

    def sizes(self) -> dict[str, int]:
        """Bytes by database, of the file, and reader slots in use: for status and metrics."""
        try:
            return self._sizes()
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from None

    def room(self) -> Room:
        """How far the store may grow, and who reads it: for metrics. Raises StoreError."""
        try:
            info = self._environment.info()
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from None
        return Room(info["map_size"], info["num_readers"], info["max_readers"], info["last_txnid"])

    def _sizes(self) -> dict[str, int]:
        page = self._environment.stat()["psize"]
        sizes = {}
        for name, handle in self._handles.items():
            stat = self._transaction.stat(handle)
            sizes[name] = page * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
        info = self._environment.info()
        return sizes | {"file": page * (info["last_pgno"] + 1), "readers": info["num_readers"]}

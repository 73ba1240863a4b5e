"""The history of the store: append, follow the chain of hashes, find a number's entries.

Which changes are made is the writer's business; this file only records and reads them. What the store was at
a moment is for `history`, taking old entries out for `prune`, proving the whole for `chain`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import lmdb
import msgspec

from lookupd.errors import StoreError
from lookupd.model import TN, JournalEntry, JournalKind, NetworkCode, Ported, RoutingNumber, UnixSeconds
from lookupd.store.schema import (
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    PREVIOUS,
    SERIAL_KEY,
    U32,
    UNKNOWN_ROUTE,
    Anchor,
    Handle,
    RouteRecord,
    State,
    encode,
)
from lookupd.units import format_time

HASH_BYTES = 16
FIRST = bytes(HASH_BYTES)
"""`previous` of the first entry."""

# First byte of a name in `journal_tables`. The last three are no rows of a table but help to read the journal:
# serials at which the clock stood before the entry before (the value is that one's applied_at), serials of
# snapshots that were loaded into an empty store, which keep no old states, and the route ids in a snapshot's
# old states (the value: id -> network code, the number's own routing number).
NETWORK, RANGE, RESTRICTION, CLOCK_FELL, FROM_EMPTY, LEGEND = b"n", b"r", b"x", b"c", b"e", b"l"
_NAMES = frozenset({NETWORK, RANGE, RESTRICTION, CLOCK_FELL, FROM_EMPTY, LEGEND})

Legend = dict[int, tuple[str, str | None]]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The first fields of a JournalEntry, read without the rest."""

    previous: bytes
    kind: JournalKind
    applied_at: UnixSeconds
    digest: int
    added: int
    removed: int
    changed: int
    feed: str | None


_decode = msgspec.msgpack.Decoder(JournalEntry).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode
decode_legend = msgspec.msgpack.Decoder(Legend).decode


class Fold:
    """Hash over rows that lie beside an entry, in the order of their keys.

    BLAKE2b-128 over each row's key, the length of its value (u32, little-endian) and its value.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=HASH_BYTES)
        self._rows = 0

    def add(self, key: bytes, value: bytes) -> None:
        """One more row."""
        self._hash.update(key + U32.pack(len(value)))
        self._hash.update(value)
        self._rows += 1

    def digest(self) -> bytes:
        """As the entry carries it: empty when there was no row."""
        return self._hash.digest() if self._rows else b""


# -- writing ---------------------------------------------------------------------------------------------


def entry_hash(stored: bytes) -> bytes:
    """What the next entry carries of this one."""
    return hashlib.blake2b(stored, digest_size=HASH_BYTES).digest()


def last(transaction: lmdb.Transaction, journal: Handle, state: State) -> tuple[bytes, UnixSeconds]:
    """Hash and applied_at of the newest entry.

    The hash is the one the state keeps: made anew from the entry, it would hide a change of its bytes.
    """
    stored = transaction.get(SERIAL_KEY.pack(state.serial), db=journal)
    if stored is not None:
        try:
            return state.journal_head, _decode_head(bytes(stored)).applied_at
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return state.journal_head, UnixSeconds(0)  # `verify` tells; it is no reason to answer from old data
    if state.serial == 0:
        return FIRST, UnixSeconds(0)
    raise StoreError(f"journal entry {state.serial} is missing: restore the store from a backup")


def append(transaction: lmdb.Transaction, journal: Handle, serial: int, entry: JournalEntry) -> bytes:
    """Store one entry under its serial; returns its hash."""
    stored = encode(entry)
    if not transaction.put(SERIAL_KEY.pack(serial), stored, db=journal, append=True):
        raise StoreError(f"journal entry {serial} exists already, the state is older: restore the store from a backup")
    return entry_hash(stored)


def put_rows(transaction: lmdb.Transaction, tables: Handle, serial: int, before: Mapping[bytes, bytes]) -> bytes:
    """Keep what table rows were before the entry of `serial`; returns its tables_hash. before: name -> value."""
    fold = Fold()
    for name in sorted(before):
        key = row_key(name, serial)
        transaction.put(key, before[name], db=tables)
        fold.add(key, before[name])
    return fold.digest()


def row_key(name: bytes, serial: int) -> bytes:
    """Key in `journal_tables`. A name has no NUL, so that the rows of one name lie together, by serial."""
    return name + b"\0" + SERIAL_KEY.pack(serial)


def split_row_key(key: bytes) -> tuple[bytes, int]:
    """Name and serial of a key in `journal_tables`. Raises StoreError."""
    name = key[:-9]
    if len(key) < 10 or key[-9] or b"\0" in name or name[:1] not in _NAMES:
        raise StoreError(f"journal_tables: a key is damaged: {key.hex()}")
    return name, SERIAL_KEY.unpack(key[-8:])[0]


def legend(routes: Sequence[RouteRecord | None], route_ids: Iterable[int]) -> bytes:
    """What the ids in a snapshot's old states stand for: they can be read without the routes, and are proven."""
    found: Legend = {}
    for route_id in sorted(route_ids):
        record = routes[route_id] if route_id < len(routes) else None
        if record is not None:
            found[route_id] = record.network_code, None if record.own else record.routing_number
    return encode(found)


def pruned_words(anchor: Anchor) -> str:
    """What the entry of a pruning says of its anchor, so that the chain vouches for it."""
    fed = "data" if anchor.fed else "no data"
    return (
        f"{anchor.count} entries to serial {anchor.serial} of {format_time(anchor.applied_at)}, "
        f"hash {anchor.hash.hex()}, {fed}"
    )


# -- reading ---------------------------------------------------------------------------------------------


def read(transaction: lmdb.Transaction, journal: Handle, serial: int) -> JournalEntry | None:
    """The entry of a serial, None if there is none."""
    stored = transaction.get(SERIAL_KEY.pack(serial), db=journal)
    return None if stored is None else unpack(serial, bytes(stored))


def unpack(serial: int, stored: bytes) -> JournalEntry:
    """Raises StoreError when it is no entry."""
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"journal entry {serial} is damaged: {error}") from None


def unpack_head(serial: int, stored: bytes | None) -> Head:
    """Raises StoreError when it is no entry, or there is none."""
    if stored is None:
        raise StoreError(f"journal entry {serial} is missing: restore the store from a backup")
    try:
        return _decode_head(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"journal entry {serial} is damaged: {error}") from None


def entries(transaction: lmdb.Transaction, journal: Handle) -> Iterator[tuple[int, JournalEntry, bytes]]:
    """All entries from the oldest: serial, entry, its hash."""
    with transaction.cursor(db=journal) as cursor:
        for key, stored in cursor:
            serial = SERIAL_KEY.unpack(key)[0]
            yield serial, unpack(serial, bytes(stored)), entry_hash(bytes(stored))


def of_number(
    transaction: lmdb.Transaction, journal: Handle, journal_blocks: Handle, tn: int, newest: int
) -> list[tuple[int, JournalEntry]]:
    """The last `newest` entries that changed this number, newest first."""
    block, offset = divmod(tn, NUMBERS_PER_BLOCK)
    found: list[tuple[int, JournalEntry]] = []
    with transaction.cursor(db=journal_blocks) as cursor:
        behind = cursor.set_range(JOURNAL_BLOCK_KEY.pack(block + 1, 0))
        more = cursor.prev() if behind else cursor.last()
        while more and len(found) < newest:
            of_block, serial = JOURNAL_BLOCK_KEY.unpack(cursor.key())
            if of_block != block:
                break
            entry = read(transaction, journal, serial)
            if entry is not None and _concerns(entry, bytes(cursor.value()), tn, offset):
                found.append((serial, entry))
            more = cursor.prev()
    return found


def _concerns(entry: JournalEntry, previous: bytes, tn: int, offset: int) -> bool:
    if entry.tn is not None and entry.tn_to is not None:
        return entry.tn <= tn <= entry.tn_to
    return any(of == offset or route_id == UNKNOWN_ROUTE for of, route_id, *_ in previous_records(previous))


def ported_before(tn: TN, record: tuple[int, int, int, int, int], names: Legend) -> Ported | None:
    """What a number was by its PREVIOUS record; None = not ported. Raises StoreError for an id that has no name."""
    _, route_id, donor_id, ported_at, sequence = record
    if route_id == 0:
        return None
    if route_id not in names or (donor_id and donor_id not in names):
        raise StoreError(f"old state of {tn}: route {route_id} or {donor_id} has no name: restore the store")
    code, routing_number = names[route_id]
    return Ported(
        tn,
        tn,
        NetworkCode(code),
        None if routing_number is None else RoutingNumber(routing_number),
        NetworkCode(names[donor_id][0]) if donor_id else None,
        UnixSeconds(ported_at) if ported_at else None,
        sequence,
    )


def previous_records(value: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """A snapshot's old states in one block: offset, route id, donor's route id, ported_at, sequence of each number.

    Raises StoreError when it is not a row of them.
    """
    if len(value) % PREVIOUS.size:
        raise StoreError("old states of a snapshot are damaged: restore the store from a backup")
    return PREVIOUS.iter_unpack(value)

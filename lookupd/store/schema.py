"""Databases, key and value layouts, format version. Packs and unpacks; opens nothing but environments.

Byte orders: keys are big-endian, so that LMDB's order is the numbers' order; values are little-endian, as
the machines that map them are.

    routes          route id (u16)                 -> RouteRecord, MessagePack
    blocks          tn // 1000 (u64)               -> 1000 x u16 entries, content digest u64, checksum u64
    details         tn // 1000 (u64)               -> n x 16 bytes (DETAIL), sorted by offset, checksum u64
    ranges          prefix, ASCII digits           -> route id (u16)
    restrictions    see `restrictions`              -> what authorities placed on numbers and IMSIs
    restricted      tn // 1000 (u64)               -> what a look-up needs of them: see `restricted`
    pending         effective_at, sequence, line   -> PendingNotice, MessagePack, checksum u64
    journal         serial (u64)                   -> JournalEntry, MessagePack
    journal_blocks  tn // 1000 (u64), serial (u64) -> n x 24 bytes (PREVIOUS): a snapshot's old states;
                                                      empty for a notice, whose entry has them
    journal_tables  "n" network code, "r" prefix or "x" restriction, NUL, serial (u64)
                                                   -> what the row was before, MessagePack; nil = no such row;
                                                      "c" and "e": see `journal`
    receipts        serial (u64)                   -> Receipt, MessagePack: the clocks of the commit that ended there
    meta            "format" -> u32; "state" -> State, "anchor" -> Anchor, "stream" -> feed -> StreamPosition, absent
                    where no fleet is followed: MessagePack, checksum u64

An entry: 15 bits route id (0 = not ported), top bit = a restriction exists. A block of 2,016 bytes leaves
room for two in a page of 4,096, so a change costs one page copy, as a single record would.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Annotated, Any, Final

import lmdb
import msgspec
import xxhash

from lookupd.errors import DamagedBlock, StoreError
from lookupd.limits import STORE_DATABASES_MAX, STORE_READERS_MAX
from lookupd.model import FeedPosition, NetworkCode, Notice, Receipt, Route, RoutingNumber, StreamPosition, UnixSeconds
from lookupd.store.rights import LOCK_FILE, make_environment_files, make_folder, make_lock_file, open_file

Handle = Any
"""py-lmdb's handle of a database; its type is private."""

Value = bytes | memoryview
"""What LMDB returns: owned bytes, or a view that ends with the transaction."""

FORMAT_VERSION: Final = 3
DATABASES: Final = (
    "routes",
    "blocks",
    "details",
    "ranges",
    "restrictions",
    "restricted",
    "pending",
    "journal",
    "journal_blocks",
    "journal_tables",
    "receipts",
    "meta",
)

NUMBERS_PER_BLOCK: Final = 1000
ENTRIES_BYTES: Final = 2 * NUMBERS_PER_BLOCK
CHECKED_BYTES: Final = ENTRIES_BYTES + 8
BLOCK_BYTES: Final = CHECKED_BYTES + 8
ROUTE_MASK: Final = 0x7FFF
RESTRICTED: Final = 0x8000

U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
ROUTE_KEY = struct.Struct(">H")
BLOCK_KEY = struct.Struct(">Q")
SERIAL_KEY = struct.Struct(">Q")
JOURNAL_BLOCK_KEY = struct.Struct(">QQ")
PENDING_KEY = struct.Struct(">QQI")

DETAIL = struct.Struct("<HHIQ")
"""offset in the block, donor's route id (0 = not told), ported_at (0 = not told), feed sequence."""

PREVIOUS = struct.Struct("<HHHxxI4xQ")
"""offset, route id (0 = was not ported), donor's route id, ported_at, feed sequence: one number's old state."""

UNKNOWN_ROUTE: Final = 0xFFFF
"""In a PREVIOUS record: the whole block was damaged before this snapshot mended it; what it said is not known."""

META_FORMAT: Final = b"format"
META_STATE: Final = b"state"
META_ANCHOR: Final = b"anchor"
META_STREAM: Final = b"stream"

_MASK64: Final = (1 << 64) - 1


class RouteRecord(msgspec.Struct, frozen=True, array_like=True):
    """A route as stored; a network's own route has `own` set and its routing number may change.

    What a damaged file holds in place of a code is no route: it would go into answers as it is, into DNS records and
    SIP headers too.
    """

    network_code: Annotated[NetworkCode, msgspec.Meta(pattern=r"\A[0-9A-Z]{1,8}\Z")]
    routing_number: Annotated[RoutingNumber, msgspec.Meta(pattern=r"\A[0-9A-F]{1,15}\Z")] | None
    operator: str
    pdb_carrier_id: int | None
    own: bool

    def route(self) -> Route:
        """As the rest of the program knows it."""
        return Route(self.network_code, self.routing_number, self.operator, self.pdb_carrier_id, self.own)


class PendingNotice(msgspec.Struct, frozen=True, array_like=True):
    """A confirmed change that waits for its moment. serial: of the journal entry that scheduled it."""

    feed: str
    sequence: int
    line: int
    notice: Notice
    serial: int


class State(msgspec.Struct, frozen=True, array_like=True):
    """Everything that changes with each commit, in one value.

    serial: the journal's last key. digest: sum of all content digests, of networks, of ranges and of
    restrictions, mod 2^64. ported: numbers with a route. tables: grows with each change of routes or ranges, so that a
    reader knows when to read them again. journal_head: hash of the newest journal entry; zeros before it.
    """

    serial: int = 0
    digest: int = 0
    ported: int = 0
    blocks: int = 0
    tables: int = 0
    feeds: dict[str, FeedPosition] = {}
    journal_head: bytes = bytes(16)


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """What is left of the entries that were pruned: serial, hash and applied_at are those of the last of them.

    pruned_at, sign_off: when, and on whose word. count: entries that this run of the pruning has taken so far.
    fed: whether a feed had been loaded by then; before that every number was unavailable.
    """

    serial: int
    hash: bytes
    applied_at: UnixSeconds
    pruned_at: UnixSeconds
    sign_off: str
    count: int
    fed: bool


encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(State).decode
_decode_anchor = msgspec.msgpack.Decoder(Anchor).decode
_decode_streams = msgspec.msgpack.Decoder(dict[str, StreamPosition]).decode
decode_route = msgspec.msgpack.Decoder(RouteRecord).decode
_decode_pending = msgspec.msgpack.Decoder(PendingNotice).decode
decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


# -- checksums and digests -------------------------------------------------------------------------------
# Two sums, because they answer two questions. The checksum (XXH3 of a block's bytes, keyed by its number)
# asks "are these the bytes we wrote?" on every read, at memory speed. The content digest asks "do two
# stores say the same?": route ids are handed out in the order in which routes were first seen, which
# differs between replicas, so it sums over what the ids stand for.


def checksum(data: bytes | bytearray | memoryview, block: int) -> int:
    """XXH3-64 of the bytes, keyed by the block's number: a block at the wrong key is damaged too."""
    return xxhash.xxh3_64_intdigest(data, block & _MASK64)


def mix(value: int) -> int:
    """A 64-bit permutation in which every input bit moves half of the output bits (splitmix64's last step)."""
    value &= _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


TN_FACTOR: Final = 0x9E3779B97F4A7C15


def number_term(tn: int, fingerprint: int) -> int:
    """What one ported number adds to its block's content digest."""
    return mix(tn * TN_FACTOR + fingerprint)


def route_fingerprint(record: RouteRecord) -> int:
    """What a route stands for, whatever its id: the network, and the routing number if it is the number's own."""
    own = "" if record.own else record.routing_number or ""
    return xxhash.xxh3_64_intdigest(f"route\0{record.network_code}\0{own}".encode())


def network_term(record: RouteRecord) -> int:
    """What a row of the networks table adds to the store's digest."""
    row = ("network", record.network_code, record.operator, record.routing_number, record.pdb_carrier_id)
    return mix(xxhash.xxh3_64_intdigest(encode(row)))


def range_term(prefix: str, network_code: str) -> int:
    """What a row of the ranges table adds to the store's digest."""
    return mix(xxhash.xxh3_64_intdigest(encode(("range", prefix, network_code))))


def format_digest(digest: int) -> str:
    """As people compare it: 16 hex digits, mod 2^64."""
    return f"{digest & _MASK64:016x}"


# -- values ----------------------------------------------------------------------------------------------


def pack_block(block: int, entries: bytes | bytearray, content: int) -> bytes:
    """A block's value. entries: 2,000 bytes. content: its content digest."""
    checked = bytes(entries) + U64.pack(content)
    return checked + U64.pack(checksum(checked, block))


def block_is_sound(block: int, value: bytes | memoryview) -> bool:
    """Whether a block's bytes are those that were written under this key."""
    return (
        len(value) == BLOCK_BYTES
        and xxhash.xxh3_64_intdigest(value[:CHECKED_BYTES], block) == U64.unpack_from(value, CHECKED_BYTES)[0]
    )


def pack_state(state: State) -> bytes:
    """The state's value: MessagePack, then its checksum. A flipped feed position would skip a delta."""
    return _pack_checked(encode(state), 0)


def pack_anchor(anchor: Anchor) -> bytes:
    """The anchor's value, checked like the state's."""
    return _pack_checked(encode(anchor), 1)


def pack_pending(waits: PendingNotice) -> bytes:
    """A waiting notice's value, checked: a flipped bit in it would route a number elsewhere at its moment."""
    return _pack_checked(encode(waits), 2)


def pack_streams(streams: dict[str, StreamPosition]) -> bytes:
    """Where each feed is in its stream; checked like the state."""
    return _pack_checked(encode(streams), 3)


def unpack_streams(value: Value | None) -> dict[str, StreamPosition]:
    """What is absent or damaged is none: the stream is then read from its beginning, which costs time only."""
    if value is None:
        return {}
    try:
        return _decode_streams(_unpack_checked(value, 3))
    except (msgspec.MsgspecError, ValueError):
        return {}


def unpack_pending(value: Value) -> PendingNotice:
    """Raises ValueError, or msgspec's, when it is not what was written."""
    return _decode_pending(_unpack_checked(value, 2))


def unpack_state(value: Value) -> State:
    """Raises ValueError, or msgspec's, when it is not what was written."""
    return _decode_state(_unpack_checked(value, 0))


def unpack_anchor(value: Value) -> Anchor:
    """Raises ValueError, or msgspec's, when it is not what was written."""
    return _decode_anchor(_unpack_checked(value, 1))


def _pack_checked(packed: bytes, key: int) -> bytes:
    """key: tells values of different meaning apart, so that one does not pass for the other."""
    return packed + U64.pack(checksum(packed, key))


def _unpack_checked(value: Value, key: int) -> bytes:
    packed = bytes(value[:-8])
    if len(value) < 8 or checksum(packed, key) != U64.unpack_from(value, len(packed))[0]:
        raise ValueError("its checksum does not fit")
    return packed


def pack_details(block: int, records: bytes | bytearray) -> bytes:
    """A details value: the records, then their checksum."""
    return bytes(records) + U64.pack(checksum(records, block))


def unpack_details(block: int, value: bytes | memoryview | None) -> bytes:
    """The records of a details value; raises StoreError when they are not those that were written."""
    if value is None:
        return b""
    records = bytes(value[:-8])
    sound = len(value) >= 8 and len(records) % DETAIL.size == 0
    if not sound or checksum(records, block) != U64.unpack_from(value, len(value) - 8)[0]:
        raise DamagedBlock(block, f"details of block {block} are damaged: load the last snapshot again")
    return records


# -- environments ----------------------------------------------------------------------------------------


def open_environment(path: Path, *, map_size: int, readonly: bool) -> lmdb.Environment:
    """Open the store's LMDB environment, creating it unless readonly.

    map_size: bytes of address space, not of disk. Raises StoreError with the way out.
    """
    try:
        there = (path / "data.mdb").is_file()
    except PermissionError:
        raise StoreError(f"{path}: cannot open the store: may not look into its folder") from None
    if readonly and not there:
        raise StoreError(f"{path}: no store here: load a snapshot with lookupd-loader first")
    try:
        make_folder(path)
        _refuse_truncated(path)
        if not readonly and not (path / LOCK_FILE).exists() and disk_is_full(path):
            raise StoreError(f"{path}: {DISK_FULL}")  # LMDB writes a new lock file through the map: SIGBUS
        make_lock_file(path) if readonly else make_environment_files(path)
        return lmdb.open(
            str(path),
            map_size=map_size,
            max_dbs=STORE_DATABASES_MAX,
            max_readers=STORE_READERS_MAX,
            readonly=readonly,
            create=not readonly,
            lib_version=0,
        )
    except (lmdb.Error, OSError) as error:
        raise StoreError(f"{path}: cannot open the store: {error}") from None


# A data file that was cut short must be refused before it is mapped: reading past its end kills the process.
# LMDB's own last page number does not tell, since pages that a transaction took and gave back at the file's
# end are counted but never written. So the writer notes the file's length after each commit; it never falls.

_LENGTH_FILE: Final = "data.length"


def file_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the store's data file; None if there is none. Another one: the store was replaced."""
    try:
        found = os.stat(path / "data.mdb")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def note_length(path: Path) -> None:
    """Keep the data file's length beside it. A writer that dies before it has done so leaves a shorter one."""
    part = path / f"{_LENGTH_FILE}.part"
    with os.fdopen(open_file(part, os.O_WRONLY | os.O_TRUNC), "w") as file:
        file.write(f"{(path / 'data.mdb').stat().st_size}\n")
    part.rename(path / _LENGTH_FILE)


def _refuse_truncated(path: Path) -> None:
    try:
        noted = int((path / _LENGTH_FILE).read_text())
        length = (path / "data.mdb").stat().st_size
    except (FileNotFoundError, ValueError):
        return
    if length < noted:
        raise StoreError(f"{path}/data.mdb: truncated, {length} of {noted} bytes: restore it, or load into a new store")


DISK_FULL: Final = "the disk is full: free space on it, then do the same again"


def disk_is_full(path: Path) -> bool:
    """Whether less than a megabyte is left. LMDB tells a short write as an input/output error."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize < 1 << 20


def open_databases(environment: lmdb.Environment, *, create: bool) -> dict[str, Handle]:
    """The handles by name. Raises StoreError if the store has another format, or lacks a database."""
    try:
        meta = environment.open_db(b"meta", create=create)
        with environment.begin(write=create) as transaction:
            found = transaction.get(META_FORMAT, db=meta)
            if found is None and create:
                transaction.put(META_FORMAT, U32.pack(FORMAT_VERSION), db=meta)
            elif found != U32.pack(FORMAT_VERSION):
                have = U32.unpack(found)[0] if found is not None and len(found) == 4 else "none"
                raise StoreError(
                    f"{environment.path()}: store format {have}, this program reads {FORMAT_VERSION}: "
                    "load a snapshot into a new store"
                )
        handles = {name: environment.open_db(name.encode(), create=create) for name in DATABASES if name != "meta"}
    except lmdb.Error as error:
        raise StoreError(f"{environment.path()}: not a store of ours: {error}") from None
    handles["meta"] = meta
    return handles

"""The history of the store: append, follow the chain of hashes, find a number's entries.

Which changes are made is the writer's business; this file only records and reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import lmdb
import msgspec

from lookupd.errors import StoreError
from lookupd.model import JournalEntry
from lookupd.store.schema import (
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    PREVIOUS,
    SERIAL_KEY,
    U16,
    Handle,
    encode,
)

HASH_BYTES = 16
FIRST = bytes(HASH_BYTES)
"""`previous` of the first entry."""

_decode = msgspec.msgpack.Decoder(JournalEntry).decode


def entry_hash(stored: bytes) -> bytes:
    """What the next entry carries of this one."""
    return hashlib.blake2b(stored, digest_size=HASH_BYTES).digest()


def last_hash(transaction: lmdb.Transaction, journal: Handle, serial: int) -> bytes:
    """The hash of the newest entry."""
    stored = transaction.get(SERIAL_KEY.pack(serial), db=journal)
    if stored is None:
        if serial == 0:
            return FIRST
        raise StoreError(f"journal entry {serial} is missing: restore the store from a backup")
    return entry_hash(bytes(stored))


def append(transaction: lmdb.Transaction, journal: Handle, serial: int, entry: JournalEntry) -> bytes:
    """Store one entry under its serial; returns its hash."""
    stored = encode(entry)
    if not transaction.put(SERIAL_KEY.pack(serial), stored, db=journal, append=True):
        raise StoreError(f"journal entry {serial} exists already, the state is older: restore the store from a backup")
    return entry_hash(stored)


def read(transaction: lmdb.Transaction, journal: Handle, serial: int) -> JournalEntry | None:
    """The entry of a serial, None if there is none."""
    stored = transaction.get(SERIAL_KEY.pack(serial), db=journal)
    return None if stored is None else _unpack(serial, bytes(stored))


def _unpack(serial: int, stored: bytes) -> JournalEntry:
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"journal entry {serial} is damaged: {error}") from None


def entries(transaction: lmdb.Transaction, journal: Handle) -> Iterator[tuple[int, JournalEntry, bytes]]:
    """All entries from the oldest: serial, entry, its hash."""
    with transaction.cursor(db=journal) as cursor:
        for key, stored in cursor:
            serial = SERIAL_KEY.unpack(key)[0]
            yield serial, _unpack(serial, bytes(stored)), entry_hash(bytes(stored))


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
    return any(U16.unpack_from(previous, at)[0] == offset for at in range(0, len(previous), PREVIOUS.size))

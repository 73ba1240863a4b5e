"""How far back the store's oldest reader looks, read from LMDB's lock file as this process has it open.

A state that somebody still reads keeps its pages: as long as a reader stands still, the file only grows.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from lookupd.limits import STORE_READERS_MAX
from lookupd.store.rights import LOCK_FILE

_MAGIC = 0xBEEFC0DE
_HEAD = struct.Struct("<I44xQI")
"""struct MDB_txbody of LMDB 0.9 on 64-bit Linux: magic, format and mutex, newest transaction, slots used."""

_SLOTS_AT, _SLOT = 128, struct.Struct("<Qi52x")
"""struct MDB_reader, a cache line each: the transaction that is read, or _NONE; the process, 0 = nobody."""

_NONE = (1 << 64) - 1


class LockFile(NamedTuple):
    """newest: the last transaction; oldest: that somebody reads, None if nobody does; used: slots."""

    newest: int
    oldest: int | None
    used: int


class Readers:
    """The table of a store that this process has open.

    It is read through the descriptor that LMDB has. Never one of our own: closing any descriptor of the file would
    take back the process' locks on it (fcntl), and the writer would take our readers for dead.
    """

    def __init__(self) -> None:
        self._file = -1

    def lag(self, store: Path, newest: int, used: int) -> int | None:
        """By how many commits the oldest reader is behind; None if it cannot be told.

        newest, used: what LMDB says of the environment, behind which the file cannot be.
        """
        try:
            wanted = os.stat(store / LOCK_FILE)
            if not _is(self._file, wanted):
                self._file = next((file for file in _descriptors() if _is(file, wanted)), -1)
            if self._file < 0:
                return None
            size = _SLOTS_AT + STORE_READERS_MAX * _SLOT.size
            found = read_table(os.pread(self._file, size, 0))
        except OSError:
            return None
        if found is None or found.used < used or found.newest < newest:
            return None
        return 0 if found.oldest is None else max(found.newest - found.oldest, 0)


def read_table(data: bytes) -> LockFile | None:
    """None if it is not laid out as we know it."""
    if len(data) < _SLOTS_AT:
        return None
    magic, newest, used = _HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) < _SLOTS_AT + used * _SLOT.size:
        return None
    slots = _SLOT.iter_unpack(data[_SLOTS_AT : _SLOTS_AT + used * _SLOT.size])
    held = [transaction for transaction, process in slots if process and transaction != _NONE]
    return LockFile(newest, min(held, default=None), used)


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _is(file: int, wanted: os.stat_result) -> bool:
    if file < 0:
        return False
    try:
        found = os.fstat(file)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)

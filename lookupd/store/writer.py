"""The store's only writer: open it, hold it against other writers, commit one change at a time, whole or not at all.

What a change can do is in `change`; what a notice means is the loader's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb
import msgspec

from lookupd.errors import StoreError, StoreReplaced
from lookupd.limits import WRITER_WAIT_SECONDS
from lookupd.model import (
    Receipt,
    StreamPosition,
    UnixMillis,
    UnixSeconds,
)
from lookupd.store.change import Change
from lookupd.store.lock import writer_lock
from lookupd.store.reader import DEFAULT_MAP_SIZE, Reader
from lookupd.store.schema import (
    DISK_FULL,
    META_STREAM,
    SERIAL_KEY,
    decode_receipt,
    disk_is_full,
    encode,
    file_identity,
    note_length,
    open_databases,
    open_environment,
    pack_streams,
    unpack_streams,
)
from lookupd.store.waiting import Waiting, waiting

_MASK64 = (1 << 64) - 1


class Writer:
    """The store's only writer. Another one waits for it, and then says who it is."""

    def __init__(self, path: Path, *, map_size: int = DEFAULT_MAP_SIZE, wait: float = WRITER_WAIT_SECONDS) -> None:
        """Open the store at `path`, creating it. Raises StoreError if it is of another format."""
        self.path = path
        self._wait = wait
        self._environment = open_environment(path, map_size=map_size, readonly=False)
        try:
            self._environment.reader_check()
            self._file = file_identity(path)
            with self._lock():
                self._handles = open_databases(self._environment, create=True)
        except BaseException:
            self._environment.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the environment; its readers must be closed by then."""
        self._environment.close()

    def reader(self) -> Reader:
        """A reader of this store in the writer's process; to be closed before the writer.

        Not inside a `change`: opening it waits for the transaction. Open it before, and pin.
        """
        return Reader(self.path, environment=self._environment)

    @contextmanager
    def change(self, now: UnixSeconds) -> Iterator[Change]:
        """One write transaction: commits when the block ends, leaves no trace when it raises.

        now: what the journal records as the moment of the change.
        Raises StoreError if another writer holds the store too long, or the map or the disk is full.
        """
        with self._lock(), self._translating():
            transaction = self._environment.begin(write=True)
            try:
                change = self._begin(transaction, now)
                yield change
                if change.finish():
                    transaction.commit()
                    with suppress(OSError):  # on a full disk the older, shorter note stays
                        note_length(self.path)
            finally:
                transaction.abort()  # after a commit it does nothing

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """LMDB's errors as ours, with the way out."""
        try:
            yield
        except lmdb.MapFullError:
            raise StoreError(f"{self.path}: the map is full: raise store.map_size") from None
        except lmdb.Error as error:
            reason = DISK_FULL if disk_is_full(self.path) else error
            raise StoreError(f"{self.path}: {reason}; the store is unchanged") from None

    def waiting(self) -> Waiting:
        """What stands at the head of the pending notices, after what was committed last."""
        with self._translating(), self._environment.begin() as transaction:
            return waiting(transaction, self._handles["pending"])

    def note_visible(self, at: UnixMillis) -> list[tuple[int, Receipt]]:
        """Note when the newest commits were seen by readers, in every receipt that lacks it; returns those.

        A commit of its own, since the moment is known only after the other one.
        """
        noted: list[tuple[int, Receipt]] = []
        receipts = self._handles["receipts"]
        with self._lock(), self._translating():
            with self._environment.begin() as transaction, transaction.cursor(db=receipts) as cursor:
                more = cursor.last()
                while more:
                    receipt = decode_receipt(cursor.value())
                    if receipt.visible_at is not None:
                        break
                    seen = msgspec.structs.replace(receipt, visible_at=max(at, receipt.confirmed_at))
                    noted.append((SERIAL_KEY.unpack(cursor.key())[0], seen))
                    more = cursor.prev()
            if noted:
                with self._environment.begin(write=True) as transaction:
                    for serial, receipt in noted:
                        transaction.put(SERIAL_KEY.pack(serial), encode(receipt), db=receipts)
        return noted[::-1]

    def note_stream(self, feed: str, place: StreamPosition) -> None:
        """Note which message of the engine stands for the feed's position, where no data came with it."""
        meta = self._handles["meta"]
        with self._lock(), self._translating(), self._environment.begin(write=True) as transaction:
            known = unpack_streams(transaction.get(META_STREAM, db=meta))
            transaction.put(META_STREAM, pack_streams(known | {feed: place}), db=meta)

    def _begin(self, transaction: lmdb.Transaction, now: UnixSeconds) -> Change:
        try:
            return Change(transaction, self._handles, now)
        except (msgspec.MsgspecError, struct.error, ValueError) as error:
            raise StoreError(f"{self.path}: the store's state or routes are damaged: {error}; restore it") from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The writers' lock, on the store that we opened. Raises StoreError, StoreReplaced."""
        with writer_lock(self.path, self._wait):
            if file_identity(self.path) != self._file:
                raise StoreReplaced(f"{self.path}: another store lies here now: open it again (start anew)")
            yield

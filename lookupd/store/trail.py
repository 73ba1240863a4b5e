"""The newest steps of a store's history: by what its digest changed, so that two replicas see where they parted.

A step is a commit of a feed (it has a receipt), or whatever changed the digest between two of them: the tables, or a
hand. What it proves about two replicas is for `pair`.
"""

from __future__ import annotations

import struct
from typing import Any

import lmdb
import msgspec

from lookupd.errors import StoreError
from lookupd.limits import TRAIL_ENTRIES_MAX, TRAIL_STEPS_MAX
from lookupd.model import JournalKind, Receipt
from lookupd.store.journal import Head, unpack_head
from lookupd.store.schema import SERIAL_KEY, Handle, State, decode_receipt, format_digest

FEED, TABLES, HAND = "feed", "tables", "hand"

_TABLE_KINDS = frozenset(
    {JournalKind.NETWORKS, JournalKind.RANGES, JournalKind.RESTRICT, JournalKind.EXTEND, JournalKind.LIFT}
)
"""What people do on each replica by itself."""
_MASK64 = (1 << 64) - 1


class Step(msgspec.Struct, frozen=True, array_like=True):
    """Where the digest was after a step. how: `feed`, `tables` or `hand`.

    feed, sequence: of a file; sequence 0 = notices that fired. first_serial, serial: the journal entries of the step.
    """

    how: str
    feed: str
    sequence: int
    digest: str
    first_serial: int
    serial: int


def read_trail(transaction: lmdb.Transaction[Any], handles: dict[str, Handle], state: State) -> tuple[Step, ...]:
    """The newest steps up to the present one, the oldest first. Empty if what must be read is damaged.

    The first one only says where the trail begins. Raises lmdb.Error.
    """
    try:
        return tuple(_Trail(transaction, handles, state).read())[-TRAIL_STEPS_MAX:]
    except (StoreError, msgspec.MsgspecError, UnicodeDecodeError, struct.error):
        return ()


class _Trail:
    def __init__(self, transaction: lmdb.Transaction[Any], handles: dict[str, Handle], state: State) -> None:
        self._transaction, self._handles, self._state = transaction, handles, state
        self._steps: list[Step] = []

    def read(self) -> list[Step]:
        for serial, receipt in self._receipts():
            self._pass(receipt.first_serial)
            digest = format_digest(receipt.digest)
            self._steps.append(Step(FEED, receipt.feed, receipt.sequence, digest, receipt.first_serial, serial))
        self._pass(self._state.serial + 1)
        if not self._steps:
            self._steps.append(Step(HAND, "", 0, format_digest(self._state.digest), 1, self._state.serial))
        return self._steps

    def _receipts(self) -> list[tuple[int, Receipt]]:
        found: list[tuple[int, Receipt]] = []
        with self._transaction.cursor(db=self._handles["receipts"]) as cursor:
            more = cursor.last()
            while more and len(found) < TRAIL_STEPS_MAX:
                found.append((SERIAL_KEY.unpack(cursor.key())[0], decode_receipt(cursor.value())))
                more = cursor.prev()
        return found[::-1]

    def _pass(self, end: int) -> None:
        """What lies between the last step and the entry `end`, if it changed the digest, is a step of its own."""
        if not self._steps or end <= self._steps[-1].serial + 1:
            return
        before = self._steps[-1]
        last = end - 1
        head = self._head(last)
        if head is None:
            self._steps.clear()  # pruned since: what was before cannot be told any more
            return
        digest = format_digest(head.digest)
        if digest != before.digest:
            self._steps.append(Step(self._how(before.serial + 1, last), "", 0, digest, before.serial + 1, last))

    def _how(self, first: int, last: int) -> str:
        """`tables`, if nothing but the tables was changed."""
        if last - first >= TRAIL_ENTRIES_MAX:
            return HAND
        digest = int(self._steps[-1].digest, 16)
        for serial in range(first, last + 1):
            head = self._head(serial)
            if head is None or (head.digest & _MASK64 != digest and head.kind not in _TABLE_KINDS):
                return HAND
            digest = head.digest & _MASK64
        return TABLES

    def _head(self, serial: int) -> Head | None:
        stored = self._transaction.get(SERIAL_KEY.pack(serial), db=self._handles["journal"])
        return None if stored is None else unpack_head(serial, bytes(stored))

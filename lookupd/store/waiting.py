"""The head of the line of pending notices: what waits, and until when. Firing them is the loader's."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import lmdb
import msgspec

from lookupd.model import UnixSeconds
from lookupd.store.schema import Handle, unpack_pending


class Waiting(NamedTuple):
    """How many notices wait, the earliest moment among the sound ones, and how many damaged ones stand before it.

    Nothing behind that moment is read: `verify` finds every damaged one. version: of the commit this is true of;
    it only grows.
    """

    notices: int
    moment: UnixSeconds | None
    damaged: int
    version: int


def waiting(transaction: lmdb.Transaction[Any], pending: Handle) -> Waiting:
    """As a transaction sees it; microseconds."""
    notices, version = transaction.stat(pending)["entries"], transaction.id()
    damaged = 0
    with transaction.cursor(db=pending) as cursor:
        for value in cursor.iternext(keys=False):
            try:
                return Waiting(notices, unpack_pending(value).notice.effective_at, damaged, version)
            except (ValueError, msgspec.MsgspecError, struct.error):
                damaged += 1
    return Waiting(notices, None, damaged, version)

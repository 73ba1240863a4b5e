"""Who moved: of each journal entry, runs of numbers that left one network for another.

What such a move counts for is the callers'. Definition and bounds: docs/reports.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lookupd.errors import StoreError
from lookupd.model import CHANGES_NOTHING, TN, JournalEntry, JournalKind, UnixSeconds
from lookupd.store.history import Past
from lookupd.store.reader import Reader


class Move(msgspec.Struct, frozen=True, gc=False):
    """Numbers of one entry. from_network: that served them, or held their range; None = nobody tells. to_network: None
    = they went home."""

    serial: int
    kind: JournalKind
    tn: TN
    tn_to: TN
    from_network: str | None
    to_network: str | None


OF_NUMBERS = frozenset({JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT})


def moves(reader: Reader, first: UnixSeconds, end: UnixSeconds) -> Iterator[Move]:
    """Of entries."""
    for serial, entry, _ in reader.journal():
        yield from moves_of(reader, serial, entry)


def moves_of(reader: Reader, serial: int, entry: JournalEntry) -> Iterator[Move]:
    """Of one entry."""
    if entry.kind not in OF_NUMBERS or entry.kind in CHANGES_NOTHING or entry.tn is None or entry.tn_to is None:
        return
    to = None if entry.new is None else entry.new.network_code
    donor = None if entry.new is None else entry.new.donor
    at = int(entry.tn)
    for run in entry.old:
        if at < run.tn and to is not None:
            yield from _unported(reader, serial, entry, at, run.tn - 1, donor, to)
        if run.network_code != to:
            yield Move(serial, entry.kind, run.tn, run.tn_to, run.network_code, to)
        at = run.tn_to + 1
    if at <= entry.tn_to and to is not None:
        yield from _unported(reader, serial, entry, at, entry.tn_to, donor, to)


def _unported(
    reader: Reader, serial: int, entry: JournalEntry, first: int, last: int, donor: str | None, to: str
) -> Iterator[Move]:
    if donor is None:
        try:
            past = Past(reader, serial - 1)
            held = past.range_holder(str(first))
            donor = None if held is None else past.route(held[1]).network_code
        except StoreError:
            donor = None
    yield Move(serial, entry.kind, TN(first), TN(last), donor, to)

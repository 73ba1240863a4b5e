"""Which numbers of a waiting notice a later notice of its feed has spoken of since it was scheduled.

Only the journal is asked: it knows of every change by feed, sequence and line.
"""

from __future__ import annotations

from lookupd.model import CHANGES_NOTHING, JournalEntry, JournalKind
from lookupd.store import journal
from lookupd.store.change import Change
from lookupd.store.schema import JOURNAL_BLOCK_KEY, NUMBERS_PER_BLOCK, PREVIOUS, UNKNOWN_ROUTE, PendingNotice

Run = tuple[int, int]


def spoken_since(change: Change, waits: PendingNotice) -> list[Run]:
    """First and last numbers of the runs, inside the notice's range, that a later word holds for; in order, apart."""
    change.flush()
    runs: list[Run] = []
    first, last = int(waits.notice.tn), int(waits.notice.tn_to)
    with change.transaction.cursor(db=change.handles["journal_blocks"]) as cursor:
        for block in range(first // NUMBERS_PER_BLOCK, last // NUMBERS_PER_BLOCK + 1):
            more = cursor.set_range(JOURNAL_BLOCK_KEY.pack(block, waits.serial + 1))
            while more:
                of_block, serial = JOURNAL_BLOCK_KEY.unpack(cursor.key())
                if of_block != block:
                    break
                entry = journal.read(change.transaction, change.handles["journal"], serial)
                if entry is not None and _is_later(entry, waits):
                    runs += _numbers(entry, block, bytes(cursor.value()))
                more = cursor.next()
    return _merged([(max(run[0], first), min(run[1], last)) for run in runs if run[0] <= last and run[1] >= first])


def _is_later(entry: JournalEntry, waits: PendingNotice) -> bool:
    """By sequence, then line; a snapshot stands after everything it contains. Entries without a feed (repairs)
    say what the sender said already."""
    if entry.feed != waits.feed or entry.sequence is None or entry.kind in CHANGES_NOTHING:
        return False
    if entry.kind is JournalKind.SNAPSHOT:
        return entry.sequence > waits.sequence
    return (entry.sequence, entry.line or 0) > (waits.sequence, waits.line)


def _numbers(entry: JournalEntry, block: int, previous: bytes) -> list[Run]:
    if entry.tn is not None and entry.tn_to is not None:
        return [(entry.tn, entry.tn_to)]
    records = PREVIOUS.iter_unpack(previous)
    offsets = (offset for offset, route_id, *_ in records if route_id != UNKNOWN_ROUTE)  # a mend says nothing new
    return [(tn, tn) for tn in (block * NUMBERS_PER_BLOCK + offset for offset in offsets)]


def _merged(runs: list[Run]) -> list[Run]:
    merged: list[Run] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged

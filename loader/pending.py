"""The agreed second: notices whose moment has come change the store, each lot in one transaction.

A number's state is what the latest notice by feed sequence says, among those whose moment has come (NPR
article 22: neither early nor late). So a waiting notice leaves alone the numbers of which a later one has
spoken in the meantime: replicas that fire late, or in another order, end in the same state.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from loader.apply import apply_notice, record_superseded
from lookupd.model import TN, Notice, Receipt, UnixMillis, UnixSeconds
from lookupd.store.change import Change, Counts
from lookupd.store.schema import PendingNotice
from lookupd.store.spoken import spoken_since
from lookupd.store.writer import Writer


class Fired(msgspec.Struct, frozen=True):
    """One lot: how many notices fired, the serial after them, and the moments they were due at."""

    notices: int
    superseded: int
    serial: int
    effective_at: tuple[UnixSeconds, ...]
    visible: tuple[PendingNotice, ...] = ()


def fire_due(writer: Writer, now: UnixMillis) -> Fired | None:
    """Apply every notice whose moment has come, by moment, sequence and line; None if there is none.

    Raises StoreError: the store is as before, and they still wait.
    """
    with writer.change(UnixSeconds(now // 1000)) as change:
        due = change.due(UnixSeconds(now // 1000))
        if not due:
            return None
        first_serial = change.serial + 1
        visible = []
        for waits in due:
            if _fire(change, waits):
                visible.append(waits)
            change.unschedule(waits)
        superseded = len(due) - len(visible)
        change.put_receipt(
            Receipt(
                "fired",
                due[0].feed,
                0,
                "",
                "",
                first_serial,
                now,
                now,
                None,
                len(due) - superseded,
                0,
                change.digest % (1 << 64),
            )
        )
        moments = tuple(waits.notice.effective_at for waits in due if waits.notice.effective_at is not None)
        return Fired(len(due), superseded, change.serial, moments, tuple(visible))


def _fire(change: Change, waits: PendingNotice) -> bool:
    """Apply one notice to the numbers that no later one has spoken of; whether there were any."""
    counts = Counts()
    fired = False
    for part, is_later in _parts(waits.notice, spoken_since(change, waits)):
        if is_later:
            record_superseded(change, waits, part)
        else:
            apply_notice(change, part, waits.feed, waits.sequence, waits.line, counts)
            fired = True
    return fired


def _parts(notice: Notice, spoken: list[tuple[int, int]]) -> Iterator[tuple[Notice, bool]]:
    """The notice cut at the runs of numbers that a later one has spoken of; spoken: sorted, apart."""
    at = int(notice.tn)
    for first, last in spoken:
        if at < first:
            yield msgspec.structs.replace(notice, tn=TN(at), tn_to=TN(first - 1)), False
        yield msgspec.structs.replace(notice, tn=TN(first), tn_to=TN(last)), True
        at = last + 1
    if at <= notice.tn_to:
        yield msgspec.structs.replace(notice, tn=TN(at)), False

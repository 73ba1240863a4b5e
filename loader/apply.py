"""One write transaction per snapshot or delta: checked against the feed's position, applied, journalled.

Fetching the files and the clocks of the notices are somebody else's; parsing is for `formats`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from loader.files import FeedFile, line_chunks, verified
from loader.validate import read_delta, read_snapshot
from lookupd.errors import FeedError, SequenceGap, Stale
from lookupd.limits import DELTA_LINE_BYTES_MAX, SNAPSHOT_LINE_BYTES_MAX
from lookupd.model import (
    FeedPosition,
    JournalKind,
    Notice,
    NoticeKind,
    Ported,
    UnixSeconds,
)
from lookupd.numbering import Plan
from lookupd.store.bulk import replace_all
from lookupd.store.schema import format_digest
from lookupd.store.writer import Change, Counts, Writer


class Progress(Protocol):
    """Told how far a long step is; see `progress`."""

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        """A new step of `total` units; returns what is to be called with each lot of units done."""
        ...


class Result(msgspec.Struct, frozen=True):
    """What became of a file: the heart of its acknowledgement.

    result: applied, or duplicate (the store is unchanged). applied and pending count notices, or rows of
    a snapshot; added, removed, changed and unchanged count numbers; mended counts damaged blocks.
    """

    feed: str
    type: str
    sequence: int
    result: str
    serial: int
    digest: str
    applied: int = 0
    pending: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    mended: int = 0


def apply_snapshot(writer: Writer, file: FeedFile, plan: Plan, now: UnixSeconds, progress: Progress) -> Result:
    """Make the snapshot the store's whole state, as a difference to what is there.

    Raises FeedError, Rejected, Stale: the store is as before. A snapshot at the store's own position is
    applied too, since it mends what differs.
    """
    with writer.change(now) as change, verified(file, progress.stage("verify", file.bytes)) as (data, sha256):
        position = change.feeds.get(file.feed)
        if position is not None and file.sequence < position.sequence:
            raise Stale(
                f"{file.name}: feed {file.feed!r} is at {position.sequence}, this snapshot is at {file.sequence}: "
                "take a newer one; the store is unchanged"
            )
        others = sorted(change.feeds.keys() - {file.feed})
        if others:
            raise FeedError(
                f"{file.name}: the store also holds feed {others[0]!r}, whose numbers a snapshot of {file.feed!r} "
                "would take out: keep one feed with snapshots to a store; the store is unchanged"
            )
        chunks = line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
        columns = read_snapshot(file, chunks, plan, change)
        if change.ported and not len(columns):
            raise FeedError(f"{file.name}: no rows: it would take all {change.ported} numbers out of the store")
        from_empty = change.blocks == 0
        counts = replace_all(change, columns, file.sequence, progress.stage("apply", None))
        change.record(
            JournalKind.SNAPSHOT,
            counts,
            feed=file.feed,
            sequence=file.sequence,
            source=file.name,
            sha256=sha256,
            from_empty=from_empty,
        )
        _confirm(change, file, sha256, now)
        progress.stage("commit", None)
    return _result(change, file, "applied", counts, applied=len(columns))


def apply_delta(writer: Writer, file: FeedFile, plan: Plan, now: UnixSeconds, progress: Progress) -> Result:
    """Apply the notices of one step, in line order; those with a moment in the future wait for it.

    Raises FeedError, Rejected, SequenceGap, Stale: the store is as before. The delta that is applied
    already is a duplicate and changes nothing.
    """
    with writer.change(now) as change, verified(file, progress.stage("verify", file.bytes)) as (data, sha256):
        if _is_duplicate(change, file, sha256):
            return _result(change, file, "duplicate", Counts())
        chunks = line_chunks(file, data, DELTA_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
        notices = read_delta(file, chunks, plan, change)
        advance = progress.stage("apply", len(notices))
        counts = Counts()
        pending = 0
        for line, notice in enumerate(notices, 1):
            if notice.effective_at is not None and notice.effective_at > now:
                change.schedule(file.feed, file.sequence, line, notice)
                _record(change, JournalKind.SCHEDULED, notice, Counts(), (), None, file)
                pending += 1
            else:
                counts.add(apply_notice(change, notice, file))
            if line % 1000 == 0:
                advance(1000)
        _confirm(change, file, sha256, now)
    return _result(change, file, "applied", counts, applied=len(notices) - pending, pending=pending)


def apply_notice(change: Change, notice: Notice, file: FeedFile) -> Counts:
    """Change the numbers of one notice and journal it.

    A return of a number that is not ported changes nothing but is recorded: the clearinghouse's word is
    kept even where it tells us no news.
    """
    old = change.old_states(notice.tn, notice.tn_to)
    if notice.kind is NoticeKind.RETURN:
        counts = change.set_numbers(notice.tn, notice.tn_to, 0, 0, 0, file.sequence)
        _record(change, JournalKind.RETURN, notice, counts, old, None, file)
        return counts
    assert notice.recipient is not None
    route_id = change.route_id(notice.recipient, notice.routing_number)
    donor_id = change.network_codes[notice.donor] if notice.donor else 0
    ported_at = notice.effective_at or notice.notified_at
    new = change.ported_run(notice.tn, notice.tn_to, route_id, donor_id, ported_at, file.sequence)
    if notice.kind is NoticeKind.CORRECT:
        new = _corrected(notice, old, new)
        counts = change.set_numbers(notice.tn, notice.tn_to, route_id, donor_id or None, None, file.sequence)
    else:
        counts = change.set_numbers(notice.tn, notice.tn_to, route_id, donor_id, ported_at, file.sequence)
    _record(change, JournalKind(notice.kind.value), notice, counts, old, new, file)
    return counts


def _corrected(notice: Notice, old: tuple[Ported, ...], new: Ported) -> Ported:
    """A correction mends the route; when and from where the number came stays, if it is the same for all."""
    was = old[0] if old and (old[0].tn, old[0].tn_to) == (notice.tn, notice.tn_to) else None
    donor = notice.donor or (was.donor if was else None)
    return msgspec.structs.replace(new, donor=donor, ported_at=was.ported_at if was else None)


def _record(
    change: Change,
    kind: JournalKind,
    notice: Notice,
    counts: Counts,
    old: tuple[Ported, ...],
    new: Ported | None,
    file: FeedFile,
) -> None:
    change.record(
        kind,
        counts,
        feed=file.feed,
        sequence=file.sequence,
        tn=notice.tn,
        tn_to=notice.tn_to,
        old=old,
        new=new,
        notified_at=notice.notified_at,
        effective_at=notice.effective_at,
        ref=notice.ref,
    )


def _is_duplicate(change: Change, file: FeedFile, sha256: str) -> bool:
    """Raises SequenceGap, Stale, or FeedError unless the delta is the next one, or the last one again."""
    position = change.feeds.get(file.feed)
    at = 0 if position is None else position.sequence
    if file.sequence == at + 1:
        return False
    if file.sequence > at + 1:
        raise SequenceGap(
            f"{file.name}: feed {file.feed!r} is at {at}, the next delta is {at + 1}: load "
            f"{'it' if file.sequence == at + 2 else f'{at + 1} to {file.sequence - 1}'} first, or a snapshot; "
            "the store is unchanged"
        )
    if file.sequence < at or position is None:
        raise Stale(
            f"{file.name}: feed {file.feed!r} is at {at}, delta {file.sequence} is contained already; "
            "the store is unchanged"
        )
    if position.type == "delta" and position.sha256 != sha256:
        raise FeedError(
            f"{file.name}: delta {at} of feed {file.feed!r} was applied with other content "
            f"(sha256 {position.sha256[:16]}..., now {sha256[:16]}...): ask the sender; the store is unchanged"
        )
    return True


def _confirm(change: Change, file: FeedFile, sha256: str, now: UnixSeconds) -> None:
    change.confirm(file.feed, FeedPosition(file.sequence, file.type, sha256, file.created_at, now))


def _result(change: Change, file: FeedFile, result: str, counts: Counts, applied: int = 0, pending: int = 0) -> Result:
    return Result(
        feed=file.feed,
        type=file.type,
        sequence=file.sequence,
        result=result,
        serial=change.serial,
        digest=format_digest(change.digest),
        applied=applied,
        pending=pending,
        added=counts.added,
        removed=counts.removed,
        changed=counts.changed,
        unchanged=counts.unchanged,
        mended=counts.mended,
    )

"""One write transaction per snapshot or delta: checked against the feed's position, applied, journalled.

Fetching the files and the clocks of the notices are `sync`'s; parsing is for `formats`; notices that wait
are fired by `pending`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from loader.files import FeedFile, line_chunks, verified
from loader.guard import check_moved
from loader.restrict import apply_restriction
from loader.validate import KnownNetworks, Networks, read_delta, read_snapshot
from lookupd.errors import FeedError, SequenceGap, Stale
from lookupd.limits import DELTA_LINE_BYTES_MAX, SNAPSHOT_LINE_BYTES_MAX
from lookupd.model import (
    OF_RESTRICTIONS,
    FeedPosition,
    JournalKind,
    Notice,
    NoticeKind,
    Ported,
    Receipt,
    StreamPosition,
    UnixMillis,
    UnixSeconds,
)
from lookupd.numbering import Plan
from lookupd.store.bulk import replace_all
from lookupd.store.change import Change, Counts
from lookupd.store.schema import PendingNotice, format_digest
from lookupd.store.writer import Writer


class Progress(Protocol):
    """Told how far a long step is; see `progress`."""

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        """A new step of `total` units; returns what is to be called with each lot of units done."""
        ...


class Terms(msgspec.Struct, frozen=True):
    """On what terms a file is taken.

    moved_share, moved_free: the guard's, see `guard`. accepted: a person's word for a change beyond it, "who:
    why". dry_run: do everything but the commit. received_at, confirmed_at: the notices' clocks; None = now. stream:
    the message of a fleet's engine that brought the file, if one did.
    """

    moved_share: float = 0.02
    moved_free: int = 1000
    accepted: str | None = None
    dry_run: bool = False
    received_at: UnixMillis | None = None
    confirmed_at: UnixMillis | None = None
    stream: StreamPosition | None = None


DEFAULT_TERMS = Terms()


class Result(msgspec.Struct, frozen=True):
    """What became of a file: the heart of its acknowledgement.

    result: applied, duplicate (the store is unchanged) or dry-run (likewise). applied and pending count
    notices, or rows of a snapshot; added, removed, changed and unchanged count numbers; mended counts
    damaged blocks.
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


class CheckedDelta(msgspec.Struct, frozen=True):
    """A delta that was verified, is in order, and whose notices are all valid: it may be confirmed.

    duplicate: it is the one applied last; notices is empty then.
    """

    file: FeedFile
    sha256: str
    notices: tuple[Notice, ...]
    duplicate: bool


class _DryRun(Exception):
    """Leaves a transaction without committing it; carries what it would have come to."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


# -- snapshots -------------------------------------------------------------------------------------------


def apply_snapshot(
    writer: Writer, file: FeedFile, plan: Plan, now: UnixSeconds, progress: Progress, terms: Terms = DEFAULT_TERMS
) -> Result:
    """Make the snapshot the store's whole state, as a difference to what is there.

    Raises FeedError, Rejected, Refused, Stale: the store is as before. A snapshot at the store's own position
    is applied too, since it mends what differs. Notices that wait stay, but for those it contains already.
    """
    try:
        with writer.change(now) as change, verified(file, progress.stage("verify", file.bytes)) as (data, sha256):
            _check_snapshot_position(change.feeds, file)
            chunks = line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
            columns = read_snapshot(file, chunks, plan, change)
            if change.ported and not len(columns):
                raise FeedError(f"{file.name}: no rows: it would take all {change.ported} numbers out of the store")
            from_empty = change.blocks == 0
            first_serial, ported_before = change.serial + 1, change.ported
            counts = replace_all(change, columns, file.sequence, progress.stage("apply", None))
            check_moved(counts, ported_before, terms.moved_share, terms.moved_free, terms.accepted, file.name)
            change.record(
                JournalKind.SNAPSHOT,
                counts,
                feed=file.feed,
                sequence=file.sequence,
                source=file.name,
                sha256=sha256,
                from_empty=from_empty,
                reason=terms.accepted,
            )
            _drop_contained(change, file)
            result = _commit(change, file, sha256, first_serial, terms, counts, len(columns), 0)
            progress.stage("commit", None)
    except _DryRun as dry:
        return dry.result
    return result


def _check_snapshot_position(feeds: Mapping[str, FeedPosition], file: FeedFile) -> None:
    position = feeds.get(file.feed)
    if position is not None and file.sequence < position.sequence:
        raise Stale(
            f"{file.name}: feed {file.feed!r} is at {position.sequence}, this snapshot is at {file.sequence}: "
            "take a newer one; the store is unchanged"
        )
    others = sorted(feeds.keys() - {file.feed})
    if others:
        raise FeedError(
            f"{file.name}: the store also holds feed {others[0]!r}, whose numbers a snapshot of {file.feed!r} "
            "would take out: keep one feed with snapshots to a store; the store is unchanged"
        )


def _drop_contained(change: Change, file: FeedFile) -> None:
    """Notices whose moment had come when the snapshot was made are in it; firing them could undo later ones."""
    if file.created_at is None:
        return
    for waits in change.due(file.created_at):
        if waits.feed == file.feed and waits.sequence <= file.sequence:
            record_superseded(change, waits, waits.notice)
            change.unschedule(waits)


# -- deltas ----------------------------------------------------------------------------------------------


def apply_delta(
    writer: Writer, file: FeedFile, plan: Plan, now: UnixSeconds, progress: Progress, terms: Terms = DEFAULT_TERMS
) -> Result:
    """Apply the notices of one step, in line order; those with a moment in the future wait for it.

    Raises FeedError, Rejected, Refused, SequenceGap, Stale: the store is as before. The delta that is applied
    already is a duplicate and changes nothing.
    """
    with writer.change(now) as change:  # to look only: nothing is changed, so nothing is committed
        feeds, networks = change.feeds, KnownNetworks.of_records(change.routes)
    checked = check_delta(feeds, networks, file, plan, progress)
    return apply_checked(writer, checked, now, progress, terms)


def check_delta(
    feeds: Mapping[str, FeedPosition], networks: Networks, file: FeedFile, plan: Plan, progress: Progress
) -> CheckedDelta:
    """Everything that can be said of a delta before it is applied to a store at these positions.

    The sequence is looked at before the data is, and the hash before a byte of it is parsed. Raises FeedError,
    Rejected, SequenceGap, Stale.
    """
    _check_order(feeds, file)
    with verified(file, progress.stage("verify", file.bytes)) as (data, sha256):
        if _is_duplicate(feeds, file, sha256):
            return CheckedDelta(file, sha256, (), True)
        chunks = line_chunks(file, data, DELTA_LINE_BYTES_MAX, progress.stage("parse", file.bytes))
        notices = read_delta(file, chunks, plan, networks)
    return CheckedDelta(file, sha256, tuple(notices), False)


def apply_checked(
    writer: Writer, checked: CheckedDelta, now: UnixSeconds, progress: Progress, terms: Terms = DEFAULT_TERMS
) -> Result:
    """The second half of `apply_delta`: the transaction."""
    file = checked.file
    try:
        with writer.change(now) as change:
            _check_order(change.feeds, file)  # another process may have written since
            if _is_duplicate(change.feeds, file, checked.sha256):
                return _result(change, file, "duplicate", Counts())
            counts, pending, first_serial = Counts(), 0, change.serial + 1
            ported_before = change.ported
            advance = progress.stage("apply", len(checked.notices))
            for line, notice in enumerate(checked.notices, 1):
                if notice.effective_at is not None and notice.effective_at > now:
                    if notice.recipient is not None:
                        change.route_id(notice.recipient, notice.routing_number)  # now, while it can still be refused
                    change.record_notice(
                        JournalKind.SCHEDULED, Counts(), notice, (), None, file.feed, file.sequence, line
                    )
                    change.schedule(file.feed, file.sequence, line, notice)
                    pending += 1
                elif notice.restriction is not None:
                    apply_restriction(change, notice, file.feed, file.sequence, line)
                else:
                    apply_notice(change, notice, file.feed, file.sequence, line, counts)
                if line % 1000 == 0:
                    advance(1000)
            check_moved(counts, ported_before, terms.moved_share, terms.moved_free, terms.accepted, file.name)
            if not checked.notices:
                change.record(JournalKind.EMPTY, counts, feed=file.feed, sequence=file.sequence, source=file.name)
            applied = len(checked.notices) - pending
            result = _commit(change, file, checked.sha256, first_serial, terms, counts, applied, pending)
    except _DryRun as dry:
        return dry.result
    return result


def apply_notice(change: Change, notice: Notice, feed: str, sequence: int, line: int, counts: Counts) -> None:
    """Change the numbers of one notice, journal it, and add to counts.

    A return of a number that is not ported changes nothing but is recorded: the clearinghouse's word is
    kept even where it tells us no news.
    """
    tn, tn_to = notice.tn, notice.tn_to
    route_id: int = 0
    donor_id: int | None = 0
    ported_at: int | None = 0
    new: Ported | None = None
    old: tuple[Ported, ...]
    if notice.kind is not NoticeKind.RETURN:
        assert notice.recipient is not None
        route_id = change.route_id(notice.recipient, notice.routing_number)
        donor_id = change.network_codes[notice.donor] if notice.donor else 0
        ported_at = notice.effective_at or notice.notified_at
        new = change.ported_run(tn, tn_to, route_id, donor_id, ported_at, sequence)
    if notice.kind is NoticeKind.CORRECT:
        donor_id, ported_at = donor_id or None, None
    own = Counts()
    if tn == tn_to:
        was = change.set_number(tn, route_id, donor_id, ported_at, sequence, own)
        old = () if was is None else (change.ported_run(tn, tn, *was),)
    else:
        old = change.old_states(tn, tn_to)
        own = change.set_numbers(tn, tn_to, route_id, donor_id, ported_at, sequence)
    if notice.kind is NoticeKind.CORRECT:
        assert new is not None
        new = _corrected(notice, old, new)
    change.record_notice(_JOURNAL_KINDS[notice.kind], own, notice, old, new, feed, sequence, line)
    counts.add(own)


_JOURNAL_KINDS = {kind: JournalKind(kind.value) for kind in NoticeKind if kind not in OF_RESTRICTIONS}


def _corrected(notice: Notice, old: tuple[Ported, ...], new: Ported) -> Ported:
    """A correction mends the route; when and from where the number came stays, if it is the same for all."""
    was = old[0] if old and (old[0].tn, old[0].tn_to) == (notice.tn, notice.tn_to) else None
    donor = notice.donor or (was.donor if was else None)
    return msgspec.structs.replace(new, donor=donor, ported_at=was.ported_at if was else None)


def record_superseded(change: Change, waits: PendingNotice, part: Notice) -> None:
    """Journal numbers of a waiting notice that a later word holds for; their state stays as it is."""
    change.record_notice(JournalKind.SUPERSEDED, Counts(), part, (), None, waits.feed, waits.sequence, waits.line)


# -- order -----------------------------------------------------------------------------------------------


def position_of(feeds: Mapping[str, FeedPosition], feed: str) -> int:
    """How far a feed is applied; 0 = not at all."""
    position = feeds.get(feed)
    return 0 if position is None else position.sequence


def _check_order(feeds: Mapping[str, FeedPosition], file: FeedFile) -> None:
    """Raises SequenceGap or Stale unless the delta is the next one, or the last one again."""
    at = position_of(feeds, file.feed)
    if at < file.follows:
        if file.follows != file.sequence - 1:  # a foreign feed need not count its positions one by one
            wanted = f"it follows {file.after}: load what is between"
        else:
            missing = "it" if file.follows == at + 1 else f"{at + 1} to {file.follows}"
            wanted = f"the next delta is {at + 1}: load {missing}"
        raise SequenceGap(
            f"{file.name}: feed {file.feed!r} is at {at}, {wanted} first, or a snapshot; the store is unchanged"
        )
    if file.sequence < at:
        raise Stale(
            f"{file.name}: feed {file.feed!r} is at {at}, delta {file.sequence} is contained already; "
            "the store is unchanged"
        )


def _is_duplicate(feeds: Mapping[str, FeedPosition], file: FeedFile, sha256: str) -> bool:
    """Whether a delta that is in order is the last one again. Raises FeedError if that one was another."""
    position = feeds.get(file.feed)
    if position is None or position.sequence < file.sequence:
        return False
    if position.type == "delta" and position.sha256 != sha256:
        raise FeedError(
            f"{file.name}: delta {file.sequence} of feed {file.feed!r} was applied with other content "
            f"(sha256 {position.sha256[:16]}..., now {sha256[:16]}...): ask the sender; the store is unchanged"
        )
    return True


def _commit(
    change: Change,
    file: FeedFile,
    sha256: str,
    first_serial: int,
    terms: Terms,
    counts: Counts,
    applied: int,
    pending: int,
) -> Result:
    """The last steps inside the transaction: position, receipt. Raises _DryRun if that is all there is to be."""
    change.confirm(file.feed, FeedPosition(file.sequence, file.type, sha256, file.created_at, change.now))
    if terms.stream is not None:
        change.follow(file.feed, terms.stream)
    now = UnixMillis(change.now * 1000)
    change.put_receipt(
        Receipt(
            file.type,
            file.feed,
            file.sequence,
            file.name,
            sha256,
            first_serial,
            terms.received_at or now,
            terms.confirmed_at or now,
            None,
            applied,
            pending,
            change.digest % (1 << 64),
        )
    )
    result = _result(change, file, "dry-run" if terms.dry_run else "applied", counts, applied, pending)
    if terms.dry_run:
        raise _DryRun(result)
    return result


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

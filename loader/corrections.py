"""Mend what a comparison found, as corrections in the journal: the store's numbers become the file's.

One write transaction. A number that has changed since it was compared is left as it is: what came meanwhile by
the feed is newer than the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from loader.compare import Compared, NumberDifference
from loader.files import FeedFile
from loader.reconcile import Read
from lookupd.errors import StoreError
from lookupd.limits import RANGE_NUMBERS_MAX, REFERENCE_CHARS_MAX
from lookupd.model import TN, JournalKind, Ported, UnixSeconds
from lookupd.store.change import Change, Counts
from lookupd.store.columns import Columns
from lookupd.store.compare import DETAILS, EXTRA, Differences
from lookupd.store.schema import RouteRecord
from lookupd.store.writer import Writer

_State = tuple[int, int, int]
"""Route id, donor's route id, ported_at; route 0 = not ported."""


class Repaired(msgspec.Struct):
    """What a repair did, in numbers. changed_meanwhile: left, since the store says something else by now.
    unknown_network: left, since the networks table lacks the file's network. entries: in the journal."""

    ref: str
    reason: str
    serial: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    changed_meanwhile: int = 0
    unknown_network: int = 0
    entries: int = 0


@dataclass(frozen=True)
class _Run:
    """Consecutive numbers that differ in the same way."""

    tn: TN
    tn_to: TN
    kind: int
    old: _State
    new: _State


def reference(file: FeedFile) -> str:
    """What the journal calls this repair: `RECON-` and the file's name, as long as a reference may be."""
    return f"RECON-{file.name}"[:REFERENCE_CHARS_MAX]


def repair(writer: Writer, read: Read, differences: Differences, reason: str, now: UnixSeconds) -> Repaired:
    """Make each number that differs as the file says, if the store still says what was compared.

    differences: with the route ids of `read`. reason: "who: why". Raises StoreError; the store is as before.
    """
    done = Repaired(reference(read.file), reason)
    with writer.change(now) as change:
        mender = _Mender(change, read, done)
        for run in _runs(differences):
            mender.mend(run)
        done.serial = change.serial
    return done


class _Mender:
    """One repair's transaction."""

    def __init__(self, change: Change, read: Read, done: Repaired) -> None:
        self._change = change
        self._read = read
        self._done = done
        position = change.feeds.get(read.file.feed)
        self._sequence = read.file.sequence if position is None else position.sequence

    def mend(self, run: _Run) -> None:
        """Mend a run; number by number if a part of it has changed meanwhile."""
        found = self._change.old_states(run.tn, run.tn_to)
        if self._is_as_compared(run, found):
            self._apply(run, found)
        elif run.tn == run.tn_to:
            self._done.changed_meanwhile += 1
        else:
            for tn in range(run.tn, run.tn_to + 1):
                self.mend(_Run(TN(tn), TN(tn), run.kind, run.old, run.new))

    def _is_as_compared(self, run: _Run, found: tuple[Ported, ...]) -> bool:
        route_id, donor_id, ported_at = run.old
        record = self._record(route_id)
        if record is None:
            return not found
        donor = self._record(donor_id)
        number = None if record.own else record.routing_number
        expected = (record.network_code, number, donor and donor.network_code, ported_at or None)
        told = {(state.network_code, state.routing_number, state.donor, state.ported_at) for state in found}
        return told == {expected} and sum(s.tn_to - s.tn + 1 for s in found) == run.tn_to - run.tn + 1

    def _apply(self, run: _Run, found: tuple[Ported, ...]) -> None:
        change = self._change
        if run.kind == EXTRA:
            counts = change.set_numbers(run.tn, run.tn_to, 0, 0, 0, self._sequence)
            self._note(JournalKind.RETURN, run, counts, found, None)
            return
        target = self._target(run)
        if target is None:
            self._done.unknown_network += run.tn_to - run.tn + 1
            return
        counts = change.set_numbers(run.tn, run.tn_to, *target, self._sequence)
        new = change.ported_run(run.tn, run.tn_to, *target, self._sequence)
        self._note(JournalKind.CORRECT, run, counts, found, new)

    def _target(self, run: _Run) -> _State | None:
        """The state to write, by the store's own ids; what the file does not tell stays. None: network unknown."""
        names = self._read.names
        route_id = self._own_id(run.old[0] if run.kind == DETAILS else run.new[0])
        donor_id = self._own_id(run.new[1] if "donor" in names else run.old[1])
        if route_id is None or donor_id is None:
            return None
        return route_id, donor_id, run.new[2] if "ported_at" in names else run.old[2]

    def _own_id(self, lent_id: int) -> int | None:
        record = self._record(lent_id)
        if record is None:
            return 0
        if self._change.network_id(record.network_code) is None:
            return None
        return self._change.route_id(record.network_code, None if record.own else record.routing_number)

    def _record(self, lent_id: int) -> RouteRecord | None:
        return self._read.routes.records[lent_id]

    def _note(self, kind: JournalKind, run: _Run, counts: Counts, old: tuple[Ported, ...], new: Ported | None) -> None:
        """Without a feed: it is our word that this is what the sender said, not the sender's, so that what waits
        still fires. The sequence is that at which the word holds."""
        done = self._done
        done.added += counts.added
        done.removed += counts.removed
        done.changed += counts.changed
        done.entries += 1
        told: dict[str, Any] = {"source": self._read.file.name, "sha256": self._read.sha256, "sequence": self._sequence}
        self._change.record(
            kind, counts, tn=run.tn, tn_to=run.tn_to, old=old, new=new, ref=done.ref, reason=done.reason, **told
        )


def _runs(differences: Differences) -> Iterator[_Run]:
    """Consecutive numbers that share everything, at most so many as one notice may have."""
    if not len(differences):
        return
    tn = differences.tn
    breaks = (tn[1:] != tn[:-1] + np.uint64(1)) | (differences.kind[1:] != differences.kind[:-1])
    for side in (differences.old, differences.new):
        for column in (side.route, side.donor, side.ported_at):
            breaks |= column[1:] != column[:-1]
    starts = np.flatnonzero(np.r_[True, breaks]).tolist()
    for first, behind in zip(starts, [*starts[1:], len(tn)], strict=True):
        for at in range(first, behind, RANGE_NUMBERS_MAX):
            last = min(at + RANGE_NUMBERS_MAX, behind) - 1
            old, new = _state(differences.old, at), _state(differences.new, at)
            yield _Run(TN(int(tn[at])), TN(int(tn[last])), int(differences.kind[at]), old, new)


def _state(side: Columns, at: int) -> _State:
    return int(side.route[at]), int(side.donor[at]), int(side.ported_at[at])


def repair_from_peer(writer: Writer, compared: Compared, url: str, reason: str, now: UnixSeconds) -> Repaired:
    """Make each number whose route differs as the peer has it, if the store still says what was compared.

    Only between replicas at the same feed positions: otherwise the one behind would undo the other's news.
    reason: "who: why". Raises StoreError; the store is as before.
    """
    if not compared.same_positions:
        raise StoreError("the feed positions differ: let both replicas catch up first; the store is unchanged")
    refuse_damaged(len(compared.damaged_here))
    done = Repaired(f"COMPARE-{compared.there.replica}"[:REFERENCE_CHARS_MAX], reason)
    with writer.change(now) as change:
        for difference in compared.numbers:
            _take_over(change, difference, url, done)
        done.serial = change.serial
    return done


def _take_over(change: Change, difference: NumberDifference, url: str, done: Repaired) -> None:
    tn, here, there = difference.tn, difference.here, difference.there
    found = change.old_states(tn, tn)
    told = [(state.network_code, state.routing_number) for state in found]
    if told != ([] if here is None else [here.route]):
        done.changed_meanwhile += 1
        return
    new = None
    if there is None:
        counts = change.set_numbers(tn, tn, 0, 0, 0, 0)
    elif change.network_id(there.network_code) is None:
        done.unknown_network += 1
        return
    else:
        route_id = change.route_id(*there.route)
        donor_id = change.network_id(there.donor or "") or 0
        counts = change.set_numbers(tn, tn, route_id, donor_id, there.ported_at or 0, there.sequence)
        new = change.ported_run(tn, tn, route_id, donor_id, there.ported_at or 0, there.sequence)
    done.added += counts.added
    done.removed += counts.removed
    done.changed += counts.changed
    done.entries += 1
    kind = JournalKind.RETURN if new is None else JournalKind.CORRECT
    sequence = found[0].sequence if there is None and found else there.sequence if there else 0
    told_of: dict[str, Any] = {"source": url, "sequence": sequence, "ref": done.ref, "reason": done.reason}
    change.record(kind, counts, tn=tn, tn_to=tn, old=found, new=new, **told_of)


def refuse_damaged(damaged_blocks: int) -> None:
    """Corrections cannot mend a block whose bytes are wrong. Raises StoreError."""
    if damaged_blocks:
        raise StoreError(
            f"{damaged_blocks} blocks are damaged: mend them first (docs/operations/damaged-block.md); "
            "the store is unchanged"
        )

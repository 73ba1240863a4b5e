"""A month's ported-in numbers (NPR articles 24(3), 31(1)(5)): who came in it, and what the store was at its end.

How they are written is for `month_file`, how another operator's are held against them for `month_compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from loader.regulator.figures import Missing, not_told
from loader.regulator.moves import Move, Moves
from loader.report import CommitTimes
from lookupd.errors import StoreError
from lookupd.ledger import HOUR_SECONDS
from lookupd.limits import JOURNAL_ENTRIES_PER_STEP
from lookupd.model import TN, JournalKind, NetworkCode, Ported, UnixMillis, UnixSeconds
from lookupd.periods import Period
from lookupd.store.history import Past, oldest_kept
from lookupd.store.reader import Reader
from lookupd.units import format_time


class Came(msgspec.Struct, frozen=True, gc=False):
    """The last time that a number came to a network: from which (None = nobody tells), and when readers saw it."""

    from_network: str | None
    to_network: str | None
    at: UnixMillis


class PortedIn(msgspec.Struct, frozen=True):
    """What came in a month. network: only to this one; None = to all. end_serial: of the store at the month's end, or
    now while it lasts. came: by number, those that left again too. ports: how often a number came."""

    month: Period
    network: str | None
    end_serial: int
    ports: int
    came: dict[int, Came]
    missing: tuple[Missing, ...]


def ported_in(
    reader: Reader, month: Period, network: str | None, now: UnixSeconds, advance: Callable[[int], None]
) -> PortedIn:
    """Read the journal. advance: told how many entries were read.

    Raises StoreError where it is damaged, or does not reach back to any of the month.
    """
    times, moves = CommitTimes(reader), Moves(reader)
    first, end = month.first * HOUR_SECONDS * 1000, month.end * HOUR_SECONDS * 1000
    came: dict[int, Came] = {}
    ports, end_serial, snapshots = 0, 0, list[Missing]()
    for number, (serial, entry, _) in enumerate(reader.journal(), 1):
        if number % JOURNAL_ENTRIES_PER_STEP == 0:
            advance(JOURNAL_ENTRIES_PER_STEP)
        at = times.visible_at(serial, entry)
        if at >= end:
            continue
        end_serial = serial
        if at < first:
            continue
        if entry.kind is JournalKind.PORT:
            for move in moves.of(serial, entry):
                if network is None or move.to_network == network:
                    ports += move.numbers
                    _note(came, move, at)
        elif entry.kind is JournalKind.SNAPSHOT and not entry.from_empty and entry.added + entry.changed:
            when = format_time(entry.applied_at)
            came_so = entry.added + entry.changed
            why = "serial {serial}, {source}: {numbers} numbers came without notices"
            told = not_told("snapshot", why, when, when, serial=serial, source=entry.source, numbers=came_so)
            snapshots.append(told)
    oldest, since = oldest_kept(reader)
    if end_serial < oldest:
        raise StoreError(f"{month.name}: is before the kept history, which begins at {format_time(since)}")
    missing = (*_not_whole(month, since, now), *snapshots)
    return PortedIn(month, network, end_serial, ports, came, missing)


def _note(came: dict[int, Came], move: Move, at: UnixMillis) -> None:
    told = Came(move.from_network, move.to_network, at)
    for tn in range(move.tn, move.tn_to + 1):
        came[tn] = told


def _not_whole(month: Period, since: UnixSeconds, now: UnixSeconds) -> Iterator[Missing]:
    first, end = month.first * HOUR_SECONDS, month.end * HOUR_SECONDS
    if since > first:
        why = "the kept history begins at {begin}: who came before that is not known"
        yield not_told("journal", why, format_time(first), format_time(since), begin=format_time(since))
    if now < end:
        yield not_told("period", "the month is not over", format_time(now), format_time(end))


def still_there(reader: Reader, found: PortedIn) -> Iterator[Ported]:
    """By number: the state at the month's end of those that are where they came to. Raises StoreError."""
    past = Past(reader, found.end_serial)
    for tn in sorted(found.came):
        state = past.ported(TN(tn))
        if state is not None and state.network_code == found.came[tn].to_network:
            yield state


def as_told(found: PortedIn, state: Ported) -> Ported:
    """As the exchange file has it: what the store does not know of donor and time, the move to there does."""
    came = found.came.get(state.tn)
    if came is None or came.to_network != state.network_code:
        return state
    donor = state.donor if state.donor is not None or came.from_network is None else NetworkCode(came.from_network)
    ported_at = state.ported_at if state.ported_at is not None else UnixSeconds(came.at // 1000)
    return msgspec.structs.replace(state, donor=donor, ported_at=ported_at)

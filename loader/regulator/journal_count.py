"""What the journal says of a period: who came and went, what became of the notices, how long it all took.

One walk over the entries. Each that is counted leaves rows in the trace, so that every figure can be found again:
the rows' `numbers`, and their `notice`, add up to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from loader.regulator.figures import Corrected, KindTimes, Missing, NetworkMonth, NoticeMonth, not_told
from loader.regulator.moves import OF_NUMBERS, Move, Moves
from loader.regulator.times import Seconds
from loader.regulator.trace import Row, Spans, spans_of
from loader.regulator.words import t_later
from loader.report import ClockedNotice, CommitTimes
from loader.sequence import limit_seconds
from lookupd.ledger import HOUR_SECONDS
from lookupd.limits import JOURNAL_ENTRIES_PER_STEP, MISSING_SNAPSHOTS_TOLD
from lookupd.model import TN, JournalEntry, JournalKind, UnixMillis
from lookupd.periods import Period
from lookupd.settings import Limits
from lookupd.store.reader import Reader
from lookupd.units import format_time

KINDS = (JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT)
UNTOLD = "untold"
"""The kind of notices of which it is not kept: of a superseded one, and of a line that was refused."""

NOT_KNOWN = ""
"""The network of numbers that came from one which neither the notice nor the ranges table names."""

_COUNTED_AS = {JournalKind.PORT: "ported", JournalKind.RETURN: "returned", JournalKind.CORRECT: "corrected"}


class _Times:
    """Of one kind."""

    def __init__(self) -> None:
        self.to_visible, self.to_effective, self.whole = Seconds(), Seconds(), Seconds()

    def add(self, found: Spans) -> None:
        self.to_visible.add(found.notice_to_visible)
        self.whole.add(found.whole)
        if found.requested_to_effective is not None:
            self.to_effective.add(found.requested_to_effective)


class JournalCount:
    """Of one period; filled by `walk`."""

    def __init__(self, months: Sequence[Period], limits: Limits, network: str | None) -> None:
        """network: only what concerns this operator's numbers; None = all."""
        self._months = months
        self._firsts = [month.first * HOUR_SECONDS * 1000 for month in months]
        self._end = months[-1].end * HOUR_SECONDS * 1000
        self._limits = limits
        self._network = network
        self._came, self._left, self._returned = (Counter[tuple[str, str]]() for _ in range(3))
        self._visible, self._numbers, self._breached = (Counter[tuple[str, str]]() for _ in range(3))
        self._superseded = Counter[str]()
        self._corrected: dict[str, list[int]] = {month.name: [0, 0] for month in months}
        self._times = {kind: _Times() for kind in KINDS}
        self._last: dict[bool, tuple[object, ...]] = {}
        self._snapshots: list[Missing] = []
        self._unwitnessed = 0

    # -- reading -----------------------------------------------------------------------------------------

    def walk(self, reader: Reader, put: Callable[[Row], None], advance: Callable[[int], None]) -> None:
        """Read the journal. put: takes the trace's rows. advance: told how many entries were read.

        Raises StoreError where it is damaged.
        """
        times = CommitTimes(reader)
        first, end = self._firsts[0], self._end
        moves = Moves(reader)
        for number, (serial, entry, _) in enumerate(reader.journal(), 1):
            if number % JOURNAL_ENTRIES_PER_STEP == 0:
                advance(JOURNAL_ENTRIES_PER_STEP)
            at = times.visible_at(serial, entry)
            if not first <= at < end:
                continue
            month = self._months[bisect_right(self._firsts, at) - 1].name
            notice = times.clocked(serial, entry, at, self._limits)
            if notice is not None:
                self._unwitnessed += not times.is_witnessed
                self._add_notice(month, notice, moves.of(serial, entry), put)
            elif entry.kind in OF_NUMBERS:  # without a notice; one that takes a port away is recorded as a return
                self._add_correction(month, serial, entry, at, moves.of(serial, entry), put)
            elif entry.kind is JournalKind.SNAPSHOT and not entry.from_empty:
                self._add_snapshot(serial, entry)

    def _add_notice(self, month: str, notice: ClockedNotice, found: list[Move], put: Callable[[Row], None]) -> None:
        entry = notice.entry
        is_superseded = entry.kind is JournalKind.SUPERSEDED
        told = [move for move in found if self._concerns(move.from_network, move.to_network)]
        serves = None if entry.new is None else entry.new.network_code
        if not told and not self._concerns(serves, serves):
            return
        is_first = self._is_first(entry, is_superseded)
        if is_superseded:
            self._superseded[month] += is_first
            put(_row(month, notice.serial, entry, "superseded", None, is_first, notice.visible_at, None))
            return
        place, spans = (month, entry.kind.value), spans_of(notice)
        self._numbers[place] += _numbers(entry)
        if is_first:
            self._visible[place] += 1
            self._breached[place] += spans.is_breached
            self._times[entry.kind].add(spans)
        for move in told:
            counted_as = _COUNTED_AS[entry.kind]
            self._add_move(month, counted_as, move)
            put(_row(month, notice.serial, entry, counted_as, move, is_first, notice.visible_at, spans))
            is_first = False
        if not told:
            put(_row(month, notice.serial, entry, "no_move", None, is_first, notice.visible_at, spans))

    def _add_move(self, month: str, counted_as: str, move: Move) -> None:
        if counted_as == "ported":
            self._came[month, move.to_network or NOT_KNOWN] += move.numbers
            self._left[month, move.from_network or NOT_KNOWN] += move.numbers
        elif counted_as == "returned":
            self._returned[month, move.from_network or NOT_KNOWN] += move.numbers

    def _add_correction(
        self,
        month: str,
        serial: int,
        entry: JournalEntry,
        at: UnixMillis,
        found: list[Move],
        put: Callable[[Row], None],
    ) -> None:
        """Of a person's, such as a reconciliation's."""
        told = [move for move in found if self._concerns(move.from_network, move.to_network)]
        serves = None if entry.new is None else entry.new.network_code
        if not told and not self._concerns(serves, serves):
            return
        counts = self._corrected[month]
        counts[0] += 1
        counts[1] += entry.added + entry.removed + entry.changed
        rows: Sequence[Move | None] = told or [None]
        for move in rows:
            put(_row(month, serial, entry, "corrected", move, False, at, None))

    def _add_snapshot(self, serial: int, entry: JournalEntry) -> None:
        """Its numbers changed at a moment that nobody told: they are in no figure."""
        numbers = entry.added + entry.removed + entry.changed
        if numbers:
            at = format_time(entry.applied_at)
            why = t_later(
                "serial {serial}, {source}, changed {numbers} numbers without notices: they are in no figure; ask the "
                "clearinghouse for the notices"
            )
            told = not_told("snapshot", why, at, at, serial=serial, source=entry.source, numbers=numbers)
            self._snapshots.append(told)

    def _concerns(self, *networks: str | None) -> bool:
        """Whether these are to be counted at all."""
        return self._network is None or self._network in networks

    def _is_first(self, entry: JournalEntry, is_superseded: bool) -> bool:
        """Whether no part of this notice was counted yet: one of a range may be cut into several entries."""
        name = entry.feed, entry.sequence, entry.line
        if self._last.get(is_superseded) == name:
            return False
        self._last[is_superseded] = name
        return True

    # -- what it comes to --------------------------------------------------------------------------------

    def networks(self, operators: dict[str, str]) -> list[NetworkMonth]:
        """Of every network that had any, in each month. operators: names, by network code."""
        codes = sorted({code for counts in (self._came, self._left, self._returned) for _, code in counts})
        if self._network is not None:
            codes = [self._network]
        return [
            NetworkMonth(
                month.name,
                code,
                operators.get(code, ""),
                *(counts[month.name, code] for counts in (self._came, self._left, self._returned)),
            )
            for month in self._months
            for code in codes
        ]

    def notices(self, rejected: dict[str, int] | None) -> list[NoticeMonth]:
        """rejected: by month; None = not known."""
        told = []
        for month in self._months:
            for kind in KINDS:
                place = month.name, kind.value
                visible, breached = self._visible[place], self._breached[place]
                rate = breached / visible if visible else None
                told.append(
                    NoticeMonth(month.name, kind.value, visible, self._numbers[place], breached, 0, 0, breached, rate)
                )
            refused = None if rejected is None else rejected.get(month.name, 0)
            superseded = self._superseded[month.name]
            if superseded or refused or refused is None:
                told.append(NoticeMonth(month.name, UNTOLD, 0, 0, 0, superseded, refused, refused, None))
        return told

    def times(self) -> list[KindTimes]:
        """Of each kind, in the whole period."""
        return [
            KindTimes(
                kind.value,
                float(limit_seconds(kind, self._limits)),
                found.to_visible.times(),
                found.to_effective.times(),
                found.whole.times(),
            )
            for kind, found in self._times.items()
        ]

    def corrected(self) -> list[Corrected]:
        """Of each month."""
        return [Corrected(month, *counts) for month, counts in self._corrected.items()]

    def missing(self) -> Iterator[Missing]:
        """What the walk met and could not count, or not exactly."""
        yield from self._snapshots[:MISSING_SNAPSHOTS_TOLD]
        if (more := len(self._snapshots) - MISSING_SNAPSHOTS_TOLD) > 0:
            yield not_told("snapshot", t_later("{more} more snapshots changed numbers without notices"), more=more)
        if self._unwitnessed:
            why = t_later("{entries} entries have no receipt: the second of their entry is taken for them")
            yield not_told("receipts", why, entries=self._unwitnessed)
        if unknown := sum(count for (_, code), count in self._left.items() if code == NOT_KNOWN):
            why = t_later(
                "{numbers} numbers came from a network that neither notice nor ranges table names: load the ranges "
                "with lookupd-loader ranges"
            )
            yield not_told("journal", why, numbers=unknown)


def _numbers(entry: JournalEntry) -> int:
    return 0 if entry.tn is None or entry.tn_to is None else entry.tn_to - entry.tn + 1


def _row(
    month: str,
    serial: int,
    entry: JournalEntry,
    counted_as: str,
    move: Move | None,
    is_first: bool,
    at: UnixMillis,
    spans: Spans | None,
) -> Row:
    """move: None = all numbers of the entry, which went nowhere."""
    if move is None:
        return Row(
            month, serial, entry, counted_as, "", "", entry.tn or TN(0), entry.tn_to or TN(0), int(is_first), at, spans
        )
    return Row(
        month,
        serial,
        entry,
        counted_as,
        move.from_network or NOT_KNOWN,
        move.to_network or "",
        move.tn,
        move.tn_to,
        int(is_first),
        at,
        spans,
    )

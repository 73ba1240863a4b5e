"""Who moved: of each journal entry, the runs of numbers that left one network for another.

A number leaves the network that served it; one that was not ported leaves the donor that the notice names, else the
holder of its range as the ranges table was then. What a move counts for is the callers'.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lookupd.model import TN, JournalEntry, JournalKind
from lookupd.store import journal
from lookupd.store.history import Past, oldest_kept
from lookupd.store.reader import Reader

OF_NUMBERS = frozenset({JournalKind.PORT, JournalKind.RETURN, JournalKind.CORRECT})
"""Entries whose numbers change by a word about them. A snapshot's change by what nobody told of."""


class Move(msgspec.Struct, frozen=True, gc=False):
    """Numbers of one entry that went together. from_network: None = nobody tells. to_network: None = home."""

    tn: TN
    tn_to: TN
    from_network: str | None
    to_network: str | None

    @property
    def numbers(self) -> int:
        """How many."""
        return self.tn_to - self.tn + 1


class Moves:
    """Of a pinned reader's journal."""

    def __init__(self, reader: Reader) -> None:
        self._holders = _Holders(reader)

    def of(self, serial: int, entry: JournalEntry) -> list[Move]:
        """In the order of the numbers; none of an entry that changed no number's network. Raises StoreError."""
        if entry.kind not in OF_NUMBERS or entry.tn is None or entry.tn_to is None:
            return []
        if entry.tn == entry.tn_to and entry.old and entry.new and entry.old[0].network_code == entry.new.network_code:
            return []  # a routing number of its own changed
        return list(_joined(self._runs(serial, entry, int(entry.tn), int(entry.tn_to))))

    def _runs(self, serial: int, entry: JournalEntry, at: int, last: int) -> Iterator[Move]:
        """Also of numbers that come to where they were."""
        to_network = None if entry.new is None else entry.new.network_code
        for run in entry.old:
            yield from self._from_home(serial, entry, at, run.tn - 1)
            yield Move(run.tn, run.tn_to, run.network_code, to_network)
            at = run.tn_to + 1
        yield from self._from_home(serial, entry, at, last)

    def _from_home(self, serial: int, entry: JournalEntry, first: int, last: int) -> Iterator[Move]:
        """Of numbers that were not ported. Those that a return names change nothing."""
        if first > last or entry.new is None:
            return
        if entry.new.donor is not None and entry.kind is JournalKind.PORT:
            yield Move(TN(first), TN(last), entry.new.donor, entry.new.network_code)
            return
        for begin, end, holder in self._holders.of(serial - 1, first, last):
            yield Move(TN(begin), TN(end), holder, entry.new.network_code)


def _joined(runs: Iterator[Move]) -> Iterator[Move]:
    """Neighbours from one network are one move; those that come to where they were are none."""
    former: Move | None = None
    for run in runs:
        if former is not None and former.tn_to + 1 == run.tn and former.from_network == run.from_network:
            former = Move(former.tn, run.tn_to, former.from_network, former.to_network)
            continue
        if former is not None and former.from_network != former.to_network:
            yield former
        former = run
    if former is not None and former.from_network != former.to_network:
        yield former


class _Holders:
    """Who held ranges at a serial. Serials only grow from call to call: the ranges table rarely changes between."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._oldest = oldest_kept(reader)[0]
        prefixes = {key.decode() for key, _ in reader.stored_from("ranges")}
        self._changes: list[int] = []
        for key, _ in reader.stored_from("journal_tables", journal.RANGE):
            name, serial = journal.split_row_key(key)
            if name[:1] != journal.RANGE:
                break
            prefixes.add(name[1:].decode())
            self._changes.append(serial)
        self._changes = sorted(set(self._changes))
        self._longest = max(map(len, prefixes), default=0)
        self._until = 0
        self._past: Past | None = None
        self._known: dict[str, str | None] = {}

    def of(self, serial: int, first: int, last: int) -> Iterator[tuple[int, int, str | None]]:
        """The stretches of first to last that one network held after this serial."""
        self._move_to(max(serial, self._oldest))
        while first <= last:
            cut = 10 ** max(len(str(first)) - self._longest, 0)  # so many numbers share the longest prefix
            end = min(first // cut * cut + cut - 1, last)
            yield first, end, self._holder(str(first)[: self._longest])
            first = end + 1

    def _holder(self, prefix: str) -> str | None:
        if prefix not in self._known:
            assert self._past is not None
            held = self._past.range_holder(prefix)
            self._known[prefix] = None if held is None else self._past.route(held[1]).network_code
        return self._known[prefix]

    def _move_to(self, serial: int) -> None:
        """Forget what was known before the table's next change, if that is over."""
        if self._past is not None and serial < self._until:
            return
        newest = self._reader.state.serial
        self._past = Past(self._reader, min(serial, newest))
        self._until = next((change for change in self._changes if change > serial), newest + 1)
        self._known.clear()

"""Damaged blocks made whole from what the sender gave us: the snapshot's file, then the journal since.

What is made is proven before it is committed: with it, the blocks must sum up to the digest that the store has
kept of itself. Finding damage is for `store.scrub`, mending from another replica for `store.mend`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np

from loader.files import FeedFile, line_chunks, verified
from loader.formats import lookupd as own_format
from loader.formats.lookupd_columns import parse_rows
from loader.validate import check_portable
from lookupd.errors import FeedError, Rejected, StoreError
from lookupd.limits import SNAPSHOT_LINE_BYTES_MAX
from lookupd.model import TN, JournalEntry, JournalKind, NetworkCode, Ported, RoutingNumber, UnixSeconds
from lookupd.numbering import Plan
from lookupd.store import journal, restricting
from lookupd.store.change import Change, Counts
from lookupd.store.reader import Reader
from lookupd.store.schema import (
    BLOCK_KEY,
    DETAIL,
    ENTRIES_BYTES,
    JOURNAL_BLOCK_KEY,
    NUMBERS_PER_BLOCK,
    U16,
    UNKNOWN_ROUTE,
    format_digest,
    number_term,
    pack_block,
    pack_details,
)
from lookupd.store.scrub import contents, scrub
from lookupd.store.writer import Writer

Rows = dict[int, dict[int, Ported]]
"""By block, then by number: each ported number on its own."""

Advance = Callable[[int], None]


class Mended(msgspec.Struct, frozen=True):
    """What was mended: blocks, blocks whose details were, and whose restrictions as look-ups read them; nothing at all
    if these are empty."""

    source: str
    blocks: tuple[int, ...]
    details: tuple[int, ...]
    restricted: tuple[int, ...]
    numbers: int
    serial: int
    digest: str


def mend_from_snapshot(
    writer: Writer,
    file: FeedFile,
    plan: Plan,
    blocks: Iterable[int],
    now: UnixSeconds,
    reason: str,
    advance: Advance = lambda count: None,
) -> Mended:
    """Mend damaged blocks, details and values of `restricted` in one transaction, with one journal entry.

    blocks: those that are known to be damaged or lost; all others that are damaged are found and mended too,
    since the proof needs them. reason: a person's words, or the program's. Raises FeedError if the file is not
    the one that is needed (it says which), StoreError if the outcome does not give the store's digest: the
    store is as before.
    """
    with writer.reader() as reader, writer.change(now) as change:
        reader.pin()  # what the change began from: nobody else writes now
        report = scrub(reader)
        asked = {block for block in blocks if reader.stored("blocks", BLOCK_KEY.pack(block)) is None}
        damaged = sorted({*report.damaged_blocks, *asked})
        rows = rows_from_snapshot(reader, file, {*damaged, *report.to_mend}, advance)
        sums = {block: content for block, content in contents(reader) if block not in damaged}
        for block, numbers in rows.items():
            if numbers:
                check_portable(TN(block * NUMBERS_PER_BLOCK), plan)
            content = _put(change, block, numbers, block in damaged)
            if sums.setdefault(block, content) != content:
                raise _wrong(file, f"block {block}, whose details are damaged, holds other numbers than it says")
        digest = (sum(sums.values()) + change.tables_digest()) % (1 << 64)
        if digest != change.digest % (1 << 64):
            raise _wrong(
                file, f"digest would be {format_digest(digest)}, the store's is {format_digest(change.digest)}"
            )
        if rows:
            change.record(
                JournalKind.REPAIRED,
                Counts(mended=len(rows)),
                source=f"{file.name}, blocks {_told(sorted(rows))}",
                sha256=file.sha256,
                reason=reason,
            )
        return Mended(
            file.name,
            tuple(damaged),
            tuple(report.damaged_details),
            tuple(report.damaged_restricted),
            sum(map(len, rows.values())),
            change.serial,
            format_digest(digest),
        )


def needed_snapshot(reader: Reader) -> tuple[str, str, int] | None:
    """File name, feed and sequence of the snapshot that was loaded last; None if the journal knows of none."""
    found = None
    for _, entry, _ in reader.journal():
        if entry.kind is JournalKind.SNAPSHOT and entry.feed and entry.sequence:
            found = (entry.source or "", entry.feed, entry.sequence)
    return found


def rows_from_snapshot(
    reader: Reader, file: FeedFile, blocks: Iterable[int], advance: Advance = lambda count: None
) -> Rows:
    """The blocks as the store had them: the file's rows, brought up to date by the journal's entries since.

    Raises FeedError if the file is bad, newer than the store, or the journal does not lead on from it.
    """
    position = reader.state.feeds.get(file.feed)
    if position is None or file.sequence > position.sequence:
        raise FeedError(f"{file.name}: is newer than the store: load it with `lookupd-loader snapshot`, which mends")
    wanted = {block: dict[int, Ported]() for block in blocks}
    if not wanted:
        return wanted
    for number in rows_in_file(file, set(wanted), advance):
        wanted[number.tn // NUMBERS_PER_BLOCK][number.tn] = number
    replay = _Replay(reader, file, wanted)
    for serial, entry, _ in reader.journal():
        replay.take(serial, entry)
    return replay.result()


def rows_in_file(file: FeedFile, blocks: set[int], advance: Advance = lambda count: None) -> Iterator[Ported]:
    """The file's rows of some blocks; all of its bytes are checked, other rows are passed over. Raises FeedError."""
    with verified(file, advance) as (data, _):
        chunks = line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX)
        header, _, first = next(chunks, b"").partition(b"\n")
        try:
            columns = own_format.parse_header(header)
        except ValueError as error:
            raise Rejected(file.name, [(1, str(error))]) from None
        line = 2
        for chunk in _and_then(first, chunks):
            count, found = _rows_of(chunk, columns, blocks)
            lines = chunk.removesuffix(b"\n").split(b"\n") if found else []
            for at in found:
                try:
                    row = own_format.parse_row(lines[at], columns)
                except ValueError as error:
                    raise Rejected(file.name, [(line + at, str(error))]) from None
                if row.tn // NUMBERS_PER_BLOCK in blocks:
                    tn = TN(row.tn)
                    yield Ported(tn, tn, row.network_code, row.routing_number, row.donor, row.ported_at, file.sequence)
            line += count


def _and_then(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _rows_of(chunk: bytes, columns: tuple[str, ...], blocks: set[int]) -> tuple[int, Sequence[int]]:
    """How many rows a chunk has, and which may be of these blocks: all, where it is not of the everyday form."""
    raw = parse_rows(chunk, columns)
    if raw is None:
        count = chunk.removesuffix(b"\n").count(b"\n") + 1
        return count, range(count)
    of_blocks = np.isin(raw.tn // np.uint64(NUMBERS_PER_BLOCK), np.array(sorted(blocks), np.uint64))
    found: list[int] = np.flatnonzero(of_blocks).tolist()
    return len(raw.tn), found


class _Replay:
    """The journal, entry by entry from the oldest, over the rows of a snapshot's file.

    Before the file's place in it, entries only tell by which file each number was last set, which a snapshot
    that left a number unchanged did not alter; from there on they change the rows.
    """

    def __init__(self, reader: Reader, file: FeedFile, rows: Rows) -> None:
        self._reader = reader
        self._file = file
        self._from_file = rows
        self._rows: Rows | None = None
        self._set_by: dict[int, int] = {}
        self._first_set_by = file.sequence

    def take(self, serial: int, entry: JournalEntry) -> None:
        """The next entry."""
        ours = entry.feed == self._file.feed and entry.sequence == self._file.sequence
        if entry.kind is JournalKind.SNAPSHOT:
            self._take_snapshot(serial, entry, ours)
            return
        if ours and self._rows is None:
            # The file says what was true after the delta of its number; that delta's own notices change nothing.
            self._begin()
        if entry.kind in {JournalKind.PORT, JournalKind.CORRECT, JournalKind.RETURN}:
            for tn in self._numbers(entry):
                self._take_number(tn, entry)

    def _take_snapshot(self, serial: int, entry: JournalEntry, ours: bool) -> None:
        assert entry.sequence is not None
        if entry.from_empty:
            self._set_by.clear()
            self._first_set_by = entry.sequence
        for block in self._from_file:
            before = self._reader.stored("journal_blocks", JOURNAL_BLOCK_KEY.pack(block, serial))
            if before is None:
                continue
            if self._rows is not None and not ours:
                raise FeedError(
                    f"{self._file.name}: {entry.source} at {entry.sequence} was loaded after it and changed block "
                    f"{block}: take that file; the store is unchanged"
                )
            for offset, route_id, *_ in journal.previous_records(before):
                offsets = range(NUMBERS_PER_BLOCK) if route_id == UNKNOWN_ROUTE else (offset,)
                self._set_by.update((block * NUMBERS_PER_BLOCK + at, entry.sequence) for at in offsets)
        if ours:
            self._begin()

    def _begin(self) -> None:
        """The journal is where the file is: its rows hold."""
        self._rows = {
            block: {
                tn: msgspec.structs.replace(number, sequence=self._set_by.get(tn, self._first_set_by))
                for tn, number in numbers.items()
            }
            for block, numbers in self._from_file.items()
        }

    def _numbers(self, entry: JournalEntry) -> Iterator[int]:
        """The entry's numbers that lie in our blocks."""
        assert entry.tn is not None
        assert entry.tn_to is not None
        for block in self._from_file:
            first = block * NUMBERS_PER_BLOCK
            yield from range(max(first, entry.tn), min(first + NUMBERS_PER_BLOCK - 1, entry.tn_to) + 1)

    def _take_number(self, tn: int, entry: JournalEntry) -> None:
        assert entry.sequence is not None
        self._set_by[tn] = entry.sequence
        if self._rows is None:
            return
        numbers = self._rows[tn // NUMBERS_PER_BLOCK]
        if entry.new is None:
            numbers.pop(tn, None)
            return
        now = msgspec.structs.replace(entry.new, tn=TN(tn), tn_to=TN(tn))
        if entry.kind is JournalKind.CORRECT and entry.feed is not None:
            # A sender's mends the route only; from where and when it came, each number keeps.
            was = numbers.get(tn)
            now = msgspec.structs.replace(
                now, donor=now.donor or (was and was.donor), ported_at=was.ported_at if was else None
            )
        numbers[tn] = now

    def result(self) -> Rows:
        """After the last entry. Raises FeedError if the file's place was never met."""
        if self._rows is None:
            needed = needed_snapshot(self._reader)
            raise FeedError(
                f"{self._file.name}: the journal does not reach back to it: take "
                f"{needed[0] if needed else 'the newest snapshot'}, or load a new snapshot; the store is unchanged"
            )
        return self._rows


def _put(change: Change, block: int, numbers: dict[int, Ported], the_block_too: bool) -> int:
    """Write a block's details, and its entries if they are damaged; returns its content digest."""
    entries = bytearray(ENTRIES_BYTES)
    details = bytearray()
    content = 0
    for tn, number in sorted(numbers.items()):
        route_id = change.route_id(
            _known(change, number.network_code), RoutingNumber(number.routing_number) if number.routing_number else None
        )
        donor_id = change.network_codes[_known(change, number.donor)] if number.donor else 0
        offset = tn % NUMBERS_PER_BLOCK
        U16.pack_into(entries, 2 * offset, route_id)
        details += DETAIL.pack(offset, donor_id, number.ported_at or 0, number.sequence)
        content += number_term(tn, change.fingerprints[route_id])
    content %= 1 << 64
    key = BLOCK_KEY.pack(block)
    put, delete = change.transaction.put, change.transaction.delete
    if numbers:
        put(key, pack_details(block, details), db=change.handles["details"])
    else:
        delete(key, db=change.handles["details"])
    restricting.restore_bits(change, block, entries)
    if the_block_too and any(entries):
        put(key, pack_block(block, entries, content), db=change.handles["blocks"])
    elif the_block_too:
        delete(key, db=change.handles["blocks"])
    change.blocks = change.transaction.stat(change.handles["blocks"])["entries"]
    return content


def _known(change: Change, code: NetworkCode) -> NetworkCode:
    if change.network_id(code) is None:
        raise FeedError(f"network {code} is not in the networks table: this is not the store's snapshot")
    return code


def _wrong(file: FeedFile, why: str) -> StoreError:
    return StoreError(
        f"{file.name}: does not mend the store: {why}: take the snapshot that was loaded last, or load a new one; "
        "the store is unchanged"
    )


def _told(blocks: list[int]) -> str:
    """A few of them by number."""
    more = f" and {len(blocks) - 20} more" if len(blocks) > 20 else ""
    return ", ".join(map(str, blocks[:20])) + more

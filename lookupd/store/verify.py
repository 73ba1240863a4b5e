"""Proof that the store is whole: checksums, digest, counts, details, tables, and the history by `chain`.

Reads only, and reports; what to do about a problem is the operator's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import msgspec
import numpy as np

from lookupd.errors import StoreError
from lookupd.limits import BLOCKS_PER_WINDOW
from lookupd.model import Target
from lookupd.store.chain import check_history
from lookupd.store.columns import DETAIL_DTYPE, U16s, number_terms, sums_by_row
from lookupd.store.reader import Reader
from lookupd.store.restricted import blocks_of, pack, records_of
from lookupd.store.restrictions import restriction_term
from lookupd.store.schema import (
    BLOCK_BYTES,
    BLOCK_KEY,
    ENTRIES_BYTES,
    NUMBERS_PER_BLOCK,
    RESTRICTED,
    ROUTE_MASK,
    U64,
    RouteRecord,
    block_is_sound,
    network_term,
    range_term,
    route_fingerprint,
    unpack_details,
)

WAY_OUT = "any change of a restriction of its numbers writes it anew"

PROBLEMS_MAX = 100
"""Problems told one by one; beyond them only the count goes on."""


class Report(msgspec.Struct):
    """What a verification found. The store is whole if `problem_count` is 0."""

    blocks: int = 0
    ported: int = 0
    routes: int = 0
    ranges: int = 0
    restrictions: int = 0
    journal_entries: int = 0
    digest: int = 0
    problem_count: int = 0
    problems: list[str] = msgspec.field(default_factory=list)
    damaged_blocks: list[int] = msgspec.field(default_factory=list)

    def problem(self, text: str) -> None:
        """Note one problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)


def verify(reader: Reader, advance: Callable[[int], None] = lambda blocks: None) -> Report:
    """Check everything in the pinned state. advance: told how many blocks were done."""
    report = Report()
    try:
        records = reader.route_records()
        report.digest = _check_tables(reader, records, report)
        report.digest += _check_blocks(reader, records, report, advance)
        report.digest %= 1 << 64
        _check_details(reader, report)
        _check_bits(reader, report)
        _check_restricted(reader, report)
    except StoreError as error:  # a page of the file: what is behind it cannot be read
        report.problem(str(error))
    report.journal_entries = check_history(reader, report.problem)
    state = reader.state
    for name, found, kept in (
        ("digest", report.digest, state.digest),
        ("count of ported numbers", report.ported, state.ported),
        ("count of blocks", report.blocks, state.blocks),
    ):
        if found != kept:
            report.problem(f"{name} is {found}, the state says {kept}")
    return report


def verify_history(reader: Reader) -> Report:
    """Check the history alone: journal, anchor, what lies beside them, receipts, notices that wait."""
    report = Report()
    report.journal_entries = check_history(reader, report.problem)
    return report


def _check_tables(reader: Reader, records: list[RouteRecord | None], report: Report) -> int:
    """Returns the tables' share in the digest."""
    report.routes = sum(record is not None for record in records)
    networks = {record.network_code: record for record in records if record is not None and record.own}
    digest = sum(network_term(record) for record in networks.values())
    for route_id, record in enumerate(records):
        own = None if record is None else networks.get(record.network_code)
        if record is not None and (own is None or (own.operator, own.pdb_carrier_id) != _dress(record)):
            report.problem(f"route {route_id}: its network {record.network_code} is missing, or says otherwise")
    for prefix, route_id in reader.ranges():
        report.ranges += 1
        record = records[route_id] if route_id < len(records) else None
        if record is None:
            report.problem(f"range {prefix}: route {route_id} is missing")
        else:
            digest += range_term(prefix, record.network_code)
    for restriction in reader.every_restriction():
        report.restrictions += 1
        digest += restriction_term(restriction)
    return digest


def _check_restricted(reader: Reader, report: Report) -> None:
    """What look-ups read of the restrictions, against the rows."""
    wanted = {block for it in reader.every_restriction() for block in blocks_of(it)}
    for key, value in reader.stored_from("restricted"):
        block = int.from_bytes(key)
        is_wanted = len(key) == BLOCK_KEY.size and block in wanted
        if not is_wanted or value != pack(block, records_of(reader.stored_from, block)):
            report.problem(f"restricted: the value of block {block} is not what its restrictions make: {WAY_OUT}")
        wanted.discard(block)
    for block in sorted(wanted):
        report.problem(f"restricted: the value of block {block} is missing: {WAY_OUT}")


def _check_bits(reader: Reader, report: Report) -> None:
    """The bit of each number against the restrictions: it is set exactly where one is about the number."""
    marked: dict[int, set[int]] = {}
    for it in reader.every_restriction():
        for tn in range(it.first, it.last + 1) if it.target is Target.NUMBER else ():
            marked.setdefault(tn // NUMBERS_PER_BLOCK, set()).add(tn % NUMBERS_PER_BLOCK)
    for block, value in reader.blocks():
        wanted = marked.pop(block, set())
        if block in report.damaged_blocks or len(value) != BLOCK_BYTES:
            continue
        entries = np.frombuffer(value[:ENTRIES_BYTES], "<u2")
        found = set(np.flatnonzero(entries & np.uint16(RESTRICTED)).tolist())
        if wanted != found:
            report.problem(
                f"block {block}: {len(found)} numbers are marked as restricted, {len(wanted)} are, not the same"
            )
    for block, numbers in marked.items():
        report.problem(f"block {block} is missing: {len(numbers)} of its numbers are restricted")


def _dress(record: RouteRecord) -> tuple[str, int | None]:
    """What a route with a routing number of its own has from its network."""
    return record.operator, record.pdb_carrier_id


def _check_blocks(
    reader: Reader, records: list[RouteRecord | None], report: Report, advance: Callable[[int], None]
) -> int:
    """Returns the blocks' share in the digest, computed anew from their entries."""
    fingerprints = np.zeros(ROUTE_MASK + 1, np.uint64)
    for route_id, record in enumerate(records):
        if record is not None:
            fingerprints[route_id] = route_fingerprint(record)
    digest = 0
    blocks = reader.blocks()
    while window := [(block, bytes(value)) for block, value in islice(blocks, BLOCKS_PER_WINDOW)]:
        sound = [(block, value) for block, value in window if _is_sound(block, value, report)]
        if sound:
            numbers = np.array([block for block, _ in sound], np.uint64)
            raw = np.frombuffer(b"".join(value[:ENTRIES_BYTES] for _, value in sound), "<u2")
            entries = raw.reshape(len(sound), NUMBERS_PER_BLOCK) & np.uint16(ROUTE_MASK)
            rows, offsets = np.nonzero(entries)
            prints = fingerprints[entries[rows, offsets]]
            tn = numbers[rows] * np.uint64(NUMBERS_PER_BLOCK) + offsets.astype(np.uint64)
            content = sums_by_row(number_terms(tn, prints), rows, len(sound))
            _check_window(sound, entries, content, report)
            for at in np.flatnonzero(prints == 0)[:PROBLEMS_MAX]:
                report.problem(f"number {tn[at]}: route {entries[rows[at], offsets[at]]} is missing")
            report.ported += len(rows)
            digest += int(content.sum())
        report.blocks += len(window)
        advance(len(window))
    return digest


def _is_sound(block: int, value: bytes, report: Report) -> bool:
    if block_is_sound(block, value):
        return True
    report.damaged_blocks.append(block)
    report.problem(f"block {block} is damaged: numbers {block}000 to {block}999 answer `unavailable`")
    return False


def _check_window(
    sound: list[tuple[int, bytes]],
    entries: U16s,
    content: np.ndarray[tuple[int], np.dtype[np.uint64]],
    report: Report,
) -> None:
    for row, (block, value) in enumerate(sound):
        if U64.unpack_from(value, ENTRIES_BYTES)[0] != int(content[row]):
            report.problem(f"block {block}: content digest does not match its entries")


def _check_details(reader: Reader, report: Report) -> None:
    """Each ported number has one details record, and no other number has one."""
    blocks, details = reader.blocks(), reader.details()
    block_at, detail_at = next(blocks, None), next(details, None)
    while block_at or detail_at:
        block = min(at[0] for at in (block_at, detail_at) if at)
        ported = np.zeros(0, np.int64)
        kept = np.zeros(0, np.int64)
        if block_at and block_at[0] == block:
            if block not in report.damaged_blocks:
                entries = np.frombuffer(bytes(block_at[1][:ENTRIES_BYTES]), "<u2")
                ported = np.flatnonzero(entries & np.uint16(ROUTE_MASK))
            block_at = next(blocks, None)
        if detail_at and detail_at[0] == block:
            try:
                records = unpack_details(block, detail_at[1])
                kept = np.frombuffer(records, DETAIL_DTYPE)["offset"].astype(np.int64)
            except StoreError as error:
                report.problem(str(error))
                kept = ported
            detail_at = next(details, None)
        if block not in report.damaged_blocks and not np.array_equal(ported, kept):
            report.problem(f"block {block}: {len(ported)} ported numbers, details of {len(kept)}, not the same")

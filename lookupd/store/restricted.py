"""Database `restricted`: what a look-up needs of the restrictions about a thousand numbers, as one value.

    tn // 1000 (u64) -> where each of 16 parts ends in the value (u32 each), then the parts

A part is about 64 numbers, fewer in the last: a RECORD for each restriction that reaches into it, the strictest first
and of several as strict the one that holds longest, then the records' checksum (u64), keyed by block and part. So an
answer costs one get, the check of one part, and the first record that holds.

Nothing here is known first: the rows of `restrictions` are the truth, a value is a function of them, and `verify`
holds it against them. A record without a measure sends who asks for an earlier moment than its `until` to the rows.
It stands for the rows that are too many: a value has RESTRICTIONS_PER_BLOCK_MAX that lapse last, and the loader sees to
it that the others have lapsed. And for a damaged row, for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import xxhash

from lookupd.errors import StoreError
from lookupd.limits import RESTRICTIONS_PER_BLOCK_MAX
from lookupd.model import InForce, Measure, Restriction, Target, UnixSeconds
from lookupd.store.restrictions import KEY, NUMBERS, REACHES, RowsFrom, unpack_row
from lookupd.store.schema import BLOCK_KEY, NUMBERS_PER_BLOCK, U64, Value

NUMBERS_PER_PART: Final = 64
"""As the parts of a block that the native engine checks: few enough to be read whole, enough for few checksums."""

PARTS: Final = -(-NUMBERS_PER_BLOCK // NUMBERS_PER_PART)

RECORD = struct.Struct("<HHB3xII")
"""first and last offset in the block, measure (0 = until then, ask the rows), begins_at, until."""

_ENDS = struct.Struct(f"<{PARTS}I")
_ASK_ROWS: Final = 0
_FOR_EVER: Final = (1 << 32) - 1


class Record(NamedTuple):
    """What a look-up needs of a restriction. first, last: offsets in the block."""

    first: int
    last: int
    measure: int
    begins_at: int
    until: int

    def holds_longer(self) -> tuple[int, ...]:
        """By which the records are put in order to see which are left out."""
        return (-self.until, *self)

    def is_stricter(self) -> tuple[int, ...]:
        """By which they are put in order for who looks for the strictest."""
        return (self.measure, -self.until, *self)


def blocks_of(restriction: Restriction) -> range:
    """The blocks it reaches into; none if it is not of numbers."""
    it = restriction
    if it.target is not Target.NUMBER:
        return range(0)
    return range(it.first // NUMBERS_PER_BLOCK, it.last // NUMBERS_PER_BLOCK + 1)


def record_of(block: int, restriction: Restriction) -> Record:
    """A restriction of numbers, as it reaches into a block."""
    it = restriction
    return Record(*_reach(block, it.first, it.last), it.measure, it.begins_at, it.until)


def records_of(rows_from: RowsFrom, block: int) -> list[Record]:
    """Of every row that reaches into a block."""
    begin = block * NUMBERS_PER_BLOCK
    return [*_beginning(rows_from, block, begin), *_reaching(rows_from, block, begin)]


def _beginning(rows_from: RowsFrom, block: int, begin: int) -> Iterator[Record]:
    for key, value in rows_from("restrictions", KEY.pack(NUMBERS, begin, 0, 0)):
        if key[:1] != NUMBERS or _first_and_last(key)[0] >= begin + NUMBERS_PER_BLOCK:
            break
        yield _record(block, key, value)


def _reaching(rows_from: RowsFrom, block: int, begin: int) -> Iterator[Record]:
    """Of the ranges that begin before the block."""
    reaches = REACHES + BLOCK_KEY.pack(block)
    for leads, _ in rows_from("restrictions", reaches):
        if not leads.startswith(reaches):
            break
        key = NUMBERS + leads[len(reaches) :]
        if _first_and_last(key)[0] < begin:
            found = next(iter(rows_from("restrictions", key)), (b"", b""))
            yield _record(block, key, found[1] if found[0] == key else b"")


def _record(block: int, key: bytes, value: bytes) -> Record:
    try:
        return record_of(block, unpack_row(key, value))
    except StoreError:
        return Record(*_reach(block, *_first_and_last(key)), _ASK_ROWS, 0, _FOR_EVER)


def _first_and_last(key: bytes) -> tuple[int, int]:
    """Of a row's key. Raises StoreError when it is none."""
    try:
        _, first, last, _ = KEY.unpack(key)
    except struct.error:
        raise StoreError(f"restrictions: the key {key.hex()} is damaged: restore the store") from None
    return first, last


def _reach(block: int, first: int, last: int) -> tuple[int, int]:
    """Offsets in a block, also of ends that no row of ours has."""
    begin = block * NUMBERS_PER_BLOCK
    return max(first - begin, 0), max(min(last - begin, NUMBERS_PER_BLOCK - 1), 0)


def pack(block: int, records: Iterable[Record]) -> bytes:
    """The value of all that reach into a block."""
    ordered = sorted(records, key=Record.holds_longer)
    kept, left_out = ordered[:RESTRICTIONS_PER_BLOCK_MAX], ordered[RESTRICTIONS_PER_BLOCK_MAX:]
    parts: list[list[bytes]] = [[] for _ in range(PARTS)]
    for record in left_out:  # the one that lapses last comes first
        for part in _parts(record):
            if not parts[part]:
                parts[part].append(RECORD.pack(0, NUMBERS_PER_BLOCK - 1, _ASK_ROWS, 0, record.until))
    for record in sorted(kept, key=Record.is_stricter):
        packed = RECORD.pack(*record)
        for part in _parts(record):
            parts[part].append(packed)
    joined = [_checked(block, part, b"".join(found)) for part, found in enumerate(parts)]
    ends, end = [], _ENDS.size
    for found in joined:
        end += len(found)
        ends.append(end)
    return _ENDS.pack(*ends) + b"".join(joined)


def find(block: int, value: Value, offset: int, now: UnixSeconds) -> tuple[bool, InForce | None]:
    """Whether the value can tell, and the strictest that holds.

    offset: of a number that a restriction is about. Raises StoreError if the value is not what was written, or has
    none that is about the number.
    """
    try:
        is_known = False
        for first, last, measure, begins_at, until in RECORD.iter_unpack(_part(block, value, offset)):
            if not first <= offset <= last:
                continue
            is_known = True
            if measure == _ASK_ROWS:
                if now < until:
                    return False, None
            elif begins_at <= now < until:
                return True, InForce(Measure(measure), UnixSeconds(until))
        if not is_known:
            raise ValueError
    except (ValueError, struct.error):
        raise StoreError(f"restricted: what the store keeps for block {block} is damaged: restore the store") from None
    return True, None


def is_sound(block: int, value: Value) -> bool:
    """Whether each part of the value is what was written, and nothing else is in it."""
    try:
        for part in range(PARTS):
            _part(block, value, part * NUMBERS_PER_PART)
        return bool(_ENDS.unpack_from(value)[-1] == len(value))
    except (ValueError, struct.error):
        return False


def _part(block: int, value: Value, offset: int) -> Value:
    """The records of the offset's part. Raises ValueError or struct.error."""
    part = offset // NUMBERS_PER_PART
    ends = _ENDS.unpack_from(value)
    begin, end = ends[part - 1] if part else _ENDS.size, ends[part]
    records = value[begin : end - U64.size]
    if (
        not _ENDS.size <= begin <= end - U64.size <= len(value) - U64.size
        or len(records) % RECORD.size
        or _sum(block, part, records) != U64.unpack_from(value, end - U64.size)[0]
    ):
        raise ValueError
    return records


def _parts(record: Record) -> Iterator[int]:
    return iter(range(record.first // NUMBERS_PER_PART, record.last // NUMBERS_PER_PART + 1))


def _checked(block: int, part: int, records: bytes) -> bytes:
    return records + U64.pack(_sum(block, part, records))


def _sum(block: int, part: int, records: Value) -> int:
    return xxhash.xxh3_64_intdigest(records, block * PARTS + part)

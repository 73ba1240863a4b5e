"""Scrub: read every value of blocks, details and restricted, prove their checksums and the store's digest, no more.

Cheap enough for the background: the digest is summed from the content digests that the blocks carry, which
their checksums vouch for. Numbers are hashed anew only when the sums disagree; what else may be wrong
(tables, counts of details, what is lost of `restricted`, history) is for `verify`, what to do about it for `mend`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import xxhash

from lookupd.errors import StoreError
from lookupd.limits import BLOCKS_PER_WINDOW
from lookupd.store import restricted
from lookupd.store.reader import Reader
from lookupd.store.restrictions import restriction_term
from lookupd.store.schema import (
    BLOCK_BYTES,
    BLOCK_KEY,
    CHECKED_BYTES,
    DETAIL,
    ENTRIES_BYTES,
    U64,
    block_is_sound,
    format_digest,
    network_term,
    range_term,
)
from lookupd.store.verify import verify

_SUMS = struct.Struct("<QQ")
"""The end of a block: content digest, checksum."""

_MASK64: Final = (1 << 64) - 1

IsSound = Callable[[int, bytes | memoryview], bool]
"""Whether the bytes are those that were written for the block."""


class ScrubReport(msgspec.Struct):
    """What one pass found. digest: as the blocks and tables say; None if it could not be summed.

    damaged_details, damaged_restricted: blocks whose details are damaged, or what look-ups read of restrictions.
    problems: all of it in words, and what is none of these.
    """

    blocks: int = 0
    details: int = 0
    restricted: int = 0
    digest: int | None = None
    damaged_blocks: list[int] = msgspec.field(default_factory=list)
    damaged_details: list[int] = msgspec.field(default_factory=list)
    damaged_restricted: list[int] = msgspec.field(default_factory=list)
    problems: list[str] = msgspec.field(default_factory=list)

    @property
    def to_mend(self) -> list[int]:
        """Blocks that are damaged themselves, in their details, or in what look-ups read of restrictions."""
        return sorted({*self.damaged_blocks, *self.damaged_details, *self.damaged_restricted})

    @property
    def checked(self) -> int:
        """Values that were read."""
        return self.blocks + self.details + self.restricted

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def scrub(reader: Reader, advance: Callable[[int], None] = lambda count: None) -> ScrubReport:
    """One pass over the pinned state. advance: told how many values were done, of `values_of` in all."""
    scrubber = Scrubber()
    told = 0
    while (report := scrubber.step(reader, BLOCKS_PER_WINDOW)) is None:
        advance(scrubber.checked - told)
        told = scrubber.checked
    advance(report.checked - told)
    return report


def values_of(reader: Reader) -> int:
    """How many a pass over the pinned state reads."""
    return 2 * reader.state.blocks + reader.count("restricted")


class Scrubber:
    """Pass after pass in the background, a few blocks a step, over whatever state the reader has pinned then.

    A checksum speaks for its block alone, so commits between the steps do no harm; what was found damaged
    is looked at once more when the pass ends, since a commit may have mended it. The digest needs one state:
    it is summed on the way if all steps saw the same one, and otherwise by one more reading of the sums in
    the state of the last step (40 ms for 100,000 blocks). It is not judged while a block is damaged.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._finished_at: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._report = ScrubReport()
        self._state: tuple[int, int] | None = None
        self._one_state = True
        self._sum = 0
        self._next = 0
        self._to_check = [self._check_blocks, self._check_details, self._check_restricted]

    @property
    def found(self) -> ScrubReport:
        """Of the pass that is under way, so far."""
        return self._report

    @property
    def checked(self) -> int:
        """Values that the pass under way has read."""
        return self._report.checked

    @property
    def seconds_since_pass(self) -> float | None:
        """How long ago the last pass ended; None if none has."""
        return None if self._finished_at is None else self._clock() - self._finished_at

    def step(self, reader: Reader, budget: int) -> ScrubReport | None:
        """Read so many values, blocks first, in the pinned state; the report when that ended the pass.

        The next step then begins a new pass. Never raises for damage: a page of the file that LMDB cannot
        read ends the pass, and the report says so.
        """
        state = (reader.state.serial, reader.state.digest)
        self._one_state &= self._state in {None, state}
        self._state = state
        report = self._report
        try:
            while self._to_check:
                left = self._to_check[0](reader, budget)
                if left is None:
                    return None
                del self._to_check[0]
                self._next, budget = 0, left
            self._one_state &= not report.damaged_blocks  # else what was summed may be of damaged bytes
            report.damaged_blocks = _still(report.damaged_blocks, reader, "blocks", block_is_sound)
            report.damaged_details = _still(report.damaged_details, reader, "details", _details_are_sound)
            report.damaged_restricted = _still(report.damaged_restricted, reader, "restricted", restricted.is_sound)
            if not report.damaged_blocks:
                self._prove_digest(reader)
        except StoreError as error:
            report.problems.append(str(error))
        report.problems += [
            f"block {block} is damaged: numbers {block}000 to {block}999 answer `unavailable`"
            for block in report.damaged_blocks
        ]
        report.problems += [f"details of block {block} are damaged" for block in report.damaged_details]
        report.problems += [
            f"restricted: the value of block {block} is damaged: restricted numbers of it answer `unavailable`"
            for block in report.damaged_restricted
        ]
        self._begin()
        self._finished_at = self._clock()
        return report

    def _check_blocks(self, reader: Reader, budget: int) -> int | None:
        """Returns what is left of the budget when that was the last block; None if it was not."""
        # Written out, without `schema.block_is_sound`: this loop is the cost of a scrub.
        hashed, sums, sum_of = xxhash.xxh3_64_intdigest, _SUMS.unpack_from, 0
        left, ended = budget, False
        for block, value in reader.blocks(self._next):
            if not left:
                self._next = block
                break
            left -= 1
            if len(value) != BLOCK_BYTES:
                self._report.damaged_blocks.append(block)
                continue
            content, checksum = sums(value, ENTRIES_BYTES)
            if hashed(value[:CHECKED_BYTES], block) != checksum:
                self._report.damaged_blocks.append(block)
            sum_of += content
        else:
            ended = True
        self._sum += sum_of
        self._report.blocks += budget - left
        return left if ended else None

    def _check_details(self, reader: Reader, budget: int) -> int | None:
        report = self._report
        values = reader.details(self._next)
        left = self._check(values, budget, _details_are_sound, report.damaged_details)
        report.details += budget - (left or 0)
        return left

    def _check_restricted(self, reader: Reader, budget: int) -> int | None:
        report = self._report
        values = reader.restricted(self._next)
        left = self._check(values, budget, restricted.is_sound, report.damaged_restricted)
        report.restricted += budget - (left or 0)
        return left

    def _check(
        self, values: Iterator[tuple[int, memoryview]], budget: int, is_sound: IsSound, damaged: list[int]
    ) -> int | None:
        """As `_check_blocks`."""
        left = budget
        for block, value in values:
            if not left:
                self._next = block
                return None
            left -= 1
            if not is_sound(block, value):
                damaged.append(block)
        return left

    def _prove_digest(self, reader: Reader) -> None:
        if not self._one_state:
            self._sum = sum(content for _, content in contents(reader))
        self._report.digest = digest = (self._sum + tables_share(reader)) & _MASK64
        if digest != reader.state.digest:
            told = f"digest is {format_digest(digest)}, the state says {format_digest(reader.state.digest)}"
            self._report.problems += [told, *verify(reader).problems]


def contents(reader: Reader) -> Iterator[tuple[int, int]]:
    """Each block of the pinned state, and the content digest it carries, unchecked."""
    for block, value in reader.blocks():
        yield block, U64.unpack_from(value, ENTRIES_BYTES)[0] if len(value) == BLOCK_BYTES else 0


def tables_share(reader: Reader) -> int:
    """What the networks and ranges tables and the restrictions add to the store's digest. Raises StoreError."""
    records = reader.route_records()
    digest = sum(network_term(record) for record in records if record is not None and record.own)
    for prefix, route_id in reader.ranges():
        record = records[route_id] if route_id < len(records) else None
        if record is None:
            raise StoreError(f"range {prefix}: route {route_id} is missing: restore the store")
        digest += range_term(prefix, record.network_code)
    return digest + sum(map(restriction_term, reader.every_restriction()))


def _still(damaged: list[int], reader: Reader, name: str, is_sound: IsSound) -> list[int]:
    """Those that are damaged in the pinned state, too."""
    values = ((block, reader.stored(name, BLOCK_KEY.pack(block))) for block in damaged)
    return [block for block, value in values if value is not None and not is_sound(block, value)]


def _details_are_sound(block: int, value: bytes | memoryview) -> bool:
    """The checksum, and a whole number of records."""
    length = len(value) - 8
    return (
        length >= 0
        and length % DETAIL.size == 0
        and xxhash.xxh3_64_intdigest(value[:length], block) == U64.unpack_from(value, length)[0]
    )

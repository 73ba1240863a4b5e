"""What is placed on an IMSI: its own restrictions, and those of the ranges it is in, however many there are.

The ranges' ends are kept in memory for as long as the store's state lasts; the rows themselves stay in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lookupd.engine import Engine
from lookupd.errors import StoreError
from lookupd.model import Restriction
from lookupd.store.reader import Reader
from lookupd.store.restrictions import (
    IMSI_RANGE,
    KEY,
    imsi_key,
    in_force,
    of_one_imsi,
    unpack_row,
)
from lookupd.store.schema import State
from lookupd.units import restriction_fields

IMSI_DIGITS = (14, 15)
"""ITU-T E.212 has up to 15; an operator's own part of 9 or 10 behind five or six that name it."""

Range = tuple[int, int, bytes]
"""First and last as `imsi_key` has them, and the row's key."""


class ImsiView(msgspec.Struct, frozen=True):
    """The answer to one IMSI as JSON shows it; restriction: the strictest that is in force, null if none is."""

    imsi: str
    restriction: dict[str, str] | None
    serial: int
    age_seconds: int | None


def is_imsi(text: str) -> bool:
    """Whether these are an IMSI's digits."""
    return len(text) in IMSI_DIGITS and text.isascii() and text.isdigit()


class Ranges:
    """Ranges sorted by their first, with the highest last of each half below it: those that hold one are found in
    the time of a bisection, and a little for each."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = sorted(ranges)
        self._highest = [0] * len(self._ranges)
        self._fill(0, len(self._ranges))

    def _fill(self, begin: int, end: int) -> int:
        if begin == end:
            return 0
        middle = (begin + end) // 2
        below, above = self._fill(begin, middle), self._fill(middle + 1, end)
        self._highest[middle] = max(self._ranges[middle][1], below, above)
        return self._highest[middle]

    def holding(self, imsi: int) -> Iterator[bytes]:
        """Keys of those that an IMSI is in."""
        waiting = [(0, len(self._ranges))]
        while waiting:
            begin, end = waiting.pop()
            middle = (begin + end) // 2
            if begin == end or self._highest[middle] < imsi:
                continue
            waiting.append((begin, middle))
            first, last, key = self._ranges[middle]
            if first <= imsi:
                waiting.append((middle + 1, end))
                if imsi <= last:
                    yield key


class Imsis:
    """Asks a reader, pinned by whoever asks us."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._ranges = Ranges(())

    def view(self, engine: Engine, imsi: str) -> ImsiView:
        """The answer; the engine's batch has begun, and it is usable. Raises StoreError for a damaged row."""
        assert engine.reader is not None
        found = in_force(self._placed(engine.reader, imsi_key(imsi)), engine.now)
        return ImsiView(imsi, restriction_fields(found), engine.serial, engine.age_seconds)

    def _placed(self, reader: Reader, imsi: int) -> Iterator[Restriction]:
        if self._state is not reader.state:
            self._ranges = Ranges([_ends(key) for key in _range_keys(reader)])
            self._state = reader.state
        yield from of_one_imsi(reader.stored_from, imsi)
        for key in self._ranges.holding(imsi):
            value = reader.stored("restrictions", key)
            if value is None:
                raise StoreError(f"restrictions: the row {key.hex()} is missing: restore the store")
            yield unpack_row(key, value)


def _range_keys(reader: Reader) -> Iterator[bytes]:
    for key, _ in reader.stored_from("restrictions", IMSI_RANGE):
        if key[:1] != IMSI_RANGE:
            break
        yield key


def _ends(key: bytes) -> Range:
    if len(key) != KEY.size:
        raise StoreError(f"restrictions: the key {key.hex()} is damaged: restore the store")
    _, first, last, _ = KEY.unpack(key)
    return first, last, key

"""Which numbers the probe asks: of a file, or drawn from a store, ported ones and others apart."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import NamedTuple, Protocol

from lookupd.errors import ConfigError, StoreError
from lookupd.limits import (
    E164_DIGITS_MAX,
    PROBE_BLOCKS_LISTED,
    PROBE_FILE_BYTES_MAX,
    PROBE_NUMBERS_DRAWN,
    TN_DIGITS_MIN,
)
from lookupd.numbering import Plan
from lookupd.store.reader import Reader
from lookupd.store.schema import ENTRIES_BYTES, NUMBERS_PER_BLOCK, ROUTE_MASK, block_is_sound

_LINE = re.compile(rf"\+?([1-9][0-9]{{{TN_DIGITS_MIN - 1},{E164_DIGITS_MAX - 1}}})([ \t]+unported)?")


class Number(NamedTuple):
    """digits: E.164, without the plus sign. ported: as far as we know."""

    digits: str
    ported: bool


class Drawn:
    """Numbers to ask for a while."""

    def __init__(self, ported: list[str], unported: list[str], unported_share: float) -> None:
        """unported_share: of what is asked, as long as there are numbers of both kinds."""
        self.ported, self.unported = ported, unported
        self._share = unported_share

    def next(self, chance: random.Random) -> Number:
        """Any of them."""
        if self.unported and (not self.ported or chance.random() < self._share):
            return Number(chance.choice(self.unported), False)
        return Number(chance.choice(self.ported), True)


class Source(Protocol):
    """Where numbers come from; asked anew each hour."""

    def draw(self) -> Drawn:
        """Raises LookupdError if there are none."""
        ...


class FromFile:
    """A number a line; ` unported` behind those that are not ported; `#` begins a remark."""

    def __init__(self, file: Path, unported_share: float) -> None:
        self._file = file
        self._share = unported_share

    def draw(self) -> Drawn:
        """See Source: all of them."""
        try:
            with self._file.open("rb") as opened:
                text = opened.read(PROBE_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"probe.numbers: {self._file}: {error.strerror}") from None
        if len(text) > PROBE_FILE_BYTES_MAX:
            raise ConfigError(f"probe.numbers: {self._file}: over {PROBE_FILE_BYTES_MAX >> 20} MiB: fewer will do")
        found: dict[bool, list[str]] = {True: [], False: []}
        for at, line in enumerate(text.decode("ascii", "replace").splitlines(), 1):
            told = line.partition("#")[0].strip()
            if not told:
                continue
            number = _LINE.fullmatch(told)
            if number is None:
                raise ConfigError(f"probe.numbers: {self._file}:{at}: write it like +886912345678 [unported]")
            found[number[2] is None].append(number[1])
        if not found[True]:
            raise ConfigError(f"probe.numbers: {self._file}: has no ported number")
        return Drawn(found[True], found[False], self._share)


class FromStore:
    """Blocks of the store by chance, and in each a ported number and one that is not."""

    def __init__(self, path: Path, map_size: int, plan: Plan, unported_share: float, chance: random.Random) -> None:
        self._path, self._map_size = path, map_size
        self._plan = plan
        self._share = unported_share
        self._chance = chance

    def draw(self) -> Drawn:
        """See Source. The store is opened for it and closed again."""
        ported: set[str] = set()
        unported: set[str] = set()
        with Reader(self._path, map_size=self._map_size) as reader:
            for block, entries in self._blocks(reader):
                self._pick(block, entries, ported, unported)
        if not ported:
            raise StoreError(f"{self._path}: no ported number to ask was found: load a snapshot, or name probe.numbers")
        return Drawn(sorted(ported), sorted(unported), self._share)

    def _blocks(self, reader: Reader) -> list[tuple[int, bytes]]:
        """By chance, one perhaps several times, with the entries of its numbers; only sound ones."""
        if reader.state.blocks <= PROBE_BLOCKS_LISTED:
            known = [block for block, _ in itertools.islice(reader.blocks(), PROBE_BLOCKS_LISTED)]
            places = self._chance.choices(known, k=PROBE_NUMBERS_DRAWN) if known else []
        else:
            places = [self._place() for _ in range(PROBE_NUMBERS_DRAWN)]
        found = []
        for place in places:
            for block, value in itertools.islice(reader.blocks(place), 1):
                if block_is_sound(block, value):
                    found.append((block, bytes(value[:ENTRIES_BYTES])))
        return found

    def _place(self) -> int:
        """Any thousand of the plan's portable numbers; the next block that there is will do."""
        heads = [(digits, head) for digits, head, portable in self._plan.heads() if portable]
        digits, head = self._chance.choices(heads, [10 ** (digits - len(head)) for digits, head in heads])[0]
        thousands: int = 10 ** (digits - len(head)) // NUMBERS_PER_BLOCK
        return int(head) * thousands + self._chance.randrange(max(thousands, 1))

    def _pick(self, block: int, entries: bytes, ported: set[str], unported: set[str]) -> None:
        column = memoryview(entries).cast("H")
        taken = [offset for offset, entry in enumerate(column) if entry & ROUTE_MASK]
        first = block * NUMBERS_PER_BLOCK
        if taken:
            ported.add(str(first + self._chance.choice(taken)))
        offset = self._chance.randrange(NUMBERS_PER_BLOCK)
        if column[offset] == 0:
            unported.add(str(first + offset))

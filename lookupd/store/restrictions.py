"""Rows of the database `restrictions`: what authorities placed on numbers and IMSIs, and what of it is in force.

    "n" first (u64) last (u64) tag (u64)             -> a restriction of numbers: HEAD, then authority and case as
                                                        MessagePack, then the checksum of both (u64)
    "i" first (u64) last (u64) tag (u64)             -> the same of one IMSI
    "j" first (u64) last (u64) tag (u64)             -> the same of a range of IMSIs
    "r" tn // 1000 (u64) first (u64) last (u64) tag (u64)
                                                     -> nothing: a range of numbers that reaches into this block

The tag keeps those of other authorities and cases apart. A number's entry has the bit RESTRICTED as long as a row is
about it, in force or not, so a number without one costs nothing. Which row holds is told by the time alone: nothing
is written when a restriction begins or lapses. Placing and lifting are `restricting`'s, the rules are the loader's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
import xxhash

from lookupd.errors import StoreError
from lookupd.model import InForce, Measure, Restriction, Target, UnixSeconds
from lookupd.store.schema import NUMBERS_PER_BLOCK, U64, encode, mix

NUMBERS, ONE_IMSI, IMSI_RANGE, REACHES = b"n", b"i", b"j", b"r"
_ROW_NAMES: Final = frozenset({NUMBERS, ONE_IMSI, IMSI_RANGE})

KEY = struct.Struct(">cQQQ")
REACHES_KEY = struct.Struct(">cQQQQ")
_FIRST = struct.Struct(">cQ")
HEAD = struct.Struct("<BB6xQQ")
"""measure, whether it was extended, begins_at, until: what an answer needs, to be read without the rest."""

RowsFrom = Callable[[str, bytes], Iterable[tuple[bytes, bytes]]]
"""`Reader.stored_from`: the rows of a database from a key on."""

decode_restriction = msgspec.msgpack.Decoder(Restriction).decode
"""As the history keeps one."""

_decode_words = msgspec.msgpack.Decoder(tuple[str, str]).decode


# -- IMSIs -----------------------------------------------------------------------------------------------


def imsi_key(imsi: str) -> int:
    """An IMSI's digits (ITU-T E.212: 14 or 15 here) behind a 1, since they may begin with 0 and differ in length."""
    return int("1" + imsi)


def imsi_text(key: int) -> str:
    """Its digits."""
    return str(key)[1:]


# -- rows ------------------------------------------------------------------------------------------------


def tag(authority: str, case: str) -> int:
    """Tells restrictions of one target apart."""
    return xxhash.xxh3_64_intdigest(f"{authority}\0{case}".encode())


def row_key(target: Target, first: int, last: int, authority: str, case: str) -> bytes:
    """Key of a restriction's row."""
    name = NUMBERS if target is Target.NUMBER else ONE_IMSI if first == last else IMSI_RANGE
    return KEY.pack(name, first, last, tag(authority, case))


def key_of(restriction: Restriction) -> bytes:
    """The same of a restriction."""
    it = restriction
    return row_key(it.target, it.first, it.last, it.authority, it.case)


def reaches_keys(restriction: Restriction) -> Iterator[bytes]:
    """Rows that lead from each block to a range of numbers."""
    if restriction.target is Target.NUMBER and restriction.first < restriction.last:
        _, first, last, its_tag = KEY.unpack(key_of(restriction))
        for block in range(first // NUMBERS_PER_BLOCK, last // NUMBERS_PER_BLOCK + 1):
            yield REACHES_KEY.pack(REACHES, block, first, last, its_tag)


def pack_row(restriction: Restriction) -> bytes:
    """A row's value."""
    it = restriction
    packed = HEAD.pack(it.measure, it.extended, it.begins_at, it.until) + encode((it.authority, it.case))
    return packed + U64.pack(_row_sum(key_of(restriction), packed))


def unpack_row(key: bytes, value: bytes) -> Restriction:
    """Raises StoreError when it is not what was written under this key."""
    try:
        name, first, last, its_tag = KEY.unpack(key)
        packed, (checksum,) = value[:-8], U64.unpack_from(value, len(value) - 8)
        if name not in _ROW_NAMES or checksum != _row_sum(key, packed):
            raise ValueError
        measure, extended, begins_at, until = HEAD.unpack_from(packed)
        authority, case = _decode_words(packed[HEAD.size :])
        if its_tag != tag(authority, case):
            raise ValueError
        target = Target.NUMBER if name == NUMBERS else Target.IMSI
        return Restriction(target, first, last, authority, case, Measure(measure), begins_at, until, bool(extended))
    except (ValueError, struct.error, msgspec.MsgspecError):
        raise StoreError(f"restrictions: the row {key.hex()} is damaged: restore the store") from None


def _row_sum(key: bytes, packed: bytes) -> int:
    return xxhash.xxh3_64_intdigest(key + packed)


def restriction_term(restriction: Restriction) -> int:
    """What a restriction adds to the store's digest."""
    return mix(xxhash.xxh3_64_intdigest(encode(("restriction", restriction))))


def history_name(key: bytes) -> bytes:
    """Of a row in `journal_tables`, where names have no NUL: its key in hex."""
    return b"x" + key.hex().encode()


# -- reading ---------------------------------------------------------------------------------------------


def every(rows_from: RowsFrom) -> Iterator[Restriction]:
    """All of them. Raises StoreError for a damaged row."""
    for key, value in rows_from("restrictions", b""):
        if key[:1] != REACHES:
            yield unpack_row(key, value)


def of_number(rows_from: RowsFrom, tn: int) -> list[Restriction]:
    """Those that are about a number, in force or not. Raises StoreError for a damaged row."""
    found = _under(rows_from, _FIRST.pack(NUMBERS, tn))
    reaches = _FIRST.pack(REACHES, tn // NUMBERS_PER_BLOCK)
    for key, _ in rows_from("restrictions", reaches):
        if not key.startswith(reaches):
            break
        try:
            _, _, first, last, its_tag = REACHES_KEY.unpack(key)
        except struct.error:
            raise StoreError(f"restrictions: the key {key.hex()} is damaged: restore the store") from None
        if first < tn <= last:  # one that begins with the number has been found already
            row = KEY.pack(NUMBERS, first, last, its_tag)
            at = _under(rows_from, row)
            if not at:
                raise StoreError(f"restrictions: the row {row.hex()} is missing: restore the store")
            found += at
    return found


def of_imsi(rows_from: RowsFrom, imsi: int) -> list[Restriction]:
    """Those that are about an IMSI, by its key. Looks at every range: for a person; calls are for `lookupd.imsis`."""
    found = of_one_imsi(rows_from, imsi)
    for key, value in rows_from("restrictions", IMSI_RANGE):
        if key[:1] != IMSI_RANGE:
            break
        _, first, last, _ = KEY.unpack(key)
        if first > imsi:
            break
        if imsi <= last:
            found.append(unpack_row(key, value))
    return found


def of_one_imsi(rows_from: RowsFrom, imsi: int) -> list[Restriction]:
    """Those that are about it alone, in force or not."""
    return _under(rows_from, _FIRST.pack(ONE_IMSI, imsi))


def _under(rows_from: RowsFrom, start: bytes) -> list[Restriction]:
    found = []
    for key, value in rows_from("restrictions", start):
        if not key.startswith(start):
            break
        found.append(unpack_row(key, value))
    return found


def in_force(restrictions: Iterable[Restriction], now: UnixSeconds) -> InForce | None:
    """The strictest of those that hold at a moment; of several as strict, the one that holds longest."""
    strictest: tuple[Measure, int] | None = None
    for it in restrictions:
        if it.begins_at <= now < it.until:
            found = (it.measure, -it.until)
            strictest = found if strictest is None else min(strictest, found)
    return None if strictest is None else InForce(strictest[0], UnixSeconds(-strictest[1]))

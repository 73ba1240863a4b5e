"""Stores with everything in them that an answer may come from, sound or not, and the numbers to ask them for."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from lookupd.model import (
    TN,
    FeedPosition,
    Measure,
    NetworkCode,
    Restriction,
    RoutingNumber,
    Target,
    UnixSeconds,
)
from lookupd.numbering import Kind, Plan, load_plan
from lookupd.store import restricted
from lookupd.store.restrictions import key_of, pack_row, reaches_keys
from lookupd.store.schema import (
    BLOCK_KEY,
    ENTRIES_BYTES,
    META_STATE,
    NUMBERS_PER_BLOCK,
    RESTRICTED,
    ROUTE_KEY,
    U16,
    RouteRecord,
    encode,
    pack_block,
    pack_state,
    unpack_state,
)
from tests.conftest import Workbench

CONFIRMED_AT = 1_790_000_000

PLANS: dict[str, Plan] = {
    "886": load_plan("886"),
    "81": Plan(
        "81",
        "0",
        [
            Kind("mobile", True, ("70", "80", "90"), (10,)),
            Kind("free", False, ("120",), (9,)),
            Kind("geographic", True, ("3", "6"), (9,)),
        ],
    ),
    "1": Plan("1", "1", [Kind("number", True, tuple("23456789"), (10,)), Kind("premium", False, ("900",), (10,))]),
    "36": Plan("36", "06", [Kind("mobile", True, ("20", "30"), (9,)), Kind("fixed", False, ("1",), (8,))]),
    "44": load_plan("44"),  # no file comes with us: by length alone
}

# Beside those of the workbench's tables, which have the ids 1 to 4.
ROUTES: dict[int, RouteRecord] = {
    id_: RouteRecord(NetworkCode(code), None if number is None else RoutingNumber(number), operator, carrier_id, own)
    for id_, code, number, operator, carrier_id, own in (
        (10, "A", "0123456789ABCDE", "A", 1, True),
        (11, "1411", None, "中華電信股份有限公司", 999, True),
        (12, "1412", "D0412", "遠傳" * 40, 412, True),  # 240 bytes
        (13, "1413", "D0413", "x" * 300, None, False),
        (14, "1414", None, "", None, True),
        (15, "1415", "F", "n" * 31, 32_767, True),
        (16, "1416", "F0", "n" * 32, 0, True),
        (17, "ABCDEFGH", "E", "é\u0000\U0001f4de", 7, False),
        (300, "1430", "D0430", "far", 30, True),
        (0x7FFF, "1499", "D0499", "last", 499, True),
    )
}
MISSING = (9, 18, 299, 0x7FFE)
"""Route ids that no route has."""

RANGES = {
    "88693": 11,
    "886934": 12,
    "8869345": 13,
    "886934512": 9,  # its holder is missing
    "886223": 300,
    "886223456789": 14,
    "8120": 15,
    "81": 16,
    "8190": 17,
    "819012345678901": 10,
    "1": 10,
    "1212": 0x7FFF,
    "12125": 0x7FFE,
    "4420": 14,
    "442071": 12,
    "36": 11,
    "3620": 18,
    "999": 12,
    "5": 13,
}

BLOCKS = (
    886_912_345,
    886_934_512,
    886_934_513,
    886_223_456,
    886_800_123,
    88_620_123,
    81_901_234,
    813_456_789,
    819_012_345_678,
    1_212_555,
    1_900_555,
    44_207_123,
    442_071_234,
    36_201_234,
    99_999,
    12,
    999_999_999_999,
)
DAMAGED = (886_935_000, 819_099_999, 44_208_000)
WRONG_PLACE = 886_936_000
"""Its bytes are another block's."""
SHORT = 886_937_000
WITHOUT_RESTRICTED = 886_800_123


def build_stores(folder: Path, seed: int = 1) -> dict[str, Path]:
    """`rich` has everything; `wrapped` too, with a serial over 32 bits and two feeds; `bare` had no feed yet."""
    stores = {name: folder / name / "store" for name in ("rich", "wrapped", "bare")}
    for name, store in stores.items():
        store.parent.mkdir(parents=True)
        workbench = Workbench(store.parent)
        workbench.load_tables()
        if name != "bare":
            workbench.snapshot(now=CONFIRMED_AT)
            _write_more(store, random.Random(seed), wrapped=name == "wrapped")
    return stores


def copy_stores(stores: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The same data in other files, for another LMDB."""
    copies = {}
    for name, store in stores.items():
        copies[name] = folder / name
        copies[name].mkdir(parents=True)
        shutil.copyfile(store / "data.mdb", copies[name] / "data.mdb")
    return copies


def _write_more(store: Path, rng: random.Random, *, wrapped: bool) -> None:
    environment = lmdb.open(str(store), max_dbs=16, map_size=1 << 30, lib_version=0)
    databases = {
        name: environment.open_db(name)
        for name in (b"routes", b"blocks", b"ranges", b"restrictions", b"restricted", b"meta")
    }
    with environment.begin(write=True) as transaction:
        for route_id, record in ROUTES.items():
            transaction.put(ROUTE_KEY.pack(route_id), encode(record), db=databases[b"routes"])
        for prefix, route_id in RANGES.items():
            transaction.put(prefix.encode(), U16.pack(route_id), db=databases[b"ranges"])
        for block in BLOCKS:
            entries = _entries(rng)
            sound = pack_block(block, entries, rng.getrandbits(64))
            transaction.put(BLOCK_KEY.pack(block), sound, db=databases[b"blocks"])
            for key, value in _restrictions(rng, block, entries):
                transaction.put(key, value, db=databases[b"restrictions"])
        for block in BLOCKS:
            if block == WITHOUT_RESTRICTED:
                continue
            value = _restricted(rng, transaction, databases[b"restrictions"], block)
            transaction.put(BLOCK_KEY.pack(block), value, db=databases[b"restricted"])
        for block in (*DAMAGED, WRONG_PLACE, SHORT):
            value = bytearray(pack_block(block + (block == WRONG_PLACE), _entries(rng), 5))
            if block in DAMAGED:
                value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            transaction.put(
                BLOCK_KEY.pack(block), bytes(value[: 2000 if block == SHORT else None]), db=databases[b"blocks"]
            )
        if wrapped:
            state = unpack_state(transaction.get(META_STATE, b"", db=databases[b"meta"]))
            later = FeedPosition(7, "delta", "0" * 64, None, UnixSeconds(CONFIRMED_AT + 5000))
            changed = msgspec.structs.replace(state, serial=(3 << 32) + 0xFFFF_FFF0, feeds=state.feeds | {"b": later})
            transaction.put(META_STATE, pack_state(changed), db=databases[b"meta"])
    environment.close()


def _entries(rng: random.Random) -> bytes:
    """Half of the numbers not ported; every route, also missing ones; an eighth restricted."""
    ids = [1, 2, 3, 4, *ROUTES, *MISSING]
    entries = bytearray()
    for _ in range(NUMBERS_PER_BLOCK):
        route_id = rng.choice(ids) if rng.random() < 0.5 else 0
        entries += U16.pack(route_id | (RESTRICTED if rng.random() < 0.125 else 0))
    assert len(entries) == ENTRIES_BYTES
    return bytes(entries)


def _restrictions(rng: random.Random, block: int, entries: bytes) -> Iterator[tuple[bytes, bytes]]:
    """For each restricted number: in force, lapsed, not begun yet, several, in ranges; some damaged, some missing."""
    first = block * NUMBERS_PER_BLOCK
    for offset in range(NUMBERS_PER_BLOCK):
        if not U16.unpack_from(entries, 2 * offset)[0] & RESTRICTED:
            continue
        draw = rng.random()
        for case in range(0 if draw < 0.02 else rng.choice((1, 1, 2, 3))):
            begins_at = CONFIRMED_AT + rng.choice((-1000, -1000, -10, 50, 5000))
            until = begins_at + rng.choice((5, 500, 10**8, 10**8))
            span = rng.choice((0, 0, 1, 300, 2500))
            # Ranges do not hide the others.
            measure = Measure.ALERT if span > 1 else rng.choice((Measure.STOP, *Measure))
            begin = first + offset - rng.randint(0, span)
            it = Restriction(
                Target.NUMBER, begin, begin + span, "NPA", f"{offset}-{case}", measure,
                UnixSeconds(begins_at), UnixSeconds(until),
            )  # fmt: skip
            if it.last < first + offset:
                it = msgspec.structs.replace(it, first=first + offset, last=first + offset)
            value = bytearray(pack_row(it))
            if draw > 0.97:
                value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            if draw < 0.95:
                yield key_of(it), bytes(value)
            yield from ((key, b"") for key in reaches_keys(it))


def _restricted(rng: random.Random, transaction: Any, database: Any, block: int) -> bytes:
    """What the rows make; in one block of three rows are asked, in others some bits are not what they were."""

    def rows_from(_: str, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        with transaction.cursor(db=database) as cursor:
            if cursor.set_range(first):
                yield from cursor.iternext()

    records = restricted.records_of(rows_from, block)
    if block % 3 == 0:
        records.append(restricted.Record(0, NUMBERS_PER_BLOCK - 1, 0, 0, CONFIRMED_AT + rng.choice((-500, 10**6))))
    value = bytearray(restricted.pack(block, records))
    for _ in range(block % 3):
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return bytes(value)


def stored_blocks() -> list[int]:
    """Every block of the rich stores, and their neighbours."""
    all_ = {*BLOCKS, *DAMAGED, WRONG_PLACE, SHORT, 886_923_456, 886_223_450}
    return sorted(all_ | {block + 1 for block in all_} | {block - 1 for block in all_})


def some_numbers(rng: random.Random, count: int) -> list[TN]:
    """Numbers around what is stored, and anywhere."""
    blocks, prefixes = stored_blocks(), [*RANGES, "88691", "886912", "8862"]
    found = []
    for _ in range(count):
        draw = rng.random()
        if draw < 0.7:
            block = rng.choice(BLOCKS if draw < 0.6 else blocks)
            tn = block * NUMBERS_PER_BLOCK + rng.randrange(NUMBERS_PER_BLOCK)
        elif draw < 0.9:
            digits = rng.choice(prefixes)
            tn = int((digits + "".join(rng.choices("0123456789", k=15)))[: rng.randint(len(digits), 15)])
        else:
            tn = rng.randrange(10 ** rng.randint(1, 16))
        found.append(TN(tn))
    return found

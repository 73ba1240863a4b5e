"""Bulk loading with the native module and without it: the same chunks, the same stores, the same words."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
import zstandard

from loader import files
from loader.apply import apply_snapshot
from loader.files import FeedFile, identify, line_chunks
from lookupd import native_bulk
from lookupd.errors import FeedError, LookupdError
from lookupd.limits import SNAPSHOT_LINE_BYTES_MAX
from lookupd.model import UnixSeconds
from lookupd.store import bulk
from lookupd.store.writer import Writer
from tests.conftest import PLAN, UNGUARDED, Dump, Silent, Workbench, dump

pytestmark = pytest.mark.skipif(not native_bulk.available(), reason="the native module was not built")

HEADER = "tn,network_code,routing_number,donor,ported_at"
SEED = 20261122


@pytest.fixture(autouse=True)
def _small_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of a few kilobytes has chunks, and a few blocks have lots and windows."""
    monkeypatch.setattr(files, "PARSE_CHUNK_BYTES", 1000)
    monkeypatch.setattr(bulk, "BLOCKS_PER_LOT", 3)
    monkeypatch.setattr(bulk, "BLOCKS_PER_WINDOW", 5)


# -- stores ----------------------------------------------------------------------------------------------

TIMES = [
    "",
    "2026-03-01T09:00:00+08:00",
    "2026-03-01T09:00:00Z",
    "2024-02-29T23:59:59-11:30",
    "1970-01-01T00:00:01Z",
    "1999-12-31T23:59:59+00:00",
    "2106-02-07T06:28:15Z",
]


def rows(seed: int, count: int = 600) -> list[str]:
    """Rows of everyday forms and unusual ones, rising."""
    chance = random.Random(seed)
    numbers = sorted(chance.sample(range(886912000000, 886912030000), count))
    networks = ["1401", "1402", "1403"]
    return [
        ",".join(
            (
                str(number),
                chance.choice(networks),
                chance.choice(["", "", "D9", "D10", "0", "ABCDEF012345678"]),
                chance.choice(["", *networks]),
                chance.choice(TIMES),
            )
        )
        for number in numbers
    ]


def text_of(lines: list[str], header: str = HEADER, end: str = "\n") -> str:
    return end.join([header, *lines]) + end


def without_columns(lines: list[str]) -> str:
    return text_of([",".join((line.split(",")[1], line.split(",")[0])) for line in lines], "network_code,tn")


def shuffled(lines: list[str]) -> list[str]:
    lines = list(lines)
    random.Random(SEED).shuffle(lines)
    return lines


def changed(lines: list[str]) -> list[str]:
    """Some gone, some new, some with another network, and a whole block gone."""
    kept = [line for at, line in enumerate(lines) if at % 7 and not line.startswith("886912005")]
    moved = [line.replace(",1401,", ",1403,", 1) if at % 11 == 0 else line for at, line in enumerate(kept)]
    return sorted({*moved, *(f"88692200{at:04},1402,,,{TIMES[1]}" for at in range(0, 5000, 250))})


LOADS: dict[str, list[str]] = {
    "everyday": [text_of(rows(1))],
    "the same again": [text_of(rows(1)), text_of(rows(1))],
    "changed": [text_of(rows(1)), text_of(changed(rows(1)))],
    "fewer columns": [without_columns(rows(2)), text_of(rows(2)), without_columns(rows(2))],
    "not in order": [text_of(shuffled(rows(3)))],
    "carriage returns": [text_of(rows(4), end="\r\n")],
    "no last line end": [text_of(rows(5)).removesuffix("\n")],
    "one number": [text_of(rows(6)[:1])],
    "each number in a block of its own": [text_of([f"8869{at:05}123,1402,,,{TIMES[1]}" for at in range(900)])],
    "a full block": [text_of([f"886912345{at:03},1402,,,{TIMES[1]}" for at in range(1000)])],
}


def load(folder: Path, texts: list[str]) -> Dump:
    """Everything that a store holds after these snapshots."""
    folder.mkdir()
    bench = Workbench(folder)
    bench.load_tables()
    for at, text in enumerate(texts, 1):
        path = bench.publish(f"snapshot-main-{at}.csv", text, len(text.splitlines()) - 1)
        found = identify(path, "snapshot", "main")
        with Writer(bench.store) as writer:
            apply_snapshot(writer, found, PLAN, UnixSeconds(1_800_000_000 + at), Silent(), UNGUARDED)
    return dump(bench.store)


def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_bulk, "available", lambda: False)


@pytest.mark.parametrize("texts", LOADS.values(), ids=LOADS)
def test_both_paths_give_the_same_store_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    filled: list[int] = []
    fill = bulk._fill
    monkeypatch.setattr(bulk, "_fill", lambda *given: filled.append(1) or fill(*given))
    native = load(tmp_path / "native", texts)
    assert filled == [1], "the first snapshot is packed natively, and only that"
    without_native(monkeypatch)
    assert native == load(tmp_path / "numpy", texts)
    assert filled == [1]
    assert native["blocks"]


def test_damage_is_mended_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    for name in ("native", "numpy"):
        if name == "numpy":
            without_native(monkeypatch)
        load(tmp_path / name, [text_of(rows(1))])
        bench = Workbench(tmp_path / name)
        damage(bench.store)
        path = bench.publish("snapshot-main-2.csv", text_of(changed(rows(1))), len(changed(rows(1))))
        with Writer(bench.store) as writer:
            found = identify(path, "snapshot", "main")
            result = apply_snapshot(writer, found, PLAN, UnixSeconds(1_800_000_100), Silent(), UNGUARDED)
        stores.append((result, dump(bench.store)))
        assert result.mended == 4
    assert stores[0] == stores[1]


def damage(store: Path) -> None:
    """A wrong byte in a block and in another one's details; a block without details, and one that is too short."""
    environment = lmdb.open(str(store), max_dbs=16, lib_version=0)
    with environment.begin(write=True) as transaction:
        blocks, details = (environment.open_db(name, txn=transaction) for name in (b"blocks", b"details"))
        keys = [key for key, _ in transaction.cursor(db=blocks)]
        for at, handle in ((1, blocks), (2, details)):
            value = bytearray(transaction.get(keys[at], db=handle))
            value[9] ^= 1
            transaction.put(keys[at], bytes(value), db=handle)
        transaction.delete(keys[7], db=details)
        transaction.put(keys[8], transaction.get(keys[8], db=blocks)[:-1], db=blocks)
    environment.close()


def test_deltas_after_a_native_load_meet_what_they_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    for name in ("native", "numpy"):
        if name == "numpy":
            without_native(monkeypatch)
        load(tmp_path / name, [text_of(rows(1))])
        bench = Workbench(tmp_path / name)
        bench.delta({"kind": "return", "tn": rows(1)[0].split(",")[0]}, sequence=2, now=1_800_000_100)
        stores.append(dump(bench.store))
    assert stores[0] == stores[1]


def test_lot_that_cannot_be_packed_leaves_the_store_unchanged(loaded_tables: Workbench) -> None:
    before = dump(loaded_tables.store)
    path = loaded_tables.publish("snapshot-main-1.csv", text_of(rows(1)), 600)
    with Writer(loaded_tables.store) as writer, pytest.MonkeyPatch.context() as patched:
        calls: list[int] = []

        def fail_on_third(*given: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                raise LookupdError("the third lot")
            return pack(*given)

        pack: Callable[..., object] = native_bulk.pack_numbers
        patched.setattr(native_bulk, "pack_numbers", fail_on_third)
        with pytest.raises(LookupdError, match="the third lot"):
            apply_snapshot(
                writer, identify(path, "snapshot", "main"), PLAN, UnixSeconds(2_000_000_000), Silent(), UNGUARDED
            )
    assert dump(loaded_tables.store) == before


@pytest.fixture
def loaded_tables(workbench: Workbench) -> Workbench:
    workbench.load_tables()
    return workbench


@pytest.mark.parametrize(
    ("tn", "route"), [([2, 1], [1, 1]), ([1, 1], [1, 1]), ([1, 2], [1, 9]), ([1, 2], [0, 1]), ([1], [1, 1])]
)
def test_numbers_that_are_no_table_are_refused(tn: list[int], route: list[int]) -> None:
    columns = (np.array(tn, np.uint64), np.array(route, np.uint16), np.zeros(2, np.uint16), np.zeros(2, np.uint32))
    with pytest.raises(ValueError, match=r"\w"):
        native_bulk.pack_numbers(*columns, 1, np.zeros(2, np.uint64))


# -- chunks ----------------------------------------------------------------------------------------------


def chunks_of(path: Path) -> list[bytes | str]:
    """The chunks of a file, and the message if one follows them."""
    found: list[bytes | str] = []
    file = FeedFile(path, "snapshot", "main", 1, None, None, 0, None)
    try:
        with path.open("rb") as data:
            found.extend(line_chunks(file, data, SNAPSHOT_LINE_BYTES_MAX))
    except FeedError as error:
        found.append(str(error))
    return found


def expect_same_chunks(path: Path, data: bytes) -> list[bytes | str]:
    path.write_bytes(data)
    native = chunks_of(path)
    with pytest.MonkeyPatch.context() as patched:
        without_native(patched)
        here = chunks_of(path)
    if native and here and isinstance(here[-1], str):
        # Python's libraries keep back what they made along with the damage, and it may hold a line over the bound.
        assert native[-1] == here[-1] or len(native[-1]) == SNAPSHOT_LINE_BYTES_MAX + 1
        before = min(len(native), len(here)) - 1
        assert native[:before] == here[:before]
    else:
        assert native == here
    return native


def lines(seed: int) -> bytes:
    """Lines of lengths around the bounds, with every kind of end."""
    chance = random.Random(seed)
    near = [0, 1, 2, 50, 254, 255, 256, 257, 258, 259, 999, 1000, 1001, 3000]
    ends = [b"\n", b"\n", b"\n", b"\r\n", b"\r\r\n", b"\r", b"\0\n", b""]
    usual = chance.choice([near, near[:4], near[:8]])
    return b"".join(b"x" * chance.choice(usual) + chance.choice(ends) for _ in range(chance.randrange(60)))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda text: text,
    ".gz": lambda text: gzip.compress(text, mtime=0),
    ".zst": lambda text: zstandard.ZstdCompressor(write_checksum=True).compress(text),
}


@pytest.mark.parametrize("ending", PACKED)
def test_chunks_are_the_same_of_any_lines(tmp_path: Path, ending: str) -> None:
    for seed in range(300):
        expect_same_chunks(tmp_path / f"snapshot-main-1.csv{ending}", PACKED[ending](lines(seed)))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_chunks_and_message_are_the_same_of_a_file_cut_anywhere(tmp_path: Path, ending: str) -> None:
    text = text_of(rows(7, 60)).encode()
    data = PACKED[ending](text[:1500]) + PACKED[ending](b"") + PACKED[ending](text[1500:])
    whole = 0
    for length in range(len(data) + 1):
        found = expect_same_chunks(tmp_path / f"snapshot-main-1.csv{ending}", data[:length])
        whole += not found or isinstance(found[-1], bytes)
    assert whole == 4, "nothing, one member, two, three"


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_chunks_and_message_are_the_same_of_a_file_with_a_wrong_byte(tmp_path: Path, ending: str) -> None:
    data = PACKED[ending](text_of(rows(8, 200)).encode())
    chance = random.Random(SEED)
    for _ in range(300):
        damaged = bytearray(data)
        at = chance.choice([chance.randrange(len(data)), chance.randrange(30), len(data) - 1 - chance.randrange(12)])
        damaged[at] ^= 1 << chance.randrange(8)
        expect_same_chunks(tmp_path / f"snapshot-main-1.csv{ending}", bytes(damaged))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize(
    "behind", [b"x", b"\0", b"\0" * 600, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\0\0\0\0"]
)
def test_chunks_and_message_are_the_same_with_something_behind_the_data(
    tmp_path: Path, ending: str, behind: bytes
) -> None:
    data = PACKED[ending](text_of(rows(9, 100)).encode())
    expect_same_chunks(tmp_path / f"snapshot-main-1.csv{ending}", data + behind)


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("most", [999, 1000, 1001, 2500])
def test_text_that_grows_beyond_the_bound_is_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, most: int
) -> None:
    monkeypatch.setattr(files, "DECOMPRESSED_BYTES_MAX", most)
    data = PACKED[ending](text_of(rows(10, 100)).encode())
    found = expect_same_chunks(tmp_path / f"snapshot-main-1.csv{ending}", data)
    assert "grows beyond" in str(found[-1])


def test_source_that_fails_is_told_as_without_the_native_module(tmp_path: Path) -> None:
    class Failing:
        """Gives some, then fails, each time it is read from its start."""

        def __init__(self) -> None:
            self._at = 0

        def read(self, size: int = -1) -> bytes:
            self._at += 1
            if self._at > 2:
                raise OSError(5, "Input/output error")
            return b"x\n" * (size // 2)

        def tell(self) -> int:
            return self._at

        def seek(self, at: int) -> int:
            self._at = at
            return at

    file = FeedFile(tmp_path / "snapshot-main-1.csv", "snapshot", "main", 1, None, None, 0, None)
    found = []
    with pytest.raises(FeedError, match=r"truncated or damaged: \[Errno 5\] Input/output error"):
        found.extend(line_chunks(file, Failing(), SNAPSHOT_LINE_BYTES_MAX))  # type: ignore[arg-type]

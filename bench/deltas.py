"""Notices that fit a store, deltas made of them, and a copy of the store to write to. Measures nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import zstandard

from bench.dataset import COUNTRY, CREATED_AT, QUERY_SEED, Dataset
from bench.processes import ChildFailed
from loader.apply import Terms, apply_delta
from loader.feed_sync import Quiet
from loader.files import identify, write_manifest
from loader.trust import Signer
from lookupd.model import UnixSeconds
from lookupd.numbering import load_plan
from lookupd.store.reader import Reader
from lookupd.store.schema import NUMBERS_PER_BLOCK, ROUTE_MASK
from lookupd.store.writer import Writer

TMPFS = Path("/dev/shm")
STORES_OF_ROOM = 3
"""A million notices rewrite nearly every page of a small store once; with the journal beside it, three fit."""

DRAWN_PER_PORT = 8
"""Enough for different numbers that are not ported, as long as a quarter of the blocks is free."""

ACCEPTED = "bench: a measured delta"
PLAN = load_plan(COUNTRY)
TERMS = Terms(accepted=ACCEPTED)
SIGNER = Signer(bytes(range(32)), bytes(range(8)))
"""Of feeds that are signed."""


class Drawn(NamedTuple):
    """A notice as a feed writes it, its number, and whether the number was ported when it was drawn."""

    row: dict[str, str]
    tn: int
    ported: bool


class Place(NamedTuple):
    """A folder with a store to be written and the files beside it."""

    folder: Path
    is_tmpfs: bool

    @property
    def store(self) -> Path:
        """A copy of the data set's."""
        return self.folder / "store"


# -- where -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writable_place(dataset: Dataset) -> Iterator[Place]:
    """On tmpfs, or beside the data when it has no room; gone afterwards."""
    root = TMPFS if _has_room(TMPFS, dataset) else dataset.folder
    with tempfile.TemporaryDirectory(prefix="lookupd-bench-", dir=root) as name:
        place = Place(Path(name), root is TMPFS)
        shutil.copytree(dataset.store, place.store, ignore=shutil.ignore_patterns("*.lock", "lock.mdb"))
        yield place


def _has_room(root: Path, dataset: Dataset) -> bool:
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return False
    return free > STORES_OF_ROOM * (dataset.store / "data.mdb").stat().st_size + (2 << 30)


# -- notices --------------------------------------------------------------------------------------------


class Sender:
    """Who makes deltas, one after another, and puts them into the source's folder."""

    def __init__(self, folder: Path, signer: Signer | None = None, compressed: bool = False) -> None:
        """signer: None = a feed that is not signed. compressed: with zstd."""
        self.source = folder / "source"
        self._staging = folder / "staging"
        self.source.mkdir()
        self._staging.mkdir()
        self._signer, self._compressed = signer, compressed
        self._sequence = 1

    def make(self, notices: Iterable[Drawn]) -> Path:
        """The next delta with its manifest, not yet in the source."""
        self._sequence += 1
        path = self._staging / f"delta-main-{self._sequence}.ndjson{'.zst' if self._compressed else ''}"
        lines = [msgspec.json.encode(notice.row) for notice in notices]
        text = b"\n".join(lines) + b"\n"
        path.write_bytes(zstandard.compress(text) if self._compressed else text)
        write_manifest(path, len(lines), CREATED_AT)
        if self._signer is not None:
            manifest = path.with_name(path.name + ".json")
            manifest.with_name(manifest.name + ".minisig").write_text(
                self._signer.sign(manifest.read_bytes(), path.name)
            )
        return path

    def publish(self, path: Path) -> float:
        """Its files into the source, the manifest last; returns the moment after that, of perf_counter."""
        signature = [] if self._signer is None else [f"{path.name}.json.minisig"]
        for name in (path.name, *signature, path.name + ".json"):
            (path.parent / name).rename(self.source / name)
        return time.perf_counter()


def draw_notices(store: Path, count: int) -> Generator[Drawn, None, None]:
    """Notices that fit the store's state, in an order that tells nothing: the same for the same store.

    The store is open until the last is drawn, and LMDB opens it once in a process: close it, or draw all.
    """
    draw = np.random.default_rng(QUERY_SEED)
    with Reader(store) as reader:
        blocks = np.array([block for block, _ in reader.blocks()], np.int64)
        numbers = draw.choice(blocks, count) * NUMBERS_PER_BLOCK + draw.integers(0, NUMBERS_PER_BLOCK, count)
        codes = [str(route.network_code) for route in reader.routes if route is not None and route.own]
        chances = draw.integers(0, 100, count).tolist()
        parties = draw.choice(np.array(codes), (count, 2)).tolist()
        for at, (tn, chance, (recipient, donor)) in enumerate(zip(numbers.tolist(), chances, parties, strict=True)):
            ported = bool(reader.entry(tn) & ROUTE_MASK)
            row = {"tn": str(tn), "notified_at": CREATED_AT, "ref": f"N-{at}"}
            yield Drawn(row | _what(ported, chance, recipient, donor), tn, ported)


def _what(ported: bool, chance: int, recipient: str, donor: str) -> dict[str, str]:
    """Of ported numbers 40 % go home, 20 % are corrected, and the rest go to another network."""
    if ported and chance < 40:
        return {"kind": "return"}
    if ported and chance < 60:
        return {"kind": "correct", "recipient": recipient}
    return {"kind": "port", "recipient": recipient, "donor": donor}


def draw_ports(store: Path, count: int) -> list[Drawn]:
    """First ports of different numbers: each is visible when its number is ported. Raises ChildFailed."""
    drawn = (notice for notice in draw_notices(store, DRAWN_PER_PORT * count) if not notice.ported)
    found = list({notice.tn: notice for notice in drawn}.values())[:count]
    if len(found) < count:
        raise ChildFailed(f"only {len(found)} numbers are left to port: take a larger --numbers")
    return found


def apply(writer: Writer, path: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one delta, its manifest's check included."""
    started, cpu = time.perf_counter(), time.process_time()
    apply_delta(writer, identify(path, "delta", "main"), PLAN, UnixSeconds(int(time.time())), Quiet(), TERMS)
    return time.perf_counter() - started, time.process_time() - cpu

"""A made-up feed, a store loaded from it, and the numbers to ask: made once, kept under .run/bench/.

Two seeds: one makes the data, another draws the queries, so that what is asked is no copy of how it was made.
Measures nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from bench.processes import loader
from loader.files import write_manifest
from loader.generate import Generator
from lookupd.engine import Engine
from lookupd.limits import PARSE_CHUNK_BYTES
from lookupd.model import Outcome
from lookupd.numbering import Plan, load_plan
from lookupd.status import unix_now
from lookupd.store.reader import Reader
from lookupd.store.schema import ENTRIES_BYTES, FORMAT_VERSION, NUMBERS_PER_BLOCK, ROUTE_MASK

COUNTRY = "886"
SEED = 7
"""Of the generator."""

QUERY_SEED = 20_260_701
"""Of the queries."""

CHANGED_EVERY = 1000
"""Of the changed snapshot's rows, every so manyth has another network: 0.1 %."""

CREATED_AT = "2026-07-02T08:00:00+08:00"
DRAWS_PER_NUMBER_MAX = 100
ROOT = Path(".run/bench")


@dataclass(frozen=True)
class Dataset:
    """Files of one size and seed. The snapshots: the first, the same one later, and a changed one after it."""

    numbers: int
    seed: int
    folder: Path

    @property
    def feed(self) -> Path:
        """Folder of tables and snapshots."""
        return self.folder / "feed"

    @property
    def store(self) -> Path:
        """The loaded store: to be read, never written."""
        return self.folder / f"store-{FORMAT_VERSION}"

    def snapshot(self, sequence: int) -> Path:
        """1: the first. 2: the same rows. 3: 0.1 % of the rows changed."""
        return self.feed / f"snapshot-main-{sequence}.csv.zst"


@dataclass(frozen=True)
class Queries:
    """Numbers to ask, each with whether it is ported; in an order that tells nothing."""

    tn: list[int]
    ported: list[bool]

    def only(self, ported: bool) -> list[int]:
        """Those that are ported, or those that are not."""
        return [tn for tn, is_ported in zip(self.tn, self.ported, strict=True) if is_ported is ported]


def prepare(numbers: int, seed: int = SEED, root: Path = ROOT) -> Dataset:
    """The files of this size and seed, made now if they are not there. Minutes and a few GB at 20 million."""
    dataset = Dataset(numbers, seed, root / f"{numbers}-{seed}")
    dataset.folder.mkdir(parents=True, exist_ok=True)
    once(dataset.feed, lambda folder: _write_feed(dataset, folder))
    once(dataset.store, lambda folder: load_store(dataset, folder))
    return dataset


def prepare_first(numbers: int, seed: int = SEED, root: Path = ROOT) -> Dataset:
    """As `prepare`, without the later snapshots: for sizes at which they take minutes."""
    dataset = Dataset(numbers, seed, root / f"{numbers}-{seed}-first")
    dataset.folder.mkdir(parents=True, exist_ok=True)
    once(dataset.feed, lambda folder: _write_first(dataset, folder))
    once(dataset.store, lambda folder: load_store(dataset, folder))
    return dataset


def once(target: Path, make: Callable[[Path], None]) -> None:
    """Make a folder under another name and rename it when it is complete."""
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    make(part)
    part.rename(target)


# -- feed and store --------------------------------------------------------------------------------------


def _write_first(dataset: Dataset, folder: Path) -> None:
    Generator(COUNTRY, dataset.numbers, dataset.seed).write(
        folder, feed="main", compression="zst", deltas=0, notices=1, advance=lambda count: None
    )


def _write_feed(dataset: Dataset, folder: Path) -> None:
    _write_first(dataset, folder)
    first, same, changed = (folder / dataset.snapshot(sequence).name for sequence in (1, 2, 3))
    os.link(first, same)
    write_manifest(same, dataset.numbers, CREATED_AT)
    _write_changed(first, changed)
    write_manifest(changed, dataset.numbers, CREATED_AT)


def _write_changed(first: Path, changed: Path) -> None:
    """Send every CHANGED_EVERYth number back to its donor's network, which is never the one it has."""
    compressor = zstandard.ZstdCompressor(level=3)
    with changed.open("wb") as raw, compressor.stream_writer(raw) as out:
        for at, lines in _lines(first):
            start = -at % CHANGED_EVERY if at else CHANGED_EVERY  # the header stays
            for row in range(start, len(lines), CHANGED_EVERY):
                tn, network, _, donor, time = lines[row].split(b",")
                lines[row] = b",".join((tn, donor, b"", network, time))
            out.write(b"\n".join(lines) + b"\n")


def _lines(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A compressed file's lines by the chunk, each chunk with the index of its first line."""
    at, rest = 0, b""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as text:
        while piece := text.read(PARSE_CHUNK_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            yield at, lines
            at += len(lines)


def load_tables(dataset: Dataset, store: Path) -> None:
    """Networks and ranges, which a snapshot needs."""
    loader("networks", dataset.feed / "networks.csv", "--store", store)
    loader("ranges", dataset.feed / "ranges.csv", "--store", store)


def load_store(dataset: Dataset, store: Path) -> None:
    """Tables and the first snapshot."""
    load_tables(dataset, store)
    loader("snapshot", dataset.snapshot(1), "--store", store)


# -- queries ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_engine(dataset: Dataset) -> Iterator[tuple[Engine, Reader]]:
    """An engine on the dataset's store, its state pinned. LMDB opens a store once in a process: use this one."""
    engine = Engine(load_plan(COUNTRY))
    with Reader(dataset.store) as reader:
        engine.reader = reader
        engine.begin(unix_now())
        yield engine, reader


def draw_queries(engine: Engine, reader: Reader, count: int) -> Queries:
    """Half ported numbers of the store, each as likely as any other; half numbers of its ranges that are not.

    count: even. The same for the same store.
    """
    draw = np.random.default_rng(QUERY_SEED)
    ported = _draw_ported(reader, draw, count // 2)
    numbers = numbers_of_ranges(reader, draw, len(str(ported[0])))
    both = ported + _take(engine, numbers, Outcome.NOT_PORTED, count // 2)
    order = draw.permutation(count).tolist()
    return Queries([both[at] for at in order], [at < len(ported) for at in order])


def draw_not_allocated(engine: Engine, count: int) -> list[int]:
    """Numbers that the plan knows as portable and no range holds."""
    return _take(engine, _numbers_of_plan(engine.plan, np.random.default_rng(QUERY_SEED)), Outcome.NOT_ALLOCATED, count)


def _take(engine: Engine, numbers: Iterator[int], outcome: Outcome, count: int) -> list[int]:
    """The first `count` of the numbers that have this outcome."""
    drawn = itertools.islice(numbers, DRAWS_PER_NUMBER_MAX * count)
    found = list(itertools.islice((tn for tn in drawn if engine.resolve(str(tn)).outcome is outcome), count))
    if len(found) < count:
        raise ValueError(f"hardly a number is {outcome.label} here")
    return found


def _draw_ported(reader: Reader, draw: np.random.Generator, count: int) -> list[int]:
    wanted = np.sort(draw.integers(0, reader.state.ported, count))
    found: list[int] = []
    seen = 0
    for block, value in reader.blocks():
        offsets = np.flatnonzero(np.frombuffer(value[:ENTRIES_BYTES], "<u2") & np.uint16(ROUTE_MASK))
        first, end = np.searchsorted(wanted, (seen, seen + len(offsets)))
        found += (block * NUMBERS_PER_BLOCK + offsets[wanted[first:end] - seen]).tolist()
        seen += len(offsets)
    return found


def numbers_of_ranges(reader: Reader, draw: np.random.Generator, digits: int) -> Iterator[int]:
    """Endless; a range's share is its size. digits: of a whole number, since the generator makes one length."""
    prefixes = [prefix for prefix, _ in reader.ranges() if len(prefix) < digits]
    sizes = np.array([10 ** (digits - len(prefix)) for prefix in prefixes])
    ends = np.cumsum(sizes)
    while True:
        at = int(np.searchsorted(ends, draw.integers(ends[-1]), side="right"))
        yield int(prefixes[at]) * int(sizes[at]) + int(draw.integers(sizes[at]))


def _numbers_of_plan(plan: Plan, draw: np.random.Generator) -> Iterator[int]:
    """Endless; each prefix of a portable kind is as likely as any other."""
    heads = [(kind, prefix) for kind in plan.kinds if kind.portable for prefix in kind.prefixes]
    while True:
        kind, prefix = heads[draw.integers(len(heads))]
        left = kind.lengths[draw.integers(len(kind.lengths))] - len(prefix)
        yield int(plan.country_code + prefix) * 10**left + int(draw.integers(10**left))

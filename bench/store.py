"""The store's figures: bulk load, a snapshot that changes little, size, verification, start of the daemon.

Commands run as processes, as an operator runs them, on files that the page cache holds.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from bench.dataset import Dataset, load_tables
from bench.figures import Figure, Section
from bench.processes import Ran, daemon, loader
from lookupd.status import read_status, unix_now
from lookupd.store.reader import Reader

AIMED_NUMBERS = 20_000_000
LOAD_SECONDS_AIM = 40.0
HOT_BYTES_AIM = 11.0
STARTS = 3


def measure(dataset: Dataset, server_core: int) -> Section:
    """All of it, on a store of its own that is gone afterwards."""
    store = dataset.folder / "measured"
    shutil.rmtree(store, ignore_errors=True)
    load_tables(dataset, store)
    try:
        figures = _loads(dataset, store)
        figures.append(Figure("verify the whole store", loader("verify", "--store", store).seconds, "s"))
        figures.append(_start(dataset.folder, store, server_core))
    finally:
        shutil.rmtree(store)
    return Section(
        "Store",
        f"{dataset.numbers:,} ported numbers, snapshots compressed with zstd. Seconds are of whole commands.",
        figures,
    )


def _loads(dataset: Dataset, store: Path) -> list[Figure]:
    """The first snapshot, the store's size after it, then the two later snapshots."""
    first = loader("snapshot", dataset.snapshot(1), "--store", store)
    sizes = _sizes(dataset, store)
    same = loader("snapshot", dataset.snapshot(2), "--store", store)
    changed = loader("snapshot", dataset.snapshot(3), "--store", store)
    return [
        *_load_figures(dataset, first),
        *sizes,
        Figure("load the same snapshot again", same.seconds, "s"),
        Figure("load a snapshot with 0.1 % changed", changed.seconds, "s"),
        Figure("peak memory of that load", changed.rss_bytes_peak / 1e6, "MB"),
    ]


def _load_figures(dataset: Dataset, ran: Ran) -> list[Figure]:
    judged = dataset.numbers == AIMED_NUMBERS
    return [
        Figure(
            "load a snapshot into an empty store",
            ran.seconds,
            "s",
            aim=f"< {LOAD_SECONDS_AIM:g} s at 20 M",
            met=ran.seconds < LOAD_SECONDS_AIM if judged else None,
        ),
        Figure("rate of that load", dataset.numbers / ran.seconds / 1e6, "M numbers/s"),
        Figure("peak memory of that load", ran.rss_bytes_peak / 1e6, "MB"),
    ]


def _sizes(dataset: Dataset, store: Path) -> list[Figure]:
    with Reader(store) as reader:
        status = read_status(reader, unix_now())
    hot = status.bytes_per_number or 0.0
    judged = dataset.numbers == AIMED_NUMBERS
    return [
        Figure(
            "hot column a ported number",
            hot,
            "bytes",
            aim=f"<= {HOT_BYTES_AIM:g} bytes at 20 M",
            met=hot <= HOT_BYTES_AIM if judged else None,
        ),
        Figure("whole store a ported number", status.bytes / status.ported, "bytes"),
    ]


def _start(folder: Path, store: Path, core: int) -> Figure:
    seconds = []
    for _ in range(STARTS):
        with daemon(store, folder, core) as server:
            seconds.append(server.start_seconds)
    return Figure(f"daemon from start to ready, median of {STARTS}", statistics.median(seconds), "s")

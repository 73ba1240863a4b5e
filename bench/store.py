"""The store's figures: bulk load, a snapshot that changes little, size, verification, start of the daemon.

Commands run as processes, as an operator runs them, on files that the page cache holds.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.budget import Budget
from bench.dataset import Dataset, load_tables
from bench.figures import Figure, Section
from bench.processes import Ran, daemon, loader
from lookupd.status import read_status, unix_now
from lookupd.store.reader import Reader

AIMED_NUMBERS = 20_000_000
LOAD_SECONDS_AIM = 40.0
HOT_BYTES_AIM = 11.0
STARTS = 3


def measure(dataset: Dataset, many: Dataset | None, budget: Budget, server_core: int) -> Section:
    """All of it, on stores of its own that are gone afterwards. many: a larger data set, to be loaded too."""
    with _measured_store(dataset) as store:
        figures = _loads(dataset, store, budget)
        figures.append(Figure("verify the whole store", loader("verify", "--store", store).seconds, "s"))
        figures.append(_start(dataset.folder, store, server_core))
    if many is not None:
        with _measured_store(many) as store:
            figures += _many_figures(many, loader("snapshot", many.snapshot(1), "--store", store), budget)
    return Section(
        "Store",
        f"{dataset.numbers:,} ported numbers, snapshots compressed with zstd. Seconds are of whole commands.",
        figures,
    )


@contextlib.contextmanager
def _measured_store(dataset: Dataset) -> Iterator[Path]:
    """With its tables and no numbers yet."""
    store = dataset.folder / "measured"
    shutil.rmtree(store, ignore_errors=True)
    load_tables(dataset, store)
    try:
        yield store
    finally:
        shutil.rmtree(store)


def _loads(dataset: Dataset, store: Path, budget: Budget) -> list[Figure]:
    """The first snapshot, the store's size after it, then the two later snapshots."""
    first = loader("snapshot", dataset.snapshot(1), "--store", store)
    sizes = _sizes(dataset, store)
    same = loader("snapshot", dataset.snapshot(2), "--store", store)
    changed = loader("snapshot", dataset.snapshot(3), "--store", store)
    return [
        *_load_figures(dataset, first, budget),
        *sizes,
        Figure("load the same snapshot again", same.seconds, "s"),
        Figure("load a snapshot with 0.1 % changed", changed.seconds, "s"),
        Figure("peak memory of that load", changed.rss_bytes_peak / 1e6, "MB"),
    ]


def _load_figures(dataset: Dataset, ran: Ran, budget: Budget) -> list[Figure]:
    judged = dataset.numbers == AIMED_NUMBERS
    return [
        Figure(
            "load a snapshot into an empty store",
            ran.seconds,
            "s",
            aim=f"< {LOAD_SECONDS_AIM:g} s at 20 M",
            met=ran.seconds < LOAD_SECONDS_AIM if judged else None,
        ),
        _rate_figure("rate of that load", dataset, ran, budget),
        Figure("peak memory of that load", ran.rss_bytes_peak / 1e6, "MB"),
    ]


def _many_figures(many: Dataset, ran: Ran, budget: Budget) -> list[Figure]:
    return [
        Figure(f"load a snapshot of {many.numbers:,} numbers", ran.seconds, "s"),
        _rate_figure(f"rate of that load, {many.numbers:,} numbers", many, ran, budget),
        Figure(f"peak memory of that load, {many.numbers:,} numbers", ran.rss_bytes_peak / 1e6, "MB"),
    ]


def _rate_figure(name: str, dataset: Dataset, ran: Ran, budget: Budget) -> Figure:
    """The aim is for 20 million and more: below that, starting the command is a good part of it."""
    rate, aim = dataset.numbers / ran.seconds, budget.aims.bulk_load_numbers_per_second
    met = rate >= aim if dataset.numbers >= AIMED_NUMBERS else None
    return Figure(name, rate / 1e6, "M numbers/s", aim=f">= {aim / 1e6:g} M numbers/s", met=met)


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

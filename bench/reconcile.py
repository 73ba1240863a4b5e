"""How long a comparison takes: a file against the store, and two replicas against each other.

    python -m bench.reconcile --numbers 20000000

makes a feed and two stores in a folder of its own, measures, prints one JSON object, and removes them.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import zstandard

from bench.dataset import ROOT, SEED, Dataset, prepare
from bench.processes import daemon, loader

SERVER_CORE = 0
BESIDE_SECONDS = 0.002
"""Between two questions that are asked beside a comparison."""


def measure(dataset: Dataset) -> dict[str, float]:
    """Seconds of whole commands, and of comparisons of two replicas, on files that the page cache holds."""
    plain = dataset.folder / dataset.snapshot(1).with_suffix("").name
    _decompress(dataset.snapshot(1), plain)
    figures = {"numbers": float(dataset.numbers)}
    for name, command, file in (
        ("reconcile_equal_plain", "reconcile", plain),
        ("reconcile_equal_zst", "reconcile", dataset.snapshot(1)),
        ("diff_changed_zst", "diff", dataset.snapshot(3)),
    ):
        ran = loader(command, file, "--store", dataset.store)
        figures[f"{name}_seconds"] = round(ran.seconds, 2)
        figures[f"{name}_peak_mb"] = round(ran.rss_bytes_peak / 1e6)
    plain.unlink()
    return figures | _replicas(dataset)


def _replicas(dataset: Dataset) -> dict[str, float]:
    """The store against a copy of it, then against one with 0.1 % of its numbers changed."""
    other = dataset.folder / "other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(dataset.store, other, ignore=shutil.ignore_patterns("lock.mdb"))
    figures: dict[str, float] = {}
    for name in ("equal", "changed"):
        if name == "changed":
            loader("snapshot", dataset.snapshot(3), "--store", other)
        with daemon(other, dataset.folder, SERVER_CORE) as server:
            url = f"http://127.0.0.1:{server.ports['http']}"
            seconds, counts, waited = _compare_beside_others(dataset.store, url)
        figures[f"compare_{name}_seconds"] = round(seconds, 3)
        figures |= {f"compare_{name}_{what}": count for what, count in counts.items()}
        for share, quantile in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
            at = min(int(share * len(waited)), len(waited) - 1)
            figures[f"compare_{name}_beside_ms_{quantile}"] = round(1000 * sorted(waited)[at], 2)
    shutil.rmtree(other)
    return figures


def _compare_beside_others(store: Path, url: str) -> tuple[float, dict[str, float], list[float]]:
    """Seconds and counts of a comparison in a process of its own, and how long others waited meanwhile."""
    waited: list[float] = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(_compare, store, None).result()  # imports are done before the clock starts
        running = process.submit(_compare, store, url)
        while not running.done() or not waited:
            started = time.perf_counter()
            with urllib.request.urlopen(f"{url}/livez", timeout=10) as reply:
                reply.read()
            waited.append(time.perf_counter() - started)
            time.sleep(BESIDE_SECONDS)
        seconds, counts = running.result()
    return seconds, counts, waited


def _compare(store: Path, url: str | None) -> tuple[float, dict[str, float]]:
    """In the other process. url None: only be there."""
    from loader.compare import compare
    from loader.peer import Peer
    from lookupd.store.reader import Reader

    if url is None:
        return 0.0, {}
    started = time.perf_counter()
    with Reader(store) as reader:
        found = compare(reader, Peer(url))
    seconds = time.perf_counter() - started
    return seconds, {"requests": found.requests, "blocks": len(found.blocks), "numbers": len(found.numbers)}


def _decompress(source: Path, target: Path) -> None:
    with source.open("rb") as compressed, target.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(compressed, plain)


@click.command()
@click.option("--numbers", default=20_000_000, show_default=True)
@click.option("--seed", default=SEED, show_default=True)
def main(numbers: int, seed: int) -> None:
    """Measure on a made-up feed."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="reconcile-") as folder:
        click.echo(json.dumps(measure(prepare(numbers, seed, Path(folder)))))


if __name__ == "__main__":
    main()

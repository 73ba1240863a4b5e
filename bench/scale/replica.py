"""What a delta costs a replica: checked, applied, and all that `lookupd-loader sync` does with it, on a real disk.

Deltas are signed, compressed with zstd, and read from a folder: what a stream saves of that (a listing, a copy) is not
taken off.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import lmdb
import zstandard

from bench.dataset import Dataset
from bench.deltas import PLAN, SIGNER, TERMS, Place, Sender, draw_notices
from bench.processes import loader
from bench.scale.costs import Applied, ReplicaCosts, spread_of
from loader.apply import apply_checked, check_delta
from loader.feed_sync import Quiet
from loader.files import identify
from loader.fleet.wire import Envelope, encode_envelope
from loader.validate import KnownNetworks
from lookupd.model import UnixSeconds
from lookupd.store.writer import Writer

SPREAD_SIZE = 100
"""Notices of the deltas whose times make the spread."""

HEADER_BYTES = 180
"""Of a delivery beside payload and headers: the protocol's own line with subject, consumer and sizes."""

FRAMES = 1.05
"""What Ethernet, IP and TCP add to full segments."""


def measure(dataset: Dataset, sizes: Mapping[int, int]) -> ReplicaCosts:
    """sizes: how many deltas, by their notices. Each size on a copy of the store of its own. Raises ChildFailed."""
    with _copied(dataset) as place:
        idle = _sync(place)  # what the command costs when there is nothing to do
    found, spread, journal = [], [1.0], 0.0
    for size, count in sizes.items():
        print(f"scale: deltas of {size:,}", file=sys.stderr, flush=True)
        with _copied(dataset) as place:
            _publish(place, size, count)
            sync_seconds, sync_cpu = ((one - none) / count for one, none in zip(_sync(place), idle, strict=True))
        with _copied(dataset) as place:
            paths = _publish(place, size, count)
            runs = _apply(place, paths)
            journal = _journal_bytes(place.store)
            message_bytes, plain_bytes = _message_bytes(paths[-1])
        checks, cpus, walls = zip(*runs[1:], strict=True)  # the first warms up
        wall = statistics.median(walls)
        if size == SPREAD_SIZE:
            spread = spread_of([each / wall for each in walls])
        found.append(
            Applied(
                size,
                count,
                statistics.median(checks),
                statistics.median(cpus),
                wall,
                max(sync_cpu, 0.0),
                max(sync_seconds, wall),
                message_bytes,
                plain_bytes,
            )
        )
    return ReplicaCosts(dataset.numbers, found, spread, journal, _snapshot_bytes(dataset))


def _snapshot_bytes(dataset: Dataset) -> float:
    return dataset.snapshot(1).stat().st_size / dataset.numbers


@contextlib.contextmanager
def _copied(dataset: Dataset) -> Iterator[Place]:
    """Beside the data set, so that an fsync is one; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir=dataset.folder) as name:
        place = Place(Path(name).resolve(), False)
        shutil.copytree(dataset.store, place.store, ignore=shutil.ignore_patterns("*.lock", "lock.mdb"))
        (place.folder / "source").mkdir()
        (place.folder / "sync.toml").write_text(
            f'[store]\npath = "{place.store}"\n[limits]\nmoved_share = 1.0\nmoved_free = {dataset.numbers}\n'
            f'[feed.main]\nsource = "dir://{place.folder / "source"}"\n'
            f'public_key = "{SIGNER.public_key_text()}"\nacknowledge = "no"\n'
        )
        yield place


def _publish(place: Place, size: int, count: int) -> list[Path]:
    shutil.rmtree(place.folder / "source")
    sender = Sender(place.folder, SIGNER, compressed=True)
    with contextlib.closing(draw_notices(place.store, size * count)) as notices:
        made = [sender.make(itertools.islice(notices, size)) for _ in range(count)]
    for path in made:
        sender.publish(path)
    return [sender.source / path.name for path in made]


def _sync(place: Place) -> tuple[float, float]:
    """Seconds and CPU seconds of `sync --once`."""
    before = _children_cpu()
    ran = loader("sync", "--once", "--config", place.folder / "sync.toml")
    return ran.seconds, _children_cpu() - before


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _apply(place: Place, paths: list[Path]) -> list[tuple[float, float, float]]:
    """Of each delta: CPU of its check, CPU and seconds of its transaction."""
    found = []
    with Writer(place.store) as writer:
        for path in paths:
            with writer.change(UnixSeconds(int(time.time()))) as change:
                feeds, networks = change.feeds, KnownNetworks.of_records(change.routes)
            cpu = time.process_time()
            file = identify(path, "delta", "main", None, (SIGNER.public_key,))
            checked = check_delta(feeds, networks, file, PLAN, Quiet())
            check, cpu, wall = time.process_time() - cpu, time.process_time(), time.perf_counter()
            apply_checked(writer, checked, UnixSeconds(int(time.time())), Quiet(), TERMS)
            found.append((check, time.process_time() - cpu, time.perf_counter() - wall))
    return found


def _message_bytes(path: Path) -> tuple[int, int]:
    """As a relay sends it and a server delivers it; and of its data before it was compressed."""
    manifest = path.with_name(path.name + ".json").read_bytes()
    signature = path.with_name(path.name + ".json.minisig").read_bytes()
    data = path.read_bytes()
    payload, headers = encode_envelope(Envelope("main", 1, path.name, manifest, signature, data))
    size = len(payload) + sum(len(f"{name}: {value}\r\n") for name, value in headers.items()) + HEADER_BYTES
    return round(size * FRAMES), zstandard.frame_content_size(data)


def _journal_bytes(store: Path) -> float:
    """Of an entry, in whole pages."""
    with lmdb.open(str(store), readonly=True, max_dbs=16, lib_version=0) as environment:
        database = environment.open_db(b"journal", create=False)
        with environment.begin() as transaction:
            found = transaction.stat(database)
    pages = found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]
    return float(pages * found["psize"] / max(1, found["entries"]))


def sync_spread(folder: Path, count: int) -> list[float]:
    """Seconds of an fsync after a page was written, as quantiles."""
    found = []
    file = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for _ in range(count):
            os.write(file, bytes(4096))
            began = time.perf_counter()
            os.fsync(file)
            found.append(time.perf_counter() - began)
    finally:
        os.close(file)
        (folder / "fsync").unlink()
    return spread_of(found)

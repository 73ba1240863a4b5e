"""`python -m bench.scrub --numbers 20000000`: what a scrub costs, whole and in steps, as JSON.

Makes a store of its own with one number in five ported, which is gone afterwards. CPU seconds of this process
while it scrubs; the first pass also maps the pages, the median of the others is what the background pays.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from bench.machine import describe
from lookupd.model import JournalKind, NetworkCode, UnixSeconds
from lookupd.store.bulk import replace_all
from lookupd.store.change import Network
from lookupd.store.columns import Columns
from lookupd.store.reader import Reader
from lookupd.store.scrub import Scrubber, scrub
from lookupd.store.verify import verify
from lookupd.store.writer import Writer

FIRST_TN = 886_900_000_000
PORTED_EVERY = 5
NETWORKS = 6
PASSES = 5
STEP_BLOCKS = 256


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scrub", description=__doc__)
    parser.add_argument("--numbers", type=int, default=20_000_000, help="ported numbers (default: %(default)s)")
    numbers = parser.parse_args().numbers
    with tempfile.TemporaryDirectory(prefix="lookupd-scrub-") as folder:
        make_store(Path(folder), numbers)
        print(json.dumps(measure(Path(folder), numbers) | {"machine": msgspec.structs.asdict(describe())}, indent=2))


def make_store(store: Path, numbers: int) -> None:
    at = np.arange(numbers, dtype=np.uint64)
    route = (at % np.uint64(NETWORKS) + np.uint64(1)).astype(np.uint16)
    tn = np.uint64(FIRST_TN) + at * np.uint64(PORTED_EVERY)
    columns = Columns(tn, route, route[::-1].copy(), np.full(numbers, 1_700_000_000, np.uint32))
    with Writer(store) as writer, writer.change(UnixSeconds(1)) as change:
        change.put_networks([Network(NetworkCode(f"140{n}"), f"Operator {n}", None, None) for n in range(NETWORKS)])
        counts = replace_all(change, columns, 1)
        change.record(JournalKind.SNAPSHOT, counts, feed="main", sequence=1, from_empty=True)


def measure(store: Path, numbers: int) -> dict[str, object]:
    with Reader(store) as reader:
        first = cpu_seconds(lambda: scrub(reader))
        passes = [cpu_seconds(lambda: scrub(reader)) for _ in range(PASSES)]
        steps = step_seconds(reader)
        whole = cpu_seconds(lambda: verify(reader))
        report = scrub(reader)
        assert report.whole
        return {
            "numbers": numbers,
            "blocks": report.blocks,
            "details": report.details,
            "first_scrub_cpu_seconds": round(first, 3),
            "scrub_cpu_seconds": round(statistics.median(passes), 3),
            "pass_in_steps_cpu_seconds": round(sum(steps), 3),
            f"step_of_{STEP_BLOCKS}_ms_max": round(1000 * max(steps), 2),
            "verify_cpu_seconds": round(whole, 3),
            "rss_bytes_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def step_seconds(reader: Reader) -> list[float]:
    """Of each step of one pass, with a pin before it, as the background does it."""
    scrubber = Scrubber()
    seconds = []
    done = False
    while not done:
        began = time.process_time()
        reader.pin()
        done = scrubber.step(reader, STEP_BLOCKS) is not None
        seconds.append(time.process_time() - began)
    return seconds


def cpu_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()

"""Runs the timings of `test_codec` and takes their figures over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.dataset import Dataset
from bench.figures import Figure, Section
from bench.processes import pinned, run

NAMES = {
    "test_resolve_ported": "resolve a ported number",
    "test_resolve_range_holder": "resolve a number of a range holder",
    "test_resolve_not_allocated": "resolve a number not allocated",
    "test_pin": "pin the newest state",
    "test_pdb_decode": "pdb: decode a query",
    "test_pdb_encode": "pdb: encode an answer",
    "test_npq_decode_single": "npq: decode a query of one",
    "test_npq_encode_single": "npq: encode an answer of one",
    "test_npq_decode_batch": "npq: decode a query of 100",
    "test_npq_encode_batch": "npq: encode an answer of 100",
}


def measure(dataset: Dataset, core: int) -> Section:
    """All timings, in a process on one core."""
    report = dataset.folder / "codec.json"
    command = [sys.executable, "-m", "pytest", "bench/test_codec.py", "--quiet", "-p", "no:cacheprovider"]
    options = ["--benchmark-enable", "--benchmark-disable-gc", "--benchmark-warmup=on", f"--benchmark-json={report}"]
    with pinned(core):
        run([*command, *options], {"BENCH_NUMBERS": str(dataset.numbers)})
    return Section(
        "Engine and codecs",
        "One core, no socket; median of the passes over thousands of different numbers, half of them ported.",
        _figures(report),
    )


def _figures(report: Path) -> list[Figure]:
    timed = {timing["name"]: timing for timing in json.loads(report.read_text())["benchmarks"]}
    return [
        Figure(name, timed[test]["stats"]["median"] / timed[test]["extra_info"]["operations"] * 1e6, "us")
        for test, name in NAMES.items()
    ]

"""A list of numbers answered by `lookupd batch`, beside `cat` of the same file.

The whole command is measured, as a person runs it: start, look-ups, output on the disk. It has both cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench.dataset import QUERY_SEED, Dataset, draw_queries, open_engine
from bench.figures import Figure, Section, ratio_of
from bench.processes import ChildFailed
from lookupd.batch import BatchSummary

TITLE = "Lists of numbers"
AIM_SECONDS = 15.0
AIM_ROWS = 5_000_000
"""An order of the short-message platform, and how long it may take on two cores."""

LOOK_SECONDS = 0.02
"""Between two looks at its memory; what it prints, at its end, is less than a pipe holds."""

AIM_BYTES = 300_000_000
DRAWN = 200_000
"""Numbers asked, each with others of its thousand beside it."""


@dataclass(frozen=True)
class Effort:
    """How many rows, how often."""

    rounds: int
    rows: int


FULL = Effort(rounds=3, rows=AIM_ROWS)
QUICK = Effort(rounds=1, rows=200_000)


@dataclass(frozen=True)
class Run:
    """One run of the command. memory_bytes: the most it had of its own; what it maps of the store is the kernel's."""

    seconds: float
    memory_bytes: int
    summary: BatchSummary


def measure(dataset: Dataset, effort: Effort) -> list[Section]:
    """Raises ChildFailed when the command does."""
    folder = dataset.folder / "batch"
    folder.mkdir(exist_ok=True)
    try:
        given = folder / "in.csv"
        _write_list(dataset, given, effort.rows)
        runs, copies = [], []
        for _ in range(effort.rounds):
            copies.append(_copy(given, folder / "copy.csv"))
            runs.append(_answer(dataset, given, folder / "out.csv"))
        return [_section(effort, given.stat().st_size, runs, copies)]
    finally:
        shutil.rmtree(folder)


def _write_list(dataset: Dataset, path: Path, rows: int) -> None:
    """Names beside numbers as people write them: half of them ported, drawn over the whole store."""
    with open_engine(dataset) as (engine, reader):
        drawn = np.array(draw_queries(engine, reader, DRAWN).tn, dtype=np.int64)
    draw = np.random.default_rng(QUERY_SEED)
    with path.open("w", encoding="utf-8") as file:
        file.write("編號,姓名,手機\n")
        for first in range(0, rows, DRAWN):
            numbers = drawn // 1000 * 1000 + draw.integers(0, 1000, DRAWN)
            for row, tn in enumerate(numbers[: rows - first].tolist(), first + 1):
                file.write(f"{row},王小明,0{tn - 886 * 10 ** (len(str(tn)) - 3)}\n")


def _copy(given: Path, out: Path) -> float:
    started = time.monotonic()
    with out.open("wb") as file:
        subprocess.run(["cat", str(given)], stdout=file, check=True)
        os.fsync(file.fileno())
    seconds = time.monotonic() - started
    out.unlink()
    return seconds


def _answer(dataset: Dataset, given: Path, out: Path) -> Run:
    command = [sys.executable, "-m", "lookupd.cli", "batch", given, "-o", out, "--store", dataset.store, "--json"]
    started = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    memory = 0
    while process.poll() is None:
        memory = max(memory, _own_memory(process.pid))
        time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - started
    with process.stdout:
        told = process.stdout.read()
    if process.returncode != 0:
        raise ChildFailed(f"lookupd batch ended with {process.returncode}")
    out.unlink()
    return Run(seconds, memory, msgspec.json.decode(told, type=BatchSummary))


def _own_memory(pid: int) -> int:
    """Bytes that are no file's; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def _section(effort: Effort, size: int, runs: list[Run], copies: list[float]) -> Section:
    seconds = sorted(run.seconds for run in runs)[len(runs) // 2]
    memory = max(run.memory_bytes for run in runs)
    judged = effort.rows == AIM_ROWS
    summary = runs[0].summary
    note = (
        f"{effort.rows:,} rows of {size / 1e6:,.0f} MB, {effort.rounds} rounds, each beside `cat` of the list to the "
        f"disk. Outcomes: {', '.join(f'{name} {count:,}' for name, count in summary.outcomes.items())}; "
        f"{summary.duplicates:,} repeats."
    )
    ratio = ratio_of([run.seconds for run in runs], copies, "cat")
    figures = [
        Figure(
            "lookupd batch",
            seconds,
            "s",
            ratio,
            f"under {AIM_SECONDS:g} s for {AIM_ROWS:,} rows",
            seconds < AIM_SECONDS if judged else None,
        ),
        Figure("a row", seconds / effort.rows * 1e6, "us/row"),
        Figure(
            "memory",
            memory / 1e6,
            "MB",
            None,
            f"under {AIM_BYTES // 10**6} MB",
            memory < AIM_BYTES if judged else None,
        ),
    ]
    return Section(TITLE, note, figures)

"""The half-yearly report over a journal of a million notices, beside a bare walk of the same journal.

The whole command is measured, as a person runs it: start, walk, files on the disk.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.dataset import Dataset
from bench.deltas import Sender, apply, draw_notices, writable_place
from bench.figures import Figure, Section, ratio_of
from bench.processes import ChildFailed, Ran, loader
from lookupd.store.reader import Reader
from lookupd.store.writer import Writer

TITLE = "The half-yearly report"
NOTICES_PER_DELTA = 1000
HALF_YEAR_NOTICES = 5_000_000
"""Of a busy half-year: some 27,000 a day."""


class Effort(msgspec.Struct, frozen=True):
    """How many notices the journal has, how often the report is made."""

    rounds: int
    notices: int


FULL = Effort(rounds=3, notices=1_000_000)
QUICK = Effort(rounds=1, notices=50_000)


def measure(dataset: Dataset, effort: Effort) -> list[Section]:
    """Raises ChildFailed when the command does."""
    with writable_place(dataset) as place:
        sender = Sender(place.folder)
        notices = list(draw_notices(place.store, effort.notices))
        with Writer(place.store) as writer:
            for first in range(0, len(notices), NOTICES_PER_DELTA):
                apply(writer, sender.make(notices[first : first + NOTICES_PER_DELTA]))
        now = datetime.now(UTC)
        period = f"{now.year}H{1 if now.month <= 6 else 2}"
        runs, walks = [], []
        for _ in range(effort.rounds):
            walks.append(_walk(place.store))
            runs.append(_report(place.store, period, place.folder / "out"))
        return [_section(effort, runs, walks)]


def _walk(store: Path) -> float:
    """Every entry read and decoded, and nothing done with it."""
    started = time.monotonic()
    with Reader(store) as reader:
        for _ in reader.journal():
            pass
    return time.monotonic() - started


def _report(store: Path, period: str, out: Path) -> Ran:
    ran = loader("report", "half-year", "--period", period, "--store", store, "--out", out)
    if not (out / f"half-year-{period}-trace.csv").exists():
        raise ChildFailed("the report wrote no trace")
    return ran


def _section(effort: Effort, runs: list[Ran], walks: list[float]) -> Section:
    seconds = sorted(run.seconds for run in runs)[len(runs) // 2]
    memory = max(run.rss_bytes_peak for run in runs)
    note = (
        f"`report half-year` with its files over {effort.notices:,} notices in deltas of {NOTICES_PER_DELTA:,}, "
        f"{effort.rounds} rounds, each beside a walk that reads every entry and does nothing."
    )
    figures = [
        Figure("report half-year", seconds, "s", ratio_of([run.seconds for run in runs], walks, "walk")),
        Figure("a notice", seconds / effort.notices * 1e6, "us"),
        Figure(f"at this pace, {HALF_YEAR_NOTICES:,}", seconds / effort.notices * HALF_YEAR_NOTICES, "s"),
        Figure("memory, with what it maps of the store", memory / 1e6, "MB"),
    ]
    return Section(TITLE, note, figures)

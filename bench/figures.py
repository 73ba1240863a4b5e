"""What a measurement says: figures with ratios and aims, as a table and as records.

Takes no measurement itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

YARDSTICK = "echo"
"""What a ratio is to, when it is to the bare echo asked the same."""

QUERY_UNIT = "us/query"
"""Server CPU of one query, or of one number where a message has many."""

HEADINGS = ("figure", "value", "ratio", "spread", "aim", "")


class Ratio(msgspec.Struct, frozen=True):
    """Something of ours to the same of the yardstick beside it: median of the rounds, lowest and highest round."""

    median: float
    low: float
    high: float
    to: str


class Figure(msgspec.Struct, frozen=True):
    """One line of the table. met: None when there is no aim, or it is not for this size.

    line, bound: of the budget, when the ratio is held to one.
    """

    name: str
    value: float
    unit: str
    ratio: Ratio | None = None
    aim: str = ""
    met: bool | None = None
    line: str = ""
    bound: float | None = None


class Section(msgspec.Struct, frozen=True):
    """Figures that belong together, and what they mean."""

    title: str
    note: str
    figures: list[Figure]


def ratio_of(ours: Sequence[float], theirs: Sequence[float], to: str) -> Ratio:
    """ours, theirs: one value a round, measured side by side."""
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(rounds), min(rounds), max(rounds), to)


def cells(figure: Figure) -> tuple[str, ...]:
    """A line of the table, as HEADINGS."""
    ratio = figure.ratio
    return (
        figure.name,
        f"{_number(figure.value)} {figure.unit}",
        f"{_number(ratio.median)} x {ratio.to}" if ratio else "",
        f"{_number(ratio.low)} - {_number(ratio.high)}" if ratio else "",
        figure.aim,
        {None: "not judged" if figure.aim else "", True: "met", False: "missed"}[figure.met],
    )


def _number(value: float) -> str:
    """Three digits that count, and no powers of ten: money a query is small."""
    if abs(value) >= 100 or value == 0:
        return f"{value:.0f}"
    if abs(value) >= 1e-4:
        return f"{value:.3g}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def table(sections: list[Section]) -> str:
    """All sections as Markdown, whose columns stand in line on a terminal too."""
    rows = {section.title: [cells(figure) for figure in section.figures] for section in sections}
    every = [HEADINGS, *(row for section in rows.values() for row in section)]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEADINGS))]
    lines: list[str] = []
    for section in sections:
        lines += [f"## {section.title}", "", section.note, ""]
        lines += [_line(HEADINGS, widths), "|".join(["", *("-" * (width + 2) for width in widths), ""])]
        lines += [*(_line(row, widths) for row in rows[section.title]), ""]
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

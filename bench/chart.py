"""The chart of one run: what a query costs, by case, beside the echo, other servers and the budget.

Draws what the figures say and measures nothing. matplotlib is loaded when there is something to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import QUERY_UNIT, YARDSTICK, Section

WIDTH_INCHES = 9.0
INCHES_PER_BAR = 0.34
INCHES_AROUND = 1.5
COLOURS = {"native": "#1f6f8b", "python": "#8fb8c6", "other": "#b9b4a7"}
LABELS = {"native": "lookupd, native engine", "python": "lookupd, Python path", "other": "other servers"}
BUDGET_COLOUR = "#c8553d"


@dataclass(frozen=True)
class Bar:
    """One case: its cost as a ratio to the echo, with the range over the rounds. bound: what the budget allows."""

    name: str
    kind: str
    median: float
    low: float
    high: float
    us: float
    bound: float | None


def bars_of(sections: Iterable[Section]) -> list[Bar]:
    """Every figure that is a ratio to the echo: ours first, then others, each in the table's order."""
    found = [
        Bar(figure.name, _kind(figure.name), ratio.median, ratio.low, ratio.high, figure.value, figure.bound)
        for section in sections
        for figure in section.figures
        if (ratio := figure.ratio) is not None and ratio.to == YARDSTICK and figure.unit == QUERY_UNIT
    ]
    return sorted(found, key=lambda bar: list(COLOURS).index(bar.kind))


def _kind(name: str) -> str:
    if name.startswith(("pdb", "npq")):
        return "native"
    return "python" if name.startswith("Python") else "other"


def draw(bars: Sequence[Bar], title: str, path: Path) -> None:
    """Write an SVG: the same bytes for the same bars and the same matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(
        {"svg.hashsalt": "lookupd", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    ):
        canvas = Canvas(figsize=(WIDTH_INCHES, INCHES_AROUND + INCHES_PER_BAR * len(bars)), layout="constrained")
        axes = canvas.add_subplot()
        places = range(len(bars))
        axes.barh(
            places,
            [bar.median for bar in bars],
            height=0.66,
            color=[COLOURS[bar.kind] for bar in bars],
            xerr=[[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]],
            error_kw={"ecolor": "#555555", "elinewidth": 0.8, "capsize": 2},
        )
        for place, bar in zip(places, bars, strict=True):
            end, text = max(bar.high, bar.bound or 0.0), f"{bar.median:.2f}  ({bar.us:.3g} µs)"
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center", bbox=behind)
            if bar.bound is not None:
                axes.plot([bar.bound, bar.bound], [place - 0.42, place + 0.42], color=BUDGET_COLOUR, linewidth=2.2)
        axes.axvline(1.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks(places, [bar.name for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max([1.0, *(bar.high for bar in bars), *(bar.bound or 0.0 for bar in bars)]))
        axes.set_xlabel("server CPU of a query, x bare echo (dashed): median and range of the rounds")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(handles=_legend(bars), loc="best", frameon=False)
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _legend(bars: Sequence[Bar]) -> list[object]:
    """What the colours say; only those that are there."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = [kind for kind in COLOURS if any(bar.kind == kind for bar in bars)]
    found: list[object] = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in kinds]
    if any(bar.bound is not None for bar in bars):
        found.append(Line2D([], [], color=BUDGET_COLOUR, linewidth=2.2, label="budget"))
    return found

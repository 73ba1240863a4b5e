"""The chart of a run: publish to visible on the slowest replica, by the number of replicas.

Draws what the figures say and measures nothing. matplotlib is loaded when there is something to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.scale.tables import REPLICAS, SERVERS, Simulated

COLOURS = ("#1f6f8b", "#c8553d", "#7a9e3b", "#8a6fb0")
STYLES = {1: "--", 3: "-"}


def draw(simulated: Sequence[Simulated], title: str, path: Path) -> None:
    """Write an SVG: the same bytes for the same figures and the same matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(
        {"svg.hashsalt": "lookupd", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    ):
        canvas = Canvas(figsize=(9.0, 4.6), layout="constrained")
        axes = canvas.add_subplot()
        for country, colour in zip(simulated, COLOURS, strict=False):
            for servers in SERVERS:
                delays = [each for each in country.delays if each.servers == servers]
                replicas = [each.replicas for each in delays]
                name = f"{country.country}, {servers} server{'s' * (servers > 1)}"
                axes.plot(
                    replicas,
                    [each.slowest_p99 for each in delays],
                    label=f"{name}, p99",
                    color=colour,
                    linestyle=STYLES[servers],
                    linewidth=1.8,
                )
                axes.plot(
                    replicas,
                    [each.slowest_p50 for each in delays],
                    label=f"{name}, p50",
                    color=colour,
                    linestyle=STYLES[servers],
                    linewidth=0.9,
                )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xticks(REPLICAS, [f"{count:,}" for count in REPLICAS], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("replicas")
        axes.set_ylabel("ms from publish to visible on the slowest replica")
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(loc="upper left", frameon=False, fontsize=8)
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})

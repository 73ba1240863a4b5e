"""The budget of a query: read from `budget.toml`, held against figures, and its price.

Measures nothing: `native` and the others bring figures that name the line they are held to.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from bench.figures import QUERY_UNIT, YARDSTICK, Figure, Section

BUDGET = Path(__file__).with_name("budget.toml")
QUERIES = 1_000_000
"""What a price is told for."""

Positive = Annotated[float, msgspec.Meta(gt=0)]


class BudgetError(Exception):
    """The budget cannot be used. The message names the file and what is wrong in it."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: every key is needed, none is unknown."""


class QueryBudget(_Table, frozen=True):
    """Server CPU of a query, x echo."""

    many_sockets: Positive
    one_socket: Positive
    segmented: Positive


class GrowthBudget(_Table, frozen=True):
    """Server CPU of a query at many numbers, x the same at few."""

    segmented: Positive


class MeanwhileBudget(_Table, frozen=True):
    """p99 of a lookup while so many notices a second are applied, x idle."""

    notices_per_second: Annotated[int, msgspec.Meta(gt=0)]
    lookup_p99: Positive


class Aims(_Table, frozen=True):
    """What is reported as met or missed."""

    bulk_load_numbers_per_second: Positive
    batch_numbers_per_second: Positive
    enum_of_better_peer: Positive
    enum_memory_of_peer: Positive
    sip_of_kamailio: Positive


class Price(_Table, frozen=True):
    """Of one core for an hour."""

    currency: Annotated[str, msgspec.Meta(min_length=1, max_length=8)]
    price_per_core_hour: Positive

    def money(self, cpu_seconds: float) -> float:
        """What so much CPU costs, in the currency."""
        return cpu_seconds / 3600 * self.price_per_core_hour


class Budget(_Table, frozen=True):
    """The whole file."""

    query: QueryBudget
    growth: GrowthBudget
    meanwhile: MeanwhileBudget
    aims: Aims
    cost: Price

    def lines(self) -> dict[str, float]:
        """What is judged: the name of each line, and the ratio that it allows."""
        return {
            "query.many_sockets": self.query.many_sockets,
            "query.one_socket": self.query.one_socket,
            "query.segmented": self.query.segmented,
            "growth.segmented": self.growth.segmented,
            "meanwhile.lookup_p99": self.meanwhile.lookup_p99,
        }

    def hold(self, figure: Figure, line: str, is_sound: bool = True) -> Figure:
        """The figure with its bound and whether it keeps it. is_sound False: measured, but not fit to be judged."""
        bound, ratio = self.lines()[line], figure.ratio
        assert ratio is not None
        met = ratio.median <= bound if is_sound else None
        aim = f"<= {bound:g} x {ratio.to}"
        return msgspec.structs.replace(figure, aim=aim, met=met, line=line, bound=bound)


class Verdict(msgspec.Struct, frozen=True):
    """A line of the budget and what became of it. measured: None when nothing was; is_sound: fit to be judged."""

    line: str
    allowed: float
    measured: float | None = None
    is_sound: bool = False

    @property
    def is_kept(self) -> bool:
        """What was not measured, or not soundly, is not kept."""
        return self.measured is not None and self.is_sound and self.measured <= self.allowed

    def __str__(self) -> str:
        if self.measured is None:
            return f"{self.line}: not measured, {self.allowed:g} allowed"
        if not self.is_sound:
            return f"{self.line}: {self.measured:.4g} is not fit to be judged, {self.allowed:g} allowed: measure again"
        return f"{self.line}: {self.measured:.4g}, {self.allowed:g} allowed: {'kept' if self.is_kept else 'OVER'}"


def read_budget(path: Path = BUDGET) -> Budget:
    """Raises BudgetError when the file cannot be read, is no TOML, lacks a key or has one that is not known."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Budget)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BudgetError(f"{path}: {error}") from None


def judge(budget: Budget, sections: Iterable[Section]) -> list[Verdict]:
    """Every line of the budget, in the file's order, against the figure that was held to it."""
    held = {
        figure.line: (figure.ratio.median, figure.met is not None)
        for section in sections
        for figure in section.figures
        if figure.line and figure.ratio is not None
    }
    return [Verdict(line, allowed, *held.get(line, ())) for line, allowed in budget.lines().items()]


def cost_section(budget: Budget, figures: Iterable[Figure]) -> Section:
    """CPU and money of QUERIES queries, for each figure in us a query that stands against the echo."""
    price = budget.cost
    found: list[Figure] = []
    for figure in figures:
        if figure.ratio is None or figure.ratio.to != YARDSTICK or figure.unit != QUERY_UNIT:
            continue
        cpu_seconds = figure.value * QUERIES / 1e6
        found += [
            Figure(f"{figure.name}, CPU", cpu_seconds, "s"),
            Figure(f"{figure.name}, money", price.money(cpu_seconds), price.currency),
        ]
    return Section(
        f"Cost of {QUERIES:,} queries",
        f"Server CPU, and its price at {price.price_per_core_hour:g} {price.currency} for an hour of a core "
        f"(`bench/budget.toml`). A core that does nothing else is paid for while it waits, too.",
        found,
    )

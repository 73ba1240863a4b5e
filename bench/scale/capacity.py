"""Queries, memory and disk: how many cores and replicas a country needs, from the results of `python -m bench`.

Says nothing of the feed: that is simulated in `fleet`.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from bench.figures import Figure, Section
from bench.scale.demand import Country, Demand

RESULTS = Path(__file__).parents[1] / "results"

MANY, ONE = "64 sockets, one in flight each", "one socket, 128 in flight"

DIALECTS = {
    "pdb": (f"pdb, {MANY}", f"pdb, {ONE}"),
    "npq": (f"npq, {MANY}", f"npq, {ONE}"),
    "ENUM": (f"enum, {MANY}", f"enum, {ONE}"),
    "SIP": (f"sip, {MANY}", f"sip, {ONE}"),
    "pdb, Python path": (f"Python path, pdb, {MANY}", f"Python path, pdb, {ONE}"),
    "ENUM, Python path": (f"Python path, enum, {MANY}", f"Python path, enum, {ONE}"),
    "SIP, Python path": (f"Python path, sip, {MANY}", f"Python path, sip, {ONE}"),
}
"""Figures of a query's CPU: no two replies of the first can be joined, those of the second are."""

BATCH = "npq over TCP, 1,000 numbers a frame, a number"
MEMORY = "memory a number, ours, from 1,000,000 to 100,000,000 numbers"
HOT = "of that, what queries read, at 100,000,000 numbers"
OWN_MEMORY = "memory of the daemon's own"
START = "daemon from start to ready"
STORE_BYTES = "whole store a ported number"
LOAD_RATE = "rate of that load"
OF_QUERIES = (*(name for pair in DIALECTS.values() for name in pair), BATCH, MEMORY, HOT, OWN_MEMORY, START)
OF_STORE = (STORE_BYTES, LOAD_RATE)


class CapacityError(Exception):
    """A result file cannot be used. The message names the file and what is missing in it."""


class _Kept(msgspec.Struct, frozen=True):
    """The part of a result file that is looked at."""

    sections: list[Section]


class Capacity(msgspec.Struct, frozen=True):
    """A country's queries and its store. cores: that answer the busiest seconds, at the share of a core that may be
    used. replicas: hosts for that and one more, two at least. Bytes are of one replica."""

    country: str
    dips_per_second: float
    batch_per_second: float
    cores: dict[str, float]
    batch_cores: float
    replicas: int
    busy_share: float
    ported: int
    memory_bytes: float
    hot_bytes: float
    disk_bytes: float
    journal_bytes: float


def read_figures(demand: Demand, results: Path = RESULTS) -> dict[str, float]:
    """Every figure that is needed, by its name. Raises CapacityError."""
    queries = _figures(results / f"{demand.results.queries}.json", OF_QUERIES)
    return queries | _figures(results / f"{demand.results.store}.json", OF_STORE)


def _figures(path: Path, names: tuple[str, ...]) -> dict[str, float]:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except OSError as error:
        raise CapacityError(f"{path.name}: {error.strerror}: name another in [results]") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CapacityError(f"{path.name}: {error}") from None
    found: dict[str, Figure] = {figure.name: figure for section in kept.sections for figure in section.figures}
    missing = [name for name in names if name not in found]
    if missing:
        raise CapacityError(f"{path.name}: no figure {missing[0]!r}: run `python -m bench` and name its result")
    return {name: found[name].value for name in names}


def per_core(figures: dict[str, float], name: str, share: float) -> float:
    """Queries a second of a core that is used to this share; the figure is in us/query."""
    return share * 1e6 / figures[name]


def capacity_of(country: Country, demand: Demand, figures: dict[str, float], journal_bytes: float) -> Capacity:
    """Of one country, all its queries in one dialect. Cores of the worst way to ask: nothing can be joined."""
    share = demand.reserve.used_share
    dips, batch = country.dips_per_second, country.batch_per_second
    cores = {dialect: dips / per_core(figures, many, share) for dialect, (many, _) in DIALECTS.items()}
    batch_cores = batch / per_core(figures, BATCH, share)
    native = max(value for dialect, value in cores.items() if "Python" not in dialect) + batch_cores
    replicas = max(2, math.ceil(native / demand.host.query_cores) + 1)
    journal = country.journal_entries * journal_bytes
    return Capacity(
        country.name,
        dips,
        batch,
        cores,
        batch_cores,
        replicas,
        native * share / (replicas * demand.host.query_cores),
        country.ported,
        figures[OWN_MEMORY] * 1e6 + country.ported * figures[MEMORY],
        country.ported * figures[HOT],
        country.ported * figures[STORE_BYTES] + journal,
        journal,
    )

"""`python -m bench`: measure everything on this machine, print one table, keep it with commit, machine and a chart.

Aims are said to be met or missed and no more; what `budget.toml` bounds is judged: exit code 1 when it is not kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench import batch, chart, codec, dialects, exchange, load, native, noc, pace, peers, reports, restrictions, store
from bench.budget import Budget, BudgetError, Verdict, cost_section, judge, read_budget
from bench.dataset import QUERY_SEED, SEED, Dataset, prepare, prepare_first
from bench.figures import Section, table
from bench.machine import Machine, describe
from bench.processes import ChildFailed
from lookupd.errors import LookupdError

QUICK_NUMBERS = 1_000_000
RESULTS = Path(__file__).parent / "results"
PARTS = ("store", "codec", "servers", "budget", "dialects", "exchange", "noc", "restrictions", "batch", "reports")
HUNDRED_MILLION = 100_000_000
CHARTED = (native.COST_TITLE, peers.TITLE, *dialects.TITLES)


class Result(msgspec.Struct, frozen=True):
    """One run. seed: of the data; query_seed: of what was asked; verdicts: on the budget, if that was measured."""

    date: str
    quick: bool
    numbers: int
    seed: int
    query_seed: int
    machine: Machine
    sections: list[Section]
    verdicts: list[Verdict] = []


@dataclass(frozen=True)
class Asked:
    """What a run is to do. many: the store that growth is measured on, None for the run's own."""

    dataset: Dataset
    many: Dataset | None
    quick: bool
    parts: Sequence[str]
    budget: Budget
    server_core: int
    client_core: int


@click.command()
@click.option("--numbers", type=click.IntRange(1000, HUNDRED_MILLION), help="Ported numbers.  [default: 20 million]")
@click.option("--seed", default=SEED, show_default=True, help="Of the data.")
@click.option("--quick", is_flag=True, help=f"Fewer rounds, and {QUICK_NUMBERS:,} numbers unless named: for trying.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="This part, or these.  [default: all]")
@click.option("--hundred-million", is_flag=True, help="Load and ask 100 million numbers too: minutes and 8 GB more.")
@click.option("--no-judge", is_flag=True, help="Exit code 0 even over the budget.")
def main(
    numbers: int | None, seed: int, quick: bool, only: tuple[str, ...], hundred_million: bool, no_judge: bool
) -> None:
    """Measure store, engine, codecs, servers, the query's cost and the exchange; results go to bench/results/.

    The cost of a query is held to bench/budget.toml. Redis, Knot DNS, NSD and Kamailio are measured beside it where
    they are installed (Debian: redis-server, knot, nsd, dnsperf, kamailio).

    \b
    Example: python -m bench --numbers 20000000
             python -m bench --only budget --quick
    """
    try:
        budget = read_budget()
        numbers = numbers or (QUICK_NUMBERS if quick else store.AIMED_NUMBERS)
        result = measure(numbers, seed, quick, only or PARTS, budget, hundred_million)
    except (BudgetError, ChildFailed, LookupdError, load.WrongAnswer) as error:
        raise click.ClickException(str(error)) from None
    text = report(result)
    click.echo(text)
    _keep(result, text, only)
    if not no_judge and not all(verdict.is_kept for verdict in result.verdicts):
        over = "\n".join(str(verdict) for verdict in result.verdicts if not verdict.is_kept)
        raise click.ClickException(f"the budget is not kept:\n{over}")


def _keep(result: Result, text: str, only: tuple[str, ...]) -> None:
    """As JSON, Markdown and a chart; a quick run, or one of some parts, never takes the place of a whole one."""
    RESULTS.mkdir(exist_ok=True)
    name = "-".join([result.date, result.machine.commit, *(["quick"] if result.quick else []), *only])
    for ending, content in (("md", text.encode()), ("json", msgspec.json.format(msgspec.json.encode(result)))):
        (RESULTS / f"{name}.{ending}").write_bytes(content + b"\n")
    bars = chart.bars_of(section for section in result.sections if section.title in CHARTED)
    if bars:
        title = f"A query's cost: {result.numbers:,} numbers, {result.machine.cpu}, {result.machine.commit}"
        chart.draw(bars, title, RESULTS / f"{name}.svg")
    click.echo(f"kept as bench/results/{name}.md, .json{' and .svg' if bars else ''}", err=True)


def measure(
    numbers: int, seed: int, quick: bool, parts: Sequence[str], budget: Budget, hundred_million: bool = False
) -> Result:
    """The parts: all take ten minutes at 20 million numbers, more when the data is made first."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _tell("one core only: server and client share it, so the CPU figures hold but the latencies do not")
    machine = describe()
    _tell(f"data: {numbers:,} numbers, seed {seed}")
    dataset = prepare(numbers, seed)
    many = None
    if hundred_million:
        _tell(f"data: {HUNDRED_MILLION:,} numbers, seed {seed}")
        many = prepare_first(HUNDRED_MILLION, seed)
    asked = Asked(dataset, many, quick, parts, budget, cores[0], cores[-1])
    sections: list[Section] = []
    for name, run in _measured(asked).items():
        if name in parts:
            _tell(name)
            sections += run()
    verdicts = judge(budget, sections) if "budget" in parts else []
    date = datetime.now(UTC).date().isoformat()
    return Result(date, quick, numbers, seed, QUERY_SEED, machine, sections, verdicts)


def _measured(asked: Asked) -> dict[str, Callable[[], list[Section]]]:
    """How each part is measured, by its name."""
    data, quick, server, client = asked.dataset, asked.quick, asked.server_core, asked.client_core
    return {
        "store": lambda: [store.measure(data, asked.many, asked.budget, server)],
        "codec": lambda: [codec.measure(data, client)],
        "servers": lambda: load.measure(data, load.QUICK if quick else load.FULL, server, client),
        "budget": lambda: _measure_budget(asked),
        "dialects": lambda: _measure_dialects(asked),
        "exchange": lambda: [exchange.measure(data, exchange.QUICK if quick else exchange.FULL, server, client)],
        "noc": lambda: noc.measure(data, noc.QUICK if quick else noc.FULL, server, client),
        "restrictions": lambda: restrictions.measure(
            data, restrictions.QUICK if quick else restrictions.FULL, server, client
        ),
        "batch": lambda: batch.measure(data, batch.QUICK if quick else batch.FULL),
        "reports": lambda: reports.measure(data, reports.QUICK if quick else reports.FULL),
    }


def _measure_budget(asked: Asked) -> list[Section]:
    """The cost of a query and what stands beside it. Raises ChildFailed where the native engine is not built."""
    cores = (asked.server_core, asked.client_core)
    stores, budget, quick = _stores(asked), asked.budget, asked.quick
    sections = native.measure(stores, native.QUICK if quick else native.FULL, budget, *cores)
    _tell("budget: other servers")
    sections.append(peers.measure(asked.dataset, stores.small, peers.QUICK if quick else peers.FULL, budget, *cores))
    sections.append(cost_section(budget, [figure for section in sections for figure in section.figures]))
    _tell("budget: lookups while notices are applied")
    sections.append(pace.measure(asked.dataset, pace.QUICK if quick else pace.FULL, budget, *cores))
    return sections


def _stores(asked: Asked) -> native.Stores:
    small = prepare(native.SMALL_NUMBERS, asked.dataset.seed)
    return native.Stores(asked.dataset, small, asked.many or asked.dataset)


def _measure_dialects(asked: Asked) -> list[Section]:
    effort = dialects.QUICK if asked.quick else dialects.FULL
    return dialects.measure(_stores(asked), effort, asked.budget, asked.server_core, asked.client_core)


def report(result: Result) -> str:
    """The whole result as Markdown."""
    machine = result.machine
    lines = [
        f"# Measured {result.date} at {machine.commit}",
        "",
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, Python {machine.python}, "
        f"LMDB {machine.lmdb}, uvloop {machine.uvloop}; {result.numbers:,} ported numbers, seed {result.seed}, "
        f"queries drawn with seed {result.query_seed}" + ("; quick run" if result.quick else "") + ".",
        "",
        table(result.sections),
        *_verdict_lines(result.verdicts),
    ]
    return "\n".join(lines).rstrip()


def _verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    return ["## Budget", "", *(f"- {verdict}" for verdict in verdicts)]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

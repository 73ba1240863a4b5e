"""`python -m bench.scale`: measure what a delta costs, simulate a fleet, compute a country's machines, keep it all.

What is assumed is in `demand.toml`; with `--demand` and `--table` somebody else's assumptions meet the costs that are
kept, and nothing is measured.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench.dataset import SEED, prepare
from bench.machine import describe
from bench.processes import ChildFailed
from bench.scale import chart, engine, replica
from bench.scale.capacity import RESULTS, CapacityError, capacity_of, read_figures
from bench.scale.costs import Costs
from bench.scale.demand import DEMAND, Country, Demand, DemandError, read_demand
from bench.scale.fleet import SEED as DRAW_SEED
from bench.scale.fleet import catch_up, delays
from bench.scale.tables import AWAY, MANY, REPLICAS, SERVERS, Result, Simulated, tables
from lookupd.errors import LookupdError

ENDING = "-scale"


class Effort(msgspec.Struct, frozen=True):
    """How much is measured. sizes: deltas by their notices; messages, consumers: of the engine."""

    numbers: int
    sizes: dict[int, int]
    messages: int
    consumers: int


FULL = Effort(1_000_000, {1: 200, 10: 100, 100: 100, 1000: 30, 10_000: 10}, 400, 100)
QUICK = Effort(200_000, {1: 40, 100: 30, 1000: 8}, 100, 30)
MESSAGE_BYTES = (2_000, 20_000)


@click.command()
@click.option("--table", "only_table", is_flag=True, help="Print the newest kept run's tables; measure nothing.")
@click.option(
    "--demand", type=click.Path(path_type=Path), default=DEMAND, help="Other assumptions, in a file like demand.toml."
)
@click.option("--quick", is_flag=True, help="A small store and few messages, not kept: for trying.")
def main(only_table: bool, demand: Path, quick: bool) -> None:
    """How a fleet of 2 to 1,000 replicas follows a busy day, and how many machines a country needs.

    Needs nats-server (Debian: nats-server) to measure the engine. Takes five minutes; results go to bench/results/.

    \b
    Example: python -m bench.scale
             python -m bench.scale --table
             python -m bench.scale --demand my-country.toml --table
    """
    try:
        if only_table:
            kept = read_newest()
            result = kept if demand == DEMAND else compute(read_demand(demand), kept)
        else:
            result = measure(read_demand(demand), QUICK if quick else FULL, quick)
    except (CapacityError, ChildFailed, DemandError, LookupdError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(report(result))
    if not only_table and not quick:
        _keep(result)


def measure(demand: Demand, effort: Effort, quick: bool) -> Result:
    """Everything. Raises ChildFailed, CapacityError."""
    figures = read_figures(demand)
    dataset = prepare(effort.numbers, SEED)
    costs = Costs(
        replica.measure(dataset, effort.sizes),
        engine.measure(dataset.folder, MESSAGE_BYTES, effort.messages, effort.consumers),
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(now, quick, DRAW_SEED, describe(), demand, costs, figures, [], [])
    return compute(demand, result)


def compute(demand: Demand, kept: Result) -> Result:
    """These assumptions with those costs. Raises CapacityError."""
    figures = kept.figures if demand.results == kept.demand.results else read_figures(demand)
    print("scale: simulate", file=sys.stderr, flush=True)
    return msgspec.structs.replace(
        kept,
        demand=demand,
        figures=figures,
        capacities=[
            capacity_of(country, demand, figures, kept.costs.replica.journal_bytes) for country in demand.countries
        ],
        simulated=[simulate(country, demand, kept.costs) for country in demand.countries],
    )


def simulate(country: Country, demand: Demand, costs: Costs) -> Simulated:
    """Delays by the number of replicas, and what it takes to catch up."""
    feed, network = demand.feed, demand.network
    return Simulated(
        country.name,
        [delay for servers in SERVERS for delay in delays(country, feed, network, costs, REPLICAS, servers)],
        [catch_up(country, feed, network, costs, MANY, max(SERVERS), seconds) for seconds in AWAY.values()],
    )


def read_newest(results: Path = RESULTS) -> Result:
    """The run that was made last. Raises CapacityError."""
    found: list[Result] = []
    for path in results.glob(f"*{ENDING}.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Result))
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise CapacityError(f"{path.name}: {error}: take it away, or measure anew") from None
    if not found:
        raise CapacityError("no run is kept: make one with `python -m bench.scale`")
    return max(found, key=lambda result: result.made_at)


def report(result: Result) -> str:
    """The whole run as Markdown."""
    machine, costs = result.machine, result.costs
    head = (
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, Python {machine.python}, LMDB {machine.lmdb}; "
        f"a store of {costs.replica.numbers:,} numbers on the data set's file system; nats-server "
        f"{costs.engine.version}, {costs.engine.consumers} consumers; drawn with seed {result.seed}"
    )
    parts = [f"## {name}\n\n{text}\n" for name, text in tables(result).items()]
    return "\n".join([f"# Scale, measured {result.made_at[:10]} at {machine.commit}\n", f"{head}.\n", *parts]).rstrip()


def _keep(result: Result) -> None:
    """As JSON, Markdown and a chart."""
    RESULTS.mkdir(exist_ok=True)
    name = f"{result.made_at[:10]}-{result.machine.commit}{ENDING}"
    (RESULTS / f"{name}.md").write_text(report(result) + "\n")
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    chart.draw(result.simulated, f"Publish to visible, simulated; {result.machine.commit}", RESULTS / f"{name}.svg")
    click.echo(f"kept as bench/results/{name}.md, .json and .svg", err=True)


if __name__ == "__main__":
    main()
